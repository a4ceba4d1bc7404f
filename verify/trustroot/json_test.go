package trustroot

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/verify/limits"
)

func TestFromJSONReadsATrustedRoot(t *testing.T) {
	s := newSigstore(t)
	data := trustedRoot(t)
	got, err := FromJSON(data)
	r := accepted(t, got, err)
	if len(r.RekorLogs()) == 0 || len(r.FulcioCertificateAuthorities()) == 0 || len(r.CTLogs()) == 0 || len(r.TimestampingAuthorities()) == 0 {
		t.Error("something is missing")
	}
	if !r.Expires.IsZero() {
		t.Errorf("a file expires at %v", r.Expires)
	}
	// cosign trusted-root create without arguments makes one that trusts nobody.
	got, err = FromJSON([]byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`))
	if empty := accepted(t, got, err); len(empty.FulcioCertificateAuthorities()) != 0 {
		t.Error("an empty root trusts somebody")
	}
	other, err := FromKeys(keysOf(t, s))
	if accepted(t, other, err).Revision == r.Revision {
		t.Error("two roots have one revision")
	}
}

// What spaces and order of fields do not change is the same root.
func TestFromJSONRevisionIsThatOfTheContent(t *testing.T) {
	data := trustedRoot(t)
	var spaced bytes.Buffer
	if err := json.Indent(&spaced, data, " ", "\t"); err != nil {
		t.Fatal(err)
	}
	a, err := FromJSON(data)
	accepted(t, a, err)
	b, err := FromJSON(spaced.Bytes())
	if accepted(t, b, err).Revision != a.Revision {
		t.Error("spaces make another root")
	}
	c, err := FromJSON(trustedRoot(t))
	if accepted(t, c, err).Revision == a.Revision {
		t.Error("other authorities have the same revision")
	}
}

func TestFromJSONRefuses(t *testing.T) {
	good := trustedRoot(t)
	change := func(f func(m map[string]any)) []byte {
		var m map[string]any
		if err := json.Unmarshal(good, &m); err != nil {
			t.Fatal(err)
		}
		f(m)
		data, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	first := func(m map[string]any, list string) map[string]any { return m[list].([]any)[0].(map[string]any) }
	for _, c := range []struct {
		name string
		data []byte
		why  string
	}{
		{"nothing", nil, "not a trusted_root.json"},
		{"no JSON", []byte("\x1b[31mroot\n"), "not a trusted_root.json"},
		{"half a file", good[:len(good)/2], "not a trusted_root.json"},
		{"another document", []byte(`{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json"}`), "media type"},
		{"no media type", change(func(m map[string]any) { delete(m, "mediaType") }), "media type"},
		{"a field that this reader does not know", change(func(m map[string]any) { m["unless"] = "x" }), "unless"},
		{"a log without key", change(func(m map[string]any) { delete(first(m, "tlogs"), "publicKey") }), "public key"},
		{"a log without ID", change(func(m map[string]any) { delete(first(m, "ctlogs"), "logId") }), "log ID"},
		{"an authority without chain", change(func(m map[string]any) { delete(first(m, "certificateAuthorities"), "certChain") }), "cert chain"},
		{"an authority that is null", change(func(m map[string]any) { m["certificateAuthorities"] = []any{nil} }), "null"},
		{"a timestamp authority without root", change(func(m map[string]any) {
			chain := first(m, "timestampAuthorities")["certChain"].(map[string]any)
			chain["certificates"] = chain["certificates"].([]any)[:1]
		}), "no root certificate"},
		{"certificates without end", change(func(m map[string]any) {
			m["certificateAuthorities"] = slices.Repeat(m["certificateAuthorities"].([]any), 200)
		}), "certificates of a trust root"},
		{"elements without end", []byte("[" + strings.Repeat("{},", 70000) + "{}]"), "elements"},
		{"bytes without end", bytes.Repeat([]byte(" "), int(limits.TrustedRoot.Max())+1), "size of a trusted root"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := FromJSON(c.data)
			refused(t, r, err, c.why)
		})
	}
}

func TestABoundThatIsMetIsNamed(t *testing.T) {
	_, err := FromJSON(make([]byte, limits.TrustedRoot.Max()+1))
	var exceeded *limits.Exceeded
	if !errors.As(err, &exceeded) || exceeded.Bound != limits.TrustedRoot {
		t.Errorf("got %v", err)
	}
}
