package trustroot

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trustroot/tuftest"
)

func document(r *tuftest.Repository) *policy.TUFRepository {
	return &policy.TUFRepository{Root: r.Root(), MirrorFS: r.Archive(), Targets: "targets"}
}

func TestFromRepositoryReadsItsTrustedRoot(t *testing.T) {
	data := trustedRoot(t)
	want, err := FromJSON(data)
	accepted(t, want, err)
	for _, consistent := range []bool{true, false} {
		repository := tuftest.New(t)
		repository.Consistent = consistent
		repository.PublishRoot()
		repository.Set("trusted_root.json", data, nil)
		repository.Publish()
		for _, prefix := range []string{"", "./", "repository/", "./repository/", "/repository/"} {
			r, err := FromRepository(&policy.TUFRepository{Root: repository.Root(), MirrorFS: tuftest.Pack(t, prefix, repository.Files())}, time.Now())
			if accepted(t, r, err).Revision != want.Revision {
				t.Errorf("consistent %v, prefix %q: another root", consistent, prefix)
			}
			if !r.Expires.Equal(repository.Expires["snapshot"]) {
				t.Errorf("expires %v, want its snapshot's %v", r.Expires, repository.Expires["snapshot"])
			}
		}
	}
}

func TestFromRepositoryTakesTheTargetThatIsNamed(t *testing.T) {
	data := trustedRoot(t)
	repository := tuftest.WithTrustedRoot(t, trustedRoot(t))
	repository.Set("ours/root.json", data, nil)
	repository.Publish()
	d := document(repository)
	d.Target = "ours/root.json"
	r, err := FromRepository(d, time.Now())
	want, _ := FromJSON(data)
	if accepted(t, r, err).Revision != want.Revision {
		t.Error("another target was taken")
	}
	// Nothing else is taken in its place.
	d.Target = "theirs.json"
	r, err = FromRepository(d, time.Now())
	refused(t, r, err, "no target")
}

func TestFromRepositoryLooksInTheFolderThatIsNamed(t *testing.T) {
	repository := tuftest.WithTrustedRoot(t, trustedRoot(t))
	moved := map[string][]byte{}
	for name, data := range repository.Files() {
		moved[strings.Replace(name, "targets/", "artifacts/v1/", 1)] = data
	}
	d := &policy.TUFRepository{Root: repository.Root(), MirrorFS: tuftest.Pack(t, "", moved)}
	r, err := FromRepository(d, time.Now())
	refused(t, r, err, "missing")
	d.Targets = "artifacts/v1/"
	r, err = FromRepository(d, time.Now())
	accepted(t, r, err)
}

func TestFromRepositoryStopsWhenItsMetadataExpires(t *testing.T) {
	for _, role := range []string{"root", "snapshot", "targets"} {
		t.Run(role, func(t *testing.T) {
			repository := tuftest.New(t)
			when := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
			repository.Expires[role] = when
			repository.PublishRoot()
			repository.Set("trusted_root.json", trustedRoot(t), nil)
			repository.Publish()
			r, err := FromRepository(document(repository), when)
			if accepted(t, r, err); !r.Expires.Equal(when) || r.Expired(when) != nil || r.Expired(when.Add(1)) == nil {
				t.Errorf("expires %v, want %v", r.Expires, when)
			}
			r, err = FromRepository(document(repository), when.Add(time.Second))
			expiredAt(t, r, err, when)
		})
	}
}

// A timestamp is good for days, and nobody is asked for a newer one.
func TestFromRepositoryOutlivesItsTimestamp(t *testing.T) {
	repository := tuftest.New(t)
	repository.Expires["timestamp"] = time.Now().Add(-time.Hour)
	repository.Set("trusted_root.json", trustedRoot(t), nil)
	repository.Publish()
	r, err := FromRepository(document(repository), time.Now())
	if accepted(t, r, err); r.Expires.Before(time.Now().Add(24 * time.Hour)) {
		t.Errorf("expires %v", r.Expires)
	}
}

func TestFromRepositoryFollowsRootRotation(t *testing.T) {
	repository := tuftest.WithTrustedRoot(t, trustedRoot(t))
	repository.Rotate("root", "timestamp", "snapshot", "targets")
	repository.Publish()
	r, err := FromRepository(document(repository), time.Now())
	accepted(t, r, err)
	if !strings.Contains(r.From, "root 2") {
		t.Errorf("from %q", r.From)
	}
}

func TestFromRepositoryRefusesWhatItsKeysDidNotSign(t *testing.T) {
	other := tuftest.WithTrustedRoot(t, trustedRoot(t))
	for _, c := range []struct {
		name   string
		change func(r *tuftest.Repository)
		why    string
	}{
		{"another's timestamp", func(r *tuftest.Repository) { r.Put("timestamp.json", other.Files()["timestamp.json"]) }, "not accepted"},
		{"another's snapshot", func(r *tuftest.Repository) { r.Put("2.snapshot.json", other.Files()["2.snapshot.json"]) }, "not accepted"},
		{"another's targets", func(r *tuftest.Repository) { r.Put("2.targets.json", other.Files()["2.targets.json"]) }, "not accepted"},
		{"a changed byte of metadata", func(r *tuftest.Repository) {
			r.Put("2.targets.json", bytes.Replace(r.Files()["2.targets.json"], []byte(`"length":`), []byte(`"length":1`), 1))
		}, "not accepted"},
		{"a changed byte of the trusted root", func(r *tuftest.Repository) {
			name := targetName(t, r)
			r.Put(name, bytes.Replace(r.Files()[name], []byte("rawBytes\":\"MI"), []byte("rawBytes\":\"MJ"), 1))
		}, "is not what the metadata says"},
		{"a trusted root cut short", func(r *tuftest.Repository) {
			name := targetName(t, r)
			r.Put(name, r.Files()[name][:100])
		}, "is not what the metadata says"},
		{"a trusted root with more behind it", func(r *tuftest.Repository) {
			name := targetName(t, r)
			r.Put(name, append(r.Files()[name], '\n'))
		}, "longer than"},
		{"no trusted root", func(r *tuftest.Repository) { r.Put(targetName(t, r), nil) }, "missing"},
		{"no timestamp", func(r *tuftest.Repository) { r.Put("timestamp.json", nil) }, "not accepted"},
		{"no snapshot", func(r *tuftest.Repository) { r.Put("2.snapshot.json", nil) }, "not accepted"},
		{"an older snapshot", func(r *tuftest.Repository) { r.Put("2.snapshot.json", r.Files()["1.snapshot.json"]) }, "not accepted"},
		{"older targets", func(r *tuftest.Repository) { r.Put("2.targets.json", r.Files()["1.targets.json"]) }, "not accepted"},
		{"a snapshot for the timestamp", func(r *tuftest.Repository) { r.Put("timestamp.json", r.Files()["2.snapshot.json"]) }, "not accepted"},
		{"a new root without the old keys", func(r *tuftest.Repository) {
			r.Keys["root"] = []signature.Signer{tuftest.NewKey(t)}
			r.PublishRoot()
		}, "not accepted"},
		{"a new root without its own keys", func(r *tuftest.Repository) {
			old := r.Keys["root"]
			r.Keys["root"] = []signature.Signer{tuftest.NewKey(t)}
			r.Threshold["root"] = 2
			r.PublishRoot(old...)
		}, "not accepted"},
		{"a root two versions on", func(r *tuftest.Repository) {
			r.Versions["root"]++
			r.PublishRoot()
			r.Put("2.root.json", r.Files()["3.root.json"])
		}, "not accepted"},
		{"too few of the keys", func(r *tuftest.Repository) {
			r.Keys["targets"] = append(r.Keys["targets"], tuftest.NewKey(t))
			r.Threshold["targets"] = 2
			r.PublishRoot()
			r.Keys["targets"] = r.Keys["targets"][:1]
			r.Publish()
		}, "not accepted"},
		{"metadata without end", func(r *tuftest.Repository) {
			r.Put("timestamp.json", bytes.Repeat([]byte(" "), int(limits.TUFMetadata.Max())+1))
		}, "longer than"},
		{"elements without end", func(r *tuftest.Repository) {
			r.Put("timestamp.json", []byte("["+strings.Repeat("{},", 70000)+"{}]"))
		}, "elements"},
	} {
		t.Run(c.name, func(t *testing.T) {
			repository := tuftest.WithTrustedRoot(t, trustedRoot(t))
			c.change(repository)
			r, err := FromRepository(document(repository), time.Now())
			refused(t, r, err, c.why)
		})
	}
}

// One key that is listed under two IDs is one key.
func TestFromRepositoryCountsAKeyOnce(t *testing.T) {
	repository := tuftest.WithTrustedRoot(t, trustedRoot(t))
	repository.Threshold["targets"] = 2
	repository.Keys["targets"] = []signature.Signer{repository.Keys["targets"][0], repository.Keys["targets"][0]}
	repository.PublishRoot()
	repository.Publish()
	r, err := FromRepository(document(repository), time.Now())
	refused(t, r, err, "not accepted")
}

func TestFromRepositoryRefusesAnotherRoot(t *testing.T) {
	repository := tuftest.WithTrustedRoot(t, trustedRoot(t))
	for name, initial := range map[string][]byte{
		"of another repository": tuftest.New(t).Root(),
		"that is nonsense":      []byte("\x1b{}"),
		"that is no root":       repository.Files()["timestamp.json"],
		"that nobody signed":    bytes.Replace(repository.Root(), []byte(`"sig":"`), []byte(`"sig":"00`), 1),
		"without end":           bytes.Repeat([]byte(" "), int(limits.TUFMetadata.Max())+1),
	} {
		t.Run(name, func(t *testing.T) {
			d := document(repository)
			d.Root = initial
			r, err := FromRepository(d, time.Now())
			refused(t, r, err, "")
		})
	}
	for _, d := range []*policy.TUFRepository{nil, {}, {Root: repository.Root()}, {MirrorFS: repository.Archive()}} {
		r, err := FromRepository(d, time.Now())
		refused(t, r, err, "is missing")
	}
}

// Before there was trusted_root.json, each certificate and key was a target whose use the metadata told.
func TestFromRepositoryReadsOlderRepositories(t *testing.T) {
	s := newSigstore(t)
	keys := keysOf(t, s)
	fulcio := s.FulcioCertificateAuthorities()[0].(*root.FulcioCertificateAuthority)
	use := func(usage string) any {
		return map[string]any{"sigstore": map[string]string{"usage": usage, "status": "Active"}}
	}
	repository := tuftest.New(t)
	repository.Set("fulcio_v1.crt.pem", pemOf(fulcio.Root), use("Fulcio"))
	repository.Set("fulcio_intermediate_v1.crt.pem", pemOf(fulcio.Intermediates...), use("Fulcio"))
	repository.Set("rekor.pub", keys.TLogs[0].PublicKey, use("Rekor"))
	repository.Set("ctfe.pub", keys.CTLogs[0].PublicKey, use("CTFE"))
	repository.Set("tsa.crt.pem", keys.TimestampAuthorities[0].CertChain, use("TSA"))
	repository.Set("artifact.pub", []byte("of no use here"), use("Unknown"))
	repository.Set("other.txt", []byte("of no use here"), map[string]any{"sigstore": "of another kind"})
	repository.Publish()
	got, err := FromRepository(document(repository), time.Now())
	r := accepted(t, got, err)

	leaf, _, err := s.GenerateLeafCert("somebody@example.com", "https://issuer.test")
	if err != nil {
		t.Fatal(err)
	}
	if len(r.FulcioCertificateAuthorities()) != 1 {
		t.Fatalf("%d certificate authorities", len(r.FulcioCertificateAuthorities()))
	}
	if _, err := r.FulcioCertificateAuthorities()[0].Verify(leaf, leaf.NotBefore.Add(time.Second)); err != nil {
		t.Errorf("a certificate of the authority: %v", err)
	}
	for id := range s.RekorLogs() {
		if r.RekorLogs()[id] == nil {
			t.Error("Rekor's log is missing")
		}
	}
	for id := range s.CTLogs() {
		if r.CTLogs()[id] == nil {
			t.Error("the certificate transparency log is missing")
		}
	}
	if len(r.TimestampingAuthorities()) != 1 {
		t.Errorf("%d timestamp authorities", len(r.TimestampingAuthorities()))
	}

	// Without any certificate authority it is no repository of sigstore's.
	repository.Set("fulcio_v1.crt.pem", nil, nil)
	repository.Set("fulcio_intermediate_v1.crt.pem", nil, nil)
	repository.Publish()
	got, err = FromRepository(document(repository), time.Now())
	refused(t, got, err, "neither a target trusted_root.json nor one whose use is Fulcio")

	for i := range int(limits.TUFTargets.Max()) + 1 {
		repository.Set("fulcio"+strconv.Itoa(i), pemOf(fulcio.Root), use("Fulcio"))
	}
	repository.Publish()
	got, err = FromRepository(document(repository), time.Now())
	refused(t, got, err, "targets of a TUF repository")
}

func TestFromRepositoryRefusesArchivesThatLie(t *testing.T) {
	repository := tuftest.WithTrustedRoot(t, trustedRoot(t))
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Size: 1} }
	for _, c := range []struct {
		name    string
		archive []byte
		why     string
	}{
		{"no gzip", []byte("\x1b[31mtar\n"), "not a gzipped tar"},
		{"no tar", zip(t, []byte(strings.Repeat("\x1b", 2000))), "not a gzipped tar"},
		{"cut short", repository.Archive()[:200], "archive"},
		{"a name that leads out", entries(t, file("../timestamp.json")), "is no name"},
		{"a name that leads out further on", entries(t, file("a/../../timestamp.json")), "is no name"},
		{"a name with a backslash", entries(t, file(`a\timestamp.json`)), "is no name"},
		{"no name", entries(t, file(".")), "is no name"},
		{"a link", entries(t, tar.Header{Typeflag: tar.TypeSymlink, Name: "timestamp.json", Linkname: "/etc/passwd"}), "neither a file nor a folder"},
		{"a hard link", entries(t, tar.Header{Typeflag: tar.TypeLink, Name: "timestamp.json", Linkname: "1.root.json"}), "neither a file nor a folder"},
		{"a device", entries(t, tar.Header{Typeflag: tar.TypeChar, Name: "timestamp.json"}), "neither a file nor a folder"},
		{"a pipe", entries(t, tar.Header{Typeflag: tar.TypeFifo, Name: "timestamp.json"}), "neither a file nor a folder"},
		{"a file twice", entries(t, file("timestamp.json"), file("timestamp.json")), "there twice"},
		{"a file twice by another spelling", entries(t, file("timestamp.json"), file("repository/./timestamp.json")), "there twice"},
		{"a bomb", zip(t, bomb(t)), "size of a TUF repository"},
		{"entries without end", entries(t, slices.Repeat([]tar.Header{{Typeflag: tar.TypeDir, Name: "d/"}}, int(limits.TUFFiles.Max())+1)...), "entries of a TUF repository's archive"},
		{"bytes without end", make([]byte, limits.TUFArchive.Max()+1), "archive"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := FromRepository(&policy.TUFRepository{Root: repository.Root(), MirrorFS: c.archive}, time.Now())
			refused(t, r, err, c.why)
		})
	}
}

// A root that was replaced because its key was stolen is not a way back: what follows it in the archive is not optional.
func TestFromRepositoryTakesTheNewestRootOfTheArchive(t *testing.T) {
	repository := tuftest.WithTrustedRoot(t, trustedRoot(t))
	before := repository.Files()
	repository.Rotate("timestamp")
	// The thief of the old timestamp key has only what it could sign.
	repository.Put("timestamp.json", before["timestamp.json"])
	r, err := FromRepository(document(repository), time.Now())
	refused(t, r, err, "not accepted")
}

// targetName is the file that holds the newest trusted_root.json.
func targetName(t testing.TB, r *tuftest.Repository) string {
	t.Helper()
	all := r.Files()
	m, err := metadata.Targets().FromBytes(all[strconv.FormatInt(r.Versions["targets"], 10)+".targets.json"])
	if err != nil {
		t.Fatal(err)
	}
	return "targets/" + m.Signed.Targets["trusted_root.json"].Hashes["sha256"].String() + ".trusted_root.json"
}

func zip(t testing.TB, data []byte) []byte {
	t.Helper()
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

func entries(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return zip(t, packed.Bytes())
}

// bomb is a tar of zeros, a few kilobytes once it is gzipped.
func bomb(t testing.TB) []byte {
	t.Helper()
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "timestamp.json", Size: limits.TUFUnpacked.Max()}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, limits.TUFUnpacked.Max())); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}
