package evidence

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/limits"
)

// attestedEvidence is about an image that really is there: its manifest names its config.
func attestedEvidence(n int) *Evidence {
	config := fmt.Appendf(nil, `{"os":"linux","architecture":"amd64","author":"%d","rootfs":{"type":"layers","diff_ids":[]}}`, n)
	manifest := marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": []any{},
		"config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest.FromBytes(config), "size": len(config)},
	})
	e := kept(n)
	e.Digest, e.TagPrefix, e.AskedAttestations, e.AskedConfig = digest.FromBytes(manifest), "team-", true, true
	envelope := fmt.Appendf(nil, `{"payload":"%d"}`, n)
	e.Attestations = []Signature{{Payload: envelope, Annotations: map[string]string{"predicateType": "x"}, Source: digest.FromBytes(envelope)}}
	e.Configs, e.Image = map[string][]byte{"linux/amd64": config}, [][]byte{manifest}
	return e
}

func saved(t *testing.T, all []*Evidence, tags ...Tag) (dir string, l *Layout) {
	t.Helper()
	dir = t.TempDir()
	if err := SaveAll(dir, all, tags...); err != nil {
		t.Fatal(err)
	}
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir, l
}

func answerTo(t *testing.T, l *Layout, q Question) *Evidence {
	t.Helper()
	e, err := l.Fetch(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	if !e.Answers(q) {
		t.Errorf("the answer is to another question: %+v", e)
	}
	return e
}

func TestSavedEvidenceAnswersQuestions(t *testing.T) {
	one, two, unsigned := attestedEvidence(1), kept(2), &Evidence{Repository: "registry.example/none", Digest: digest.FromString("none")}
	other := *two
	other.Repository, other.Bundles = "registry.example/signatures", nil
	tag := Tag{one.Repository, "v1", one.Digest}
	_, l := saved(t, []*Evidence{one, two, &other, unsigned}, tag)
	for _, want := range []*Evidence{one, two, &other, unsigned} {
		if diff := cmp.Diff(want, answerTo(t, l, want.question()), sameMaterial); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
	if d, err := l.Resolve(context.Background(), tag.Repository, tag.Tag, Credentials{}); err != nil || d != tag.Digest {
		t.Errorf("resolved %s, %v", d, err)
	}
	less := one.question()
	less.Attestations, less.Config = false, false
	if e := answerTo(t, l, less); e.Attestations != nil || e.Configs != nil || e.Image != nil || len(e.Signatures) != 1 || e.Incomplete != nil {
		t.Errorf("a question for less: %+v", e)
	}
}

// TestWhatWasNotSavedIsNotUnsigned: a policy that is tested against a folder must not pass or refuse for what nobody asked.
func TestWhatWasNotSavedIsNotUnsigned(t *testing.T) {
	one, two := attestedEvidence(1), kept(2)
	_, l := saved(t, []*Evidence{one, two})
	for name, change := range map[string]func(*Question){
		"another repository": func(q *Question) { q.Repository += "x" },
		"another digest":     func(q *Question) { q.Digest = digest.FromString("x") },
		"another prefix":     func(q *Question) { q.TagPrefix = "x" },
		"attestations":       func(q *Question) { q.Attestations = true },
		"config files":       func(q *Question) { q.Config = true },
	} {
		q := two.question()
		change(&q)
		e := answerTo(t, l, q)
		if !errors.Is(e.Incomplete, ErrNotSaved) || errors.Is(e.Incomplete, ErrNotFound) || errors.Is(e.Incomplete, ErrMismatch) || e.Size() != 0 {
			t.Errorf("%s: %+v", name, e)
		}
	}
	if _, err := l.Resolve(context.Background(), two.Repository, "v1", Credentials{}); !errors.Is(err, ErrNotSaved) {
		t.Errorf("a tag that was not saved: %v", err)
	}
	bad := two.question()
	bad.TagPrefix = "../"
	if _, err := l.Fetch(context.Background(), bad); err == nil {
		t.Error("a question that is none was answered")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.Fetch(ctx, two.question()); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end of its time: %v", err)
	}
}

func TestIncompleteEvidenceStaysIncomplete(t *testing.T) {
	e := attestedEvidence(1)
	e.Configs, e.Image, e.Incomplete = nil, nil, fmt.Errorf("%w: boom", ErrMismatch)
	dir, l := saved(t, []*Evidence{e})
	for _, got := range []*Evidence{answerTo(t, l, e.question()), must(Saved(dir))} {
		if !errors.Is(got.Incomplete, ErrNotSaved) || errors.Is(got.Incomplete, ErrMismatch) || !strings.Contains(got.Incomplete.Error(), "boom") || len(got.Signatures) != 1 {
			t.Errorf("%+v", got)
		}
	}
}

func TestSeveralInOneOCILayout(t *testing.T) {
	dir, _ := saved(t, []*Evidence{attestedEvidence(1), attestedEvidence(2), kept(3)})
	index := must(ocilayout.ImageIndexFromPath(dir))
	m := must(index.IndexManifest())
	tags := map[string]int{}
	for _, d := range m.Manifests {
		tags[d.Annotations["org.opencontainers.image.ref.name"]]++
		img, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(img, validate.Fast); err != nil {
			t.Errorf("%s: %v", d.Digest, err)
		}
	}
	if q := attestedEvidence(1).question(); tags[q.signatureTag()] != 1 || tags[q.attestationTag()] != 1 || len(m.Manifests) != 4+4+2 {
		t.Errorf("%d manifests, tags %v", len(m.Manifests), tags)
	}
	empty, _ := saved(t, nil)
	if m := must(must(ocilayout.ImageIndexFromPath(empty)).IndexManifest()); len(m.Manifests) != 0 {
		t.Errorf("%+v", m)
	}
}

// TestSavedEvidenceThatWasTamperedWith is not read, whatever is changed: a config above all, which nobody signs.
func TestSavedEvidenceThatWasTamperedWith(t *testing.T) {
	blob := func(dir string, data []byte) string { return filepath.Join(dir, blobPath(digest.FromBytes(data))) }
	e := attestedEvidence(1)
	replace := func(old, with string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, "index.json")
			raw := must(os.ReadFile(path))
			changed := bytes.ReplaceAll(raw, []byte(old), []byte(with))
			if bytes.Equal(raw, changed) {
				t.Fatalf("there is no %s in %s", old, raw)
			}
			write(t, path, changed)
		}
	}
	for name, tamper := range map[string]func(t *testing.T, dir string){
		"a config": func(t *testing.T, dir string) {
			write(t, blob(dir, e.Configs["linux/amd64"]), []byte(`{"os":"linux","architecture":"amd64","author":"2"}`))
		},
		"an attestation":          func(t *testing.T, dir string) { write(t, blob(dir, e.Attestations[0].Payload), []byte(`{}`)) },
		"a bundle that is a pipe": func(t *testing.T, dir string) { replaceByFolder(t, blob(dir, e.Bundles[0].Raw)) },
		"another image":           replace(`"`+asImage+`"`, `"`+asBundle+`"`),
		"a kind that is none":     replace(`"`+asBundle+`"`, `"other"`),
		"no config files": func(t *testing.T, dir string) {
			path := filepath.Join(dir, "index.json")
			var index map[string]any
			if err := json.Unmarshal(must(os.ReadFile(path)), &index); err != nil {
				t.Fatal(err)
			}
			all := index["manifests"].([]any)
			index["manifests"] = all[:len(all)-1]
			write(t, path, marshal(index))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, l := saved(t, []*Evidence{e})
			tamper(t, dir)
			if again, err := Open(dir); err == nil {
				l = again
			}
			got := answerTo(t, l, e.question())
			if !errors.Is(got.Incomplete, ErrNotSaved) || errors.Is(got.Incomplete, ErrMismatch) || len(got.Attestations) > 0 {
				t.Errorf("%+v", got)
			}
			if e, err := Saved(dir); err == nil {
				t.Errorf("read: %+v", e)
			}
		})
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func replaceByFolder(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestAnIndexBeyondTheBoundsIsNotRead(t *testing.T) {
	records := func(n int, r string) string {
		return string(marshal("[" + strings.TrimSuffix(strings.Repeat(r+",", n), ",") + "]"))
	}
	r := fmt.Sprintf(`{"repository":"registry.example/app","digest":%q}`, digest.FromString("x"))
	for name, index := range map[string]string{
		"not JSON":              `{`,
		"no records":            `{}`,
		"too many records":      `{"annotations":{"` + savedRecords + `":` + records(int(limits.Saved.Max())+1, r) + `,"` + savedTags + `":"{}"}}`,
		"too many elements":     `{"annotations":{"` + savedRecords + `":` + records(int(limits.Elements.Max())+1, "{}") + `,"` + savedTags + `":"{}"}}`,
		"a digest that is none": `{"annotations":{"` + savedRecords + `":` + records(1, `{"digest":"sha256:../x"}`) + `,"` + savedTags + `":"{}"}}`,
		"a manifest of no record": `{"annotations":{"` + savedRecords + `":` + records(1, r) + `,"` + savedTags + `":"{}"},` +
			`"manifests":[{"annotations":{"` + savedOf + `":"1"}}]}`,
		"too many manifests": `{"annotations":{"` + savedRecords + `":` + records(1, r) + `,"` + savedTags + `":"{}"},` +
			`"manifests":[` + strings.TrimSuffix(strings.Repeat(`{"annotations":{"`+savedOf+`":"0"}},`, int(limits.Referrers.Max())+4), ",") + `]}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "index.json"), []byte(index))
			_, err := Open(dir)
			if err == nil || !errors.Is(err, ErrMismatch) && !isExceeded(err) {
				t.Errorf("%v", err)
			}
		})
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, ErrNotFound) {
		t.Errorf("a folder that is not there: %v", err)
	}
}

// FuzzLayout: whatever stands in an index, nothing panics, and nothing is believed that does not hash.
func FuzzLayout(f *testing.F) {
	dir := f.TempDir()
	e := attestedEvidence(1)
	if err := SaveAll(dir, []*Evidence{e, kept(2)}, Tag{e.Repository, "v1", e.Digest}); err != nil {
		f.Fatal(err)
	}
	f.Add(must(os.ReadFile(filepath.Join(dir, "index.json"))))
	f.Add([]byte(`{"annotations":{"` + savedRecords + `":"[]","` + savedTags + `":"{}"}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := parseLayout(dir, raw)
		if err != nil {
			return
		}
		for _, r := range l.records {
			got, err := l.Fetch(context.Background(), r.question())
			if err != nil || !got.Answers(r.question()) {
				t.Fatalf("%v, %+v", err, got)
			}
			for _, config := range got.Configs {
				if r.Digest != e.Digest || !bytes.Equal(config, e.Configs["linux/amd64"]) {
					t.Errorf("a config of another image: %s", config)
				}
			}
		}
	})
}
