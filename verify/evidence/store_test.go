package evidence

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/opencontainers/go-digest"
)

func kept(n int) *Evidence {
	payload := fmt.Appendf(nil, `{"n":%d}`, n)
	return &Evidence{
		Repository: fmt.Sprintf("registry.example/app%d", n),
		Digest:     digest.FromString(fmt.Sprint("image", n)),
		Signatures: []Signature{{
			Payload:         payload,
			Base64Signature: "c2ln",
			Annotations:     map[string]string{signatureAnnotation: "c2ln", "other": "x"},
			Source:          digest.FromBytes(payload),
		}},
		Bundles: []Bundle{{Raw: fmt.Appendf(nil, `{"mediaType":"b","n":%d}`, n)}},
	}
}

// openStore opens a store that writes when the test has it work, so that a test knows what is on disk.
func openStore(t *testing.T, dir string, size int) *Store {
	t.Helper()
	s, err := newStore(dir, size, slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	s.work()
	return s
}

// keepNow keeps e, on disk.
func keepNow(s *Store, e *Evidence) {
	s.Keep(e)
	s.work()
}

var sameMaterial = cmpopts.IgnoreFields(Bundle{}, "Source")

func TestKeptEvidenceOutlivesARestart(t *testing.T) {
	dir := t.TempDir()
	want := kept(1)
	keepNow(openStore(t, dir, 4), want)
	got := openStore(t, dir, 4).Recall(t.Context(), Question{Repository: want.Repository, Digest: want.Digest})
	if diff := cmp.Diff(want, got, sameMaterial); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestSavedEvidenceIsAnOCILayout(t *testing.T) {
	dir := t.TempDir()
	if err := kept(1).Save(dir); err != nil {
		t.Fatal(err)
	}
	index, err := ocilayout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Manifests) != 2 {
		t.Fatalf("%d manifests, want one of signatures and one bundle", len(m.Manifests))
	}
	for _, d := range m.Manifests {
		img, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		layers, err := img.Layers()
		if err != nil || len(layers) != 1 {
			t.Fatalf("layers of %s: %v, %v", d.Digest, layers, err)
		}
	}
}

func TestKeptEvidenceIsOnlyAboutWhatItWasKeptFor(t *testing.T) {
	s := openStore(t, t.TempDir(), 4)
	one, two := kept(1), kept(2)
	keepNow(s, one)
	if e := s.Recall(t.Context(), Question{Repository: two.Repository, Digest: one.Digest}); e != nil {
		t.Error("another repository was answered")
	}
	if e := s.Recall(t.Context(), Question{Repository: one.Repository, Digest: two.Digest}); e != nil {
		t.Error("another digest was answered")
	}
	// A folder copied to the place of another image's.
	if err := os.Rename(filepath.Join(s.dir, entryName(Question{Repository: one.Repository, Digest: one.Digest})), filepath.Join(s.dir, entryName(Question{Repository: two.Repository, Digest: two.Digest}))); err != nil {
		t.Fatal(err)
	}
	if e := openStore(t, s.dir, 4).Recall(t.Context(), Question{Repository: two.Repository, Digest: two.Digest}); e != nil {
		t.Error("evidence moved to another image's place was used")
	}
}

func TestTamperedFilesAreDropped(t *testing.T) {
	for name, tamper := range map[string]func(t *testing.T, entry string){
		"blob changed": func(t *testing.T, entry string) {
			blobs, err := filepath.Glob(filepath.Join(entry, "blobs/sha256/*"))
			if err != nil || len(blobs) == 0 {
				t.Fatal(blobs, err)
			}
			for _, b := range blobs {
				data, err := os.ReadFile(b)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(b, append(data, ' '), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		},
		"blob gone": func(t *testing.T, entry string) {
			if err := os.RemoveAll(filepath.Join(entry, "blobs")); err != nil {
				t.Fatal(err)
			}
		},
		"index cut": func(t *testing.T, entry string) {
			if err := os.Truncate(filepath.Join(entry, "index.json"), 20); err != nil {
				t.Fatal(err)
			}
		},
		"a digest that leaves the folder": func(t *testing.T, entry string) {
			path := filepath.Join(entry, "index.json")
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			i := strings.Index(string(data), `"digest":"sha256:`)
			data = append(data[:i:i], []byte(`"digest":"sha256:../../../../etc/passwd`+string(data[i+len(`"digest":"sha256:`)+64:]))...)
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, t.TempDir(), 4)
			e := kept(1)
			keepNow(s, e)
			entry := filepath.Join(s.dir, entryName(Question{Repository: e.Repository, Digest: e.Digest}))
			tamper(t, entry)
			if got := s.Recall(t.Context(), Question{Repository: e.Repository, Digest: e.Digest}); got != nil {
				t.Fatalf("used: %+v", got)
			}
			s.work()
			if _, err := os.Stat(entry); !os.IsNotExist(err) {
				t.Errorf("still there: %v", err)
			}
			keepNow(s, e) // and it can be kept again
			if s.Recall(t.Context(), Question{Repository: e.Repository, Digest: e.Digest}) == nil {
				t.Error("not kept again")
			}
		})
	}
}

func TestStoreKeepsNoMoreThanItsSize(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, 2)
	for n := range 5 {
		keepNow(s, kept(n))
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 2 {
		t.Errorf("%d entries on disk", len(entries))
	}
	if e := kept(4); s.Recall(t.Context(), Question{Repository: e.Repository, Digest: e.Digest}) == nil {
		t.Error("the newest is gone")
	}
	// A smaller bound holds from the next start on.
	openStore(t, dir, 1)
	if entries, err = os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%d entries after a smaller bound, %v", len(entries), err)
	}
}

func TestWhatWasNotUsedForLongestIsRemoved(t *testing.T) {
	s := openStore(t, t.TempDir(), 2)
	keepNow(s, kept(1))
	keepNow(s, kept(2))
	if !recalled(s, kept(1)) {
		t.Fatal("not recalled")
	}
	keepNow(s, kept(3))
	onlyOnDisk(t, s.dir, 1, 3)
	// And so it is after a restart: the disk knows.
	if !recalled(s, kept(1)) {
		t.Fatal("not recalled")
	}
	s.work()
	keepNow(openStore(t, s.dir, 2), kept(4))
	onlyOnDisk(t, s.dir, 1, 4)
}

func TestNeitherNothingNorTooMuchIsKept(t *testing.T) {
	s := openStore(t, t.TempDir(), 4)
	keepNow(s, &Evidence{Repository: "r.example/none", Digest: digest.FromString("n")})
	big := kept(1)
	big.Bundles[0].Raw = make([]byte, maxKept+1)
	keepNow(s, big)
	entries, err := os.ReadDir(s.dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("%d entries, %v", len(entries), err)
	}
}

// TestKeptEvidenceHoldsWhatIsAsked: an answer without attestations is none to who asks for them.
func TestKeptEvidenceHoldsWhatIsAsked(t *testing.T) {
	s := openStore(t, t.TempDir(), 8)
	all := attestedEvidence(1)
	less := *all
	less.AskedAttestations, less.AskedConfig, less.Attestations, less.Configs, less.Image = false, false, nil, nil, nil
	keepNow(s, &less)
	if e := s.Recall(t.Context(), less.question()); e == nil {
		t.Fatal("not kept")
	}
	for name, q := range map[string]Question{"all": all.question(), "attestations": {Repository: all.Repository, Digest: all.Digest, TagPrefix: all.TagPrefix, Attestations: true}} {
		if e := s.Recall(t.Context(), q); e != nil {
			t.Errorf("%s: recalled what was kept without", name)
		}
	}
	keepNow(s, all)
	keepNow(s, &less) // does not take the place of the other
	for _, q := range []Question{all.question(), less.question()} {
		e := openStore(t, s.dir, 8).Recall(t.Context(), q)
		if e == nil || q.Attestations && cmp.Diff(all, e, sameMaterial) != "" {
			t.Errorf("%+v: %+v", q, e)
		}
	}
	q := all.question()
	q.TagPrefix = ""
	if s.Recall(t.Context(), q) != nil {
		t.Error("recalled for another tag prefix")
	}
	// Where only the larger is left, it answers the smaller question as well.
	two := attestedEvidence(2)
	keepNow(s, two)
	q = two.question()
	q.Config = false
	if e := s.Recall(t.Context(), q); e == nil || len(e.Attestations) != 1 {
		t.Errorf("%+v", e)
	}
}

func TestLargeAttestationsAreKept(t *testing.T) {
	s := openStore(t, t.TempDir(), 8)
	e := attestedEvidence(1)
	e.Attestations[0].Payload = make([]byte, 4<<20)
	e.Attestations[0].Source = digest.FromBytes(e.Attestations[0].Payload)
	keepNow(s, e)
	if got := s.Recall(t.Context(), e.question()); got == nil || !bytes.Equal(got.Attestations[0].Payload, e.Attestations[0].Payload) {
		t.Error("not kept")
	}
	e = attestedEvidence(2)
	e.Attestations[0].Payload = make([]byte, maxKeptAttested+1)
	if keepNow(s, e); s.Recall(t.Context(), e.question()) != nil {
		t.Error("too large, and kept")
	}
}

// TestTheStoreHasAnEnd: its size is counted in images, and one with attestations is as large as a thousand others.
func TestTheStoreHasAnEnd(t *testing.T) {
	s := openStore(t, t.TempDir(), 100)
	s.maxStored = 100 << 10
	for n := range 10 {
		e := kept(n)
		e.Bundles[0].Raw = make([]byte, 30<<10)
		keepNow(s, e)
		keepNow(s, e) // the same again counts once
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil || len(entries) != 3 || s.Recall(t.Context(), kept(9).question()) == nil {
		t.Errorf("%d entries, %v", len(entries), err)
	}
	again := openStore(t, s.dir, 100)
	if again.stored != s.stored || again.stored < 90<<10 {
		t.Errorf("%d bytes after a restart, %d before", again.stored, s.stored)
	}
}

// TestConfigFilesAloneAreNotKept: they are no reason to allow anything.
func TestConfigFilesAloneAreNotKept(t *testing.T) {
	s := openStore(t, t.TempDir(), 8)
	e := attestedEvidence(1)
	e.Signatures, e.Bundles, e.Attestations = nil, nil, nil
	if keepNow(s, e); s.Recall(t.Context(), e.question()) != nil {
		t.Error("kept")
	}
}

func TestUnfinishedEntriesAreSweptAtStart(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, unfinished+"123"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "owner's note"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	openStore(t, dir, 4)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "owner's note" {
		t.Errorf("left: %v, %v", entries, err)
	}
}
