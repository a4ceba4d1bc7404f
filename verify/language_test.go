package verify

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/sigstore/sigstoretest"
	"github.com/cosentry/cosentry/verify/trust"
)

// world is a node with a sigstore instance of its own, known to policies as trust root "test".
type world struct {
	*sigstoretest.Sigstore
	t      testing.TB
	dir    string // of secrets and configmaps
	keeper *trust.Keeper
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{Sigstore: sigstoretest.New(t), t: t, dir: t.TempDir()}
	file := w.write("root.json", string(w.TrustedRoot()))
	var err error
	w.keeper, err = trust.New(trust.Options{Dir: w.dir, Roots: []trust.RootFile{{Name: "test", Path: file}}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) write(name, content string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// verifier has the documents in force with what they refer to.
func (w *world) verifier(o Options, docs ...string) *Verifier {
	w.t.Helper()
	v, err := New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	v.now = w.Now
	w.resolve(v, docs...)
	return v
}

func (w *world) resolve(v *Verifier, docs ...string) {
	w.t.Helper()
	set := setOf(w.t, docs...)
	v.SetPolicies(set, w.keeper.Resolve(set))
}

// keyless is an authority by the usual identity; extra are its further lines.
func keyless(name string, extra ...string) string {
	return keylessBy(name, fmt.Sprintf("issuer: %s, subject: %s", sigstoretest.Issuer, sigstoretest.Subject), extra...)
}

func keylessBy(name, identity string, extra ...string) string {
	y := "  - name: " + name + "\n    keyless: {url: \"https://fulcio.example\", trustRootRef: test, identities: [{" + identity + "}]}\n"
	for _, e := range extra {
		y += "    " + e + "\n"
	}
	return y
}

const testLog = "ctlog: {trustRootRef: test}"

// cue is an attestation that is asked for, with a rule if there is one.
func asks(name, predicateType, rule string) string {
	a := fmt.Sprintf("{name: %s, predicateType: %q", name, predicateType)
	if rule != "" {
		a += fmt.Sprintf(", policy: {type: cue, data: %q}", rule)
	}
	return "attestations: [" + a + "}]"
}

// demanding is a policy's rule that certain authorities pass. To name them in CUE is not enough.
func demanding(authorities ...string) string {
	rule := "import \"list\"\nauthorityMatches: {...}\npassed: [for name, _ in authorityMatches {name}]\nif len(passed) > 0 {\n"
	for i, a := range authorities {
		rule += fmt.Sprintf("\tneed%d: list.Contains(passed, %q) & true\n", i, a)
	}
	return fmt.Sprintf("  policy: {type: cue, data: %q}\n", rule+"}")
}

const predicate = "https://scan.example/v1"

func TestTheLanguageIsJudged(t *testing.T) {
	w := newWorld(t)
	proved := sigstoretest.By{Log: true}
	key := sigstoretest.By{Key: keyOfKind("P-256")}
	stranger := sigstoretest.By{Log: true, Certificate: sigstoretest.Certificate{Subject: "other@team.example"}}
	found := func(material ...any) *evidence.Evidence {
		ev := &evidence.Evidence{Repository: testRepository, Digest: appDigest}
		for _, m := range material {
			switch m := m.(type) {
			case evidence.Signature:
				if m.Base64Signature == "" {
					ev.Attestations = append(ev.Attestations, m)
				} else {
					ev.Signatures = append(ev.Signatures, m)
				}
			case evidence.Bundle:
				ev.Bundles = append(ev.Bundles, m)
			case map[string][]byte:
				ev.Configs = m
			}
		}
		return ev
	}
	clean, dirty := map[string]any{"high": 0}, map[string]any{"high": 3}
	scan := asks("scan", predicate, `predicate: high: 0`)
	byRelease := keyAuthority("release-key", []string{"P-256"})
	both := policyDoc("signed", "enforce", keyless("people", testLog), byRelease) +
		demanding("people", "release-key")
	loose := policyDoc("signed", "enforce", keyless("people", testLog), byRelease) +
		"  policy: {type: cue, data: 'authorityMatches: {people: _, \"release-key\": _}'}\n"
	withMeta := policyDoc("signed", "enforce", byRelease) + "  policy: {type: cue, includeObjectMeta: true, includeTypeMeta: true, data: 'metadata: namespace: \"prod\"\n\n    typemeta: kind: \"Pod\"'}\n"
	withConfig := policyDoc("signed", "enforce", byRelease) + "  policy: {type: cue, fetchConfigFile: true, data: 'config: [string]: config: User: \"65532\"'}\n"
	prod := &policy.Pod{Namespace: "prod", Name: "web", UID: "1", Labels: map[string]string{"app": "web"}}
	config := func(user string) map[string][]byte {
		return map[string][]byte{"linux/amd64": []byte(`{"os":"linux","architecture":"amd64","config":{"User":"` + user + `"}}`)}
	}

	for _, c := range []struct {
		name     string
		doc      string
		material []any
		pod      *policy.Pod
		allowed  bool
		words    string
	}{
		{"keyless, classic", policyDoc("signed", "enforce", keyless("people", testLog)), []any{w.Signature(appDigest, proved)}, nil, true, ""},
		{"keyless, bundle", policyDoc("signed", "enforce", keyless("people", testLog)), []any{w.Bundle(appDigest, proved)}, nil, true, ""},
		{"keyless by expressions", policyDoc("signed", "enforce", keylessBy("people", `issuerRegExp: "^https://issuer\\.example$", subjectRegExp: "@team\\.example$"`, testLog)), []any{w.Bundle(appDigest, proved)}, nil, true, ""},
		{"another identity", policyDoc("signed", "enforce", keyless("people", testLog)), []any{w.Bundle(appDigest, stranger)}, nil, false, "other@team.example"},
		{"for another image", policyDoc("signed", "enforce", keyless("people", testLog)), []any{w.Bundle(otherDigest, proved), w.Signature(otherDigest, proved)}, nil, false, "another image"},
		{"by another instance", policyDoc("signed", "enforce", keyless("people", testLog)), []any{sigstoretest.New(t).Bundle(appDigest, proved)}, nil, false, `no signature by authority "people"`},
		{"without proof of a log", policyDoc("signed", "enforce", keyless("people", testLog)), []any{w.Signature(appDigest, sigstoretest.By{}), w.Bundle(appDigest, sigstoretest.By{Timestamp: true})}, nil, false, "log"},
		{"no log wanted, a timestamp", policyDoc("signed", "enforce", keyless("people", "ctlog: {}", "rfc3161timestamp: {trustRootRef: test}")), []any{w.Signature(appDigest, sigstoretest.By{Timestamp: true})}, nil, true, ""},
		{"no log wanted, no timestamp", policyDoc("signed", "enforce", keyless("people", "ctlog: {}", "rfc3161timestamp: {trustRootRef: test}")), []any{w.Signature(appDigest, sigstoretest.By{})}, nil, false, "timestamp"},
		{"a key, and a log wanted", policyDoc("signed", "enforce", keyAuthority("release-key", []string{"P-256"}, testLog)), []any{w.Signature(appDigest, sigstoretest.By{Key: key.Key, Log: true})}, nil, true, ""},
		{"a key, and no proof", policyDoc("signed", "enforce", keyAuthority("release-key", []string{"P-256"}, testLog)), []any{w.Signature(appDigest, key)}, nil, false, "log"},
		{"a trust root that nobody has", policyDoc("signed", "enforce", keyless("people", "ctlog: {trustRootRef: nowhere}")), []any{w.Bundle(appDigest, proved)}, nil, false, `trust root "nowhere"`},

		{"an attestation that its rule accepts", policyDoc("signed", "enforce", keyless("people", testLog, scan)), []any{w.AttestationBundle(appDigest, predicate, clean, proved)}, nil, true, ""},
		{"the same, classic", policyDoc("signed", "enforce", keyless("people", testLog, scan)), []any{w.Attestation(appDigest, predicate, clean, proved)}, nil, true, ""},
		{"an attestation that its rule refuses", policyDoc("signed", "enforce", keyless("people", testLog, scan)), []any{w.AttestationBundle(appDigest, predicate, dirty, proved)}, nil, false, `attestation "scan"`},
		{"one of two is accepted", policyDoc("signed", "enforce", keyless("people", testLog, scan)), []any{w.AttestationBundle(appDigest, predicate, dirty, proved), w.AttestationBundle(appDigest, predicate, clean, proved)}, nil, true, ""},
		{"none of the type", policyDoc("signed", "enforce", keyless("people", testLog, asks("scan", predicate, ""))), []any{w.AttestationBundle(appDigest, "https://other.example/v1", clean, proved)}, nil, false, "none of type"},
		{"a signature is no attestation", policyDoc("signed", "enforce", keyless("people", testLog, asks("scan", predicate, ""))), []any{w.Bundle(appDigest, proved), w.Signature(appDigest, proved)}, nil, false, "no attestation"},
		{"an attestation is no signature", policyDoc("signed", "enforce", keyless("people", testLog)), []any{w.AttestationBundle(appDigest, predicate, clean, proved)}, nil, false, "no signature"},
		{"an attestation by a stranger", policyDoc("signed", "enforce", keyless("people", testLog, scan)), []any{w.AttestationBundle(appDigest, predicate, clean, stranger)}, nil, false, "no attestation"},
		{"an attestation of another image", policyDoc("signed", "enforce", keyless("people", testLog, scan)), []any{w.AttestationBundle(otherDigest, predicate, clean, proved)}, nil, false, "no attestation"},
		{"an attestation by key", policyDoc("signed", "enforce", keyAuthority("release-key", []string{"P-256"}, scan)), []any{w.Attestation(appDigest, predicate, clean, key)}, nil, true, ""},
		{"a rule that is not there", policyDoc("signed", "enforce", keyAuthority("release-key", []string{"P-256"}, `attestations: [{name: scan, predicateType: "`+predicate+`", policy: {type: cue, configMapRef: {namespace: x, name: y, key: z}}}]`)), []any{w.Attestation(appDigest, predicate, clean, key)}, nil, false, "its rule cannot be had"},

		{"a rule over authorities that all pass", both, []any{w.Bundle(appDigest, proved), w.Bundle(appDigest, key)}, nil, true, ""},
		{"a rule over authorities of which one fails", both, []any{w.Bundle(appDigest, proved)}, nil, false, "does not accept"},
		{"a rule that only names them, as in policy-controller", loose, []any{w.Bundle(appDigest, proved)}, nil, true, ""},
		{"a rule does not save what nobody signed", both, nil, nil, false, "no signature"},
		{"a rule over the pod", withMeta, []any{w.Bundle(appDigest, key)}, prod, true, ""},
		{"a rule over another pod", withMeta, []any{w.Bundle(appDigest, key)}, &policy.Pod{Namespace: "dev"}, false, "does not accept"},
		{"a rule over a pod that is not known", withMeta, []any{w.Bundle(appDigest, key)}, nil, false, "not known which pod"},
		{"a rule over config files", withConfig, []any{w.Bundle(appDigest, key), config("65532")}, nil, true, ""},
		{"a rule over other config files", withConfig, []any{w.Bundle(appDigest, key), config("0")}, nil, false, "does not accept"},
		{"a rule over config files that are not there", withConfig, []any{w.Bundle(appDigest, key)}, nil, false, "config files"},
		{"a rule of a policy that would pass statically", policyDoc("signed", "enforce", staticAuthority("pass", ""), keyless("people", testLog)) + demanding("people"), nil, nil, false, "does not accept"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := w.verifier(testOptions(holding(found(c.material...))), c.doc)
			s := appSubject()
			s.Pod = c.pod
			checkDecision(t, verdictOn(t, v, s), c.allowed, c.words)
			checkDecision(t, verdictOn(t, v, s), c.allowed, c.words) // the same from the cache
		})
	}
}

// asked is a source that answers by repository and writes down what it was asked.
type asked struct {
	questions []evidence.Question
	at        map[string]*evidence.Evidence
}

func (a *asked) Fetch(_ context.Context, q evidence.Question) (*evidence.Evidence, error) {
	a.questions = append(a.questions, q)
	ev := &evidence.Evidence{Repository: q.Repository, Digest: q.Digest, TagPrefix: q.TagPrefix}
	if there := a.at[q.TagPrefix+q.Repository]; there != nil {
		ev.Signatures = there.Signatures
	}
	return ev, nil
}

const otherPlace = "ghcr.io/signatures/all"

func sourced(extra string) string {
	return policyDoc("signed", "enforce", keyAuthority("release-key", []string{"P-256"}, "source: [{oci: "+otherPlace+extra+"}]"))
}

func TestSignaturesAreLookedForWhereThePolicySays(t *testing.T) {
	w := newWorld(t)
	w.write("secrets/shop/reader/.dockerconfigjson", `{"auths":{"ghcr.io":{"username":"reader","password":"secret"}}}`)
	signed := found(classicFor("P-256", appDigest))
	secret := evidence.Credentials{Username: "puller", Password: "of the image"}
	for _, c := range []struct {
		name        string
		doc         string
		at          map[string]*evidence.Evidence
		pod         *policy.Pod
		allowed     bool
		credentials []string
	}{
		{"in another repository", sourced(""), map[string]*evidence.Evidence{otherPlace: signed}, nil, true, nil},
		{"beside the image does not count then", sourced(""), map[string]*evidence.Evidence{testRepository: signed}, nil, false, nil},
		{"under a prefix", sourced(", tagPrefix: v2-"), map[string]*evidence.Evidence{"v2-" + otherPlace: signed}, nil, true, nil},
		{"with a secret of the pod's namespace", sourced(", signaturePullSecrets: [{name: reader}]"), map[string]*evidence.Evidence{otherPlace: signed}, &policy.Pod{Namespace: "shop"}, true, []string{"reader"}},
		{"not with one of another namespace", sourced(", signaturePullSecrets: [{name: reader}]"), map[string]*evidence.Evidence{otherPlace: signed}, &policy.Pod{Namespace: "other"}, true, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			src := &asked{at: c.at}
			s := appSubject()
			s.Pod, s.Credentials = c.pod, secret
			v := w.verifier(testOptions(src), c.doc)
			got, err := v.Verify(t.Context(), s)
			if err == nil && got.Allowed != c.allowed || err != nil && c.allowed {
				t.Fatalf("%+v, %v", got, err)
			}
			if len(src.questions) != 1 || src.questions[0].Repository != otherPlace {
				t.Fatalf("asked %+v", src.questions)
			}
			var users []string
			for _, cred := range src.questions[0].Credentials {
				users = append(users, cred.Username)
			}
			if fmt.Sprint(users) != fmt.Sprint(c.credentials) {
				t.Errorf("asked as %v, want %v: the image's credentials are not for another registry", users, c.credentials)
			}
		})
	}
}

// What no policy asks for costs no request.
func TestOnlyWhatIsNeededIsAskedFor(t *testing.T) {
	w := newWorld(t)
	rule := "  policy: {type: cue, fetchConfigFile: true, data: 'config: _'}\n"
	for name, c := range map[string]struct {
		doc  string
		want []evidence.Question
	}{
		"a static pass":    {policyDoc("p", "enforce", staticAuthority("pass", ""), keyless("k")), nil},
		"a static fail":    {policyDoc("p", "enforce", staticAuthority("fail", "")), nil},
		"no policy for it": {policyFor("other.example/**", "p", "enforce", keyless("k")), nil},
		"one policy for it and one not": {policyDoc("p", "enforce", keyless("k")) + "---\n" + policyFor("other.example/**", "q", "enforce",
			keyless("k", "source: [{oci: "+otherPlace+"}]", asks("a", predicate, ""), "ctlog: {url: \"https://rekor.example\", trustRootRef: test}")), []evidence.Question{{}}},
		"signatures":                 {policyDoc("p", "enforce", keyless("k"), keyless("l")), []evidence.Question{{}}},
		"attestations":               {policyDoc("p", "enforce", keyless("k"), keyless("l", asks("a", predicate, ""))), []evidence.Question{{Attestations: true}}},
		"config files":               {policyDoc("p", "enforce", keyless("k")) + rule, []evidence.Question{{Config: true}}},
		"a static pass under a rule": {policyDoc("p", "enforce", staticAuthority("pass", ""), keyless("k")) + rule, []evidence.Question{{Config: true}}},
	} {
		src := &asked{}
		v := w.verifier(testOptions(src), c.doc)
		_, _ = v.Verify(t.Context(), appSubject())
		var got []evidence.Question
		for _, q := range src.questions {
			got = append(got, evidence.Question{Attestations: q.Attestations, Config: q.Config})
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: asked %+v, want %+v", name, got, c.want)
		}
	}
}
