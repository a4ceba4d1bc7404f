// Package tuftest makes TUF repositories for tests: with keys of their own, signed by go-tuf, changed and published
// version by version, packed as a TrustRoot document carries them or served over http. Every way in which a
// repository can lie is made here with its real keys, or without them.
package tuftest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Repository is a TUF repository with consistent snapshots. Change it, then Publish. Its methods may be called while it is
// served; its fields may not be changed then, except between requests.
type Repository struct {
	tb testing.TB

	// Expires is when metadata of each role (root, timestamp, snapshot, targets) expires that is published from now on.
	Expires map[string]time.Time
	// Keys are the private keys of each role; Threshold of them are demanded. Publish signs with all of them.
	Keys      map[string][]signature.Signer
	Threshold map[string]int
	// Versions are those of what was published last. Publish counts them up.
	Versions map[string]int64
	// Lengths, if there are any, are what the timestamp says of the snapshot and the snapshot of the targets, true or not.
	Lengths map[string]int64
	// Consistent says that the names of files carry their version or hash.
	Consistent bool

	targets map[string]target

	mu      sync.Mutex
	files   map[string][]byte
	initial []byte
	rewrite func(name string, data []byte) []byte
	asked   []string
}

type target struct {
	data   []byte
	custom any
}

// New makes a repository with one key for each role and nothing in it, and publishes it.
func New(tb testing.TB) *Repository {
	tb.Helper()
	return NewFrom(tb, rand.Reader, time.Now())
}

// NewFrom is New with keys from a source of randomness and times counted from a moment: the same give the same
// repository, as a fuzzer's processes must have it.
func NewFrom(tb testing.TB, random io.Reader, now time.Time) *Repository {
	tb.Helper()
	r := &Repository{
		tb: tb, Consistent: true,
		Expires: map[string]time.Time{}, Keys: map[string][]signature.Signer{}, Threshold: map[string]int{}, Versions: map[string]int64{},
		targets: map[string]target{}, files: map[string][]byte{},
	}
	const day = 24 * time.Hour
	for i, role := range []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		r.Expires[role] = now.Add([]time.Duration{180 * day, 90 * day, 60 * day, 7 * day}[i]).UTC().Truncate(time.Second)
		r.Keys[role] = []signature.Signer{newKey(tb, random)}
		r.Threshold[role] = 1
	}
	r.PublishRoot()
	r.Publish()
	return r
}

// NewKey makes an Ed25519 key.
func NewKey(tb testing.TB) signature.Signer {
	tb.Helper()
	return newKey(tb, rand.Reader)
}

func newKey(tb testing.TB, random io.Reader) signature.Signer {
	tb.Helper()
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(random, seed); err != nil {
		tb.Fatal(err)
	}
	signer, err := signature.LoadSigner(ed25519.NewKeyFromSeed(seed), crypto.Hash(0))
	if err != nil {
		tb.Fatal(err)
	}
	return signer
}

// WithTrustedRoot is New with a target trusted_root.json.
func WithTrustedRoot(tb testing.TB, trustedRoot []byte) *Repository {
	tb.Helper()
	r := New(tb)
	r.Set("trusted_root.json", trustedRoot, nil)
	r.Publish()
	return r
}

// TrustedRootJSON writes trusted material, such as that of sigstore-go's test CA, as trusted_root.json.
func TrustedRootJSON(tb testing.TB, m root.TrustedMaterial) []byte {
	tb.Helper()
	r, err := root.NewTrustedRoot(root.TrustedRootMediaType01, m.FulcioCertificateAuthorities(), m.CTLogs(), m.TimestampingAuthorities(), m.RekorLogs())
	if err != nil {
		tb.Fatal(err)
	}
	data, err := r.MarshalJSON()
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// Set puts a target there, or takes it away if data is nil. custom, if it is not nil, becomes its custom metadata.
func (r *Repository) Set(name string, data []byte, custom any) {
	if data == nil {
		delete(r.targets, name)
		return
	}
	r.targets[name] = target{data, custom}
}

// PublishRoot signs a new version of root.json with Keys, and with the keys that are demanded by the version before
// it: others are what a thief of the new ones would lack.
func (r *Repository) PublishRoot(before ...signature.Signer) {
	r.tb.Helper()
	m := metadata.Root(r.Expires[metadata.ROOT])
	r.Versions[metadata.ROOT]++
	m.Signed.Version, m.Signed.ConsistentSnapshot = r.Versions[metadata.ROOT], r.Consistent
	for role, keys := range r.Keys {
		for _, k := range keys {
			r.must(m.Signed.AddKey(r.tufKey(k), role))
		}
		m.Signed.Roles[role].Threshold = r.Threshold[role]
	}
	data := signed(r, m, append(slices.Clone(before), r.Keys[metadata.ROOT]...))
	r.put(strconv.FormatInt(m.Signed.Version, 10)+".root.json", data)
	if r.initial == nil {
		r.initial = data
	}
}

// Rotate replaces the keys of roles and publishes the root that says so.
func (r *Repository) Rotate(roles ...string) {
	r.tb.Helper()
	before := r.Keys[metadata.ROOT]
	for _, role := range roles {
		r.Keys[role] = []signature.Signer{NewKey(r.tb)}
	}
	if !slices.Contains(roles, metadata.ROOT) {
		before = nil
	}
	r.PublishRoot(before...)
}

// Publish signs new versions of targets, snapshot and timestamp, and puts the targets there.
func (r *Repository) Publish() {
	r.tb.Helper()
	targets := metadata.Targets(r.Expires[metadata.TARGETS])
	for name, t := range r.targets {
		info, err := metadata.TargetFile().FromBytes(name, t.data, "sha256", "sha512")
		r.must(err)
		if t.custom != nil {
			custom, err := json.Marshal(t.custom)
			r.must(err)
			info.Custom = (*json.RawMessage)(&custom)
		}
		targets.Signed.Targets[name] = info
		where := path.Join("targets", name)
		if r.Consistent {
			where = path.Join("targets", path.Dir(name), hex.EncodeToString(info.Hashes["sha256"])+"."+path.Base(name))
		}
		r.put(where, t.data)
	}
	for _, role := range []string{metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		r.Versions[role]++
	}
	targets.Signed.Version = r.Versions[metadata.TARGETS]
	snapshot := metadata.Snapshot(r.Expires[metadata.SNAPSHOT])
	snapshot.Signed.Version = r.Versions[metadata.SNAPSHOT]
	snapshot.Signed.Meta["targets.json"] = metadata.MetaFile(targets.Signed.Version)
	snapshot.Signed.Meta["targets.json"].Length = r.Lengths[metadata.TARGETS]
	timestamp := metadata.Timestamp(r.Expires[metadata.TIMESTAMP])
	timestamp.Signed.Version = r.Versions[metadata.TIMESTAMP]
	timestamp.Signed.Meta["snapshot.json"] = metadata.MetaFile(snapshot.Signed.Version)
	timestamp.Signed.Meta["snapshot.json"].Length = r.Lengths[metadata.SNAPSHOT]

	r.put(r.versioned(metadata.TARGETS), signed(r, targets, r.Keys[metadata.TARGETS]))
	r.put(r.versioned(metadata.SNAPSHOT), signed(r, snapshot, r.Keys[metadata.SNAPSHOT]))
	r.put("timestamp.json", signed(r, timestamp, r.Keys[metadata.TIMESTAMP]))
}

func (r *Repository) versioned(role string) string {
	if !r.Consistent {
		return role + ".json"
	}
	return strconv.FormatInt(r.Versions[role], 10) + "." + role + ".json"
}

// Root is the first root.json: what a TrustRoot document holds.
func (r *Repository) Root() []byte { return slices.Clone(r.initial) }

// Files are all that is published, by name. Changing them changes nothing.
func (r *Repository) Files() map[string][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[string][]byte{}
	for name, data := range r.files {
		all[name] = slices.Clone(data)
	}
	return all
}

// Put puts a file there as it is, whoever signed it; nil removes it.
func (r *Repository) Put(name string, data []byte) {
	if data == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.files, name)
		return
	}
	r.put(name, data)
}

// Restore puts an earlier state of all files back.
func (r *Repository) Restore(all map[string][]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files = maps.Clone(all)
}

// Archive packs the repository as policy-controller's mirrorFS has it: a gzipped tar of a folder named repository.
func (r *Repository) Archive() []byte {
	r.tb.Helper()
	return Pack(r.tb, "repository/", r.Files())
}

// Pack makes a gzipped tar of files.
func Pack(tb testing.TB, prefix string, all map[string][]byte) []byte {
	tb.Helper()
	var packed bytes.Buffer
	zipped := gzip.NewWriter(&packed)
	w := tar.NewWriter(zipped)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: prefix + name, Mode: 0o644, Size: int64(len(all[name]))}); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write(all[name]); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		tb.Fatal(err)
	}
	return packed.Bytes()
}

// Serve serves the repository over http on loopback until the test ends, and gives its address.
func (r *Repository) Serve() string {
	r.tb.Helper()
	s := httptest.NewServer(r)
	r.tb.Cleanup(s.Close)
	return s.URL
}

// Rewrite lets every answer pass through f, nil ends that. f answers nil for "not found".
func (r *Repository) Rewrite(f func(name string, data []byte) []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rewrite = f
}

// Asked are the names that were asked for since the last time.
func (r *Repository) Asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := r.asked
	r.asked = nil
	return asked
}

// ServeHTTP implements http.Handler.
func (r *Repository) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	name := strings.TrimPrefix(req.URL.Path, "/")
	r.mu.Lock()
	data, rewrite := r.files[name], r.rewrite
	r.asked = append(r.asked, name)
	r.mu.Unlock()
	if rewrite != nil {
		data = rewrite(name, data)
	}
	if data == nil {
		http.NotFound(w, req)
		return
	}
	_, _ = w.Write(data) // a client that leaves is no fault of the test
}

func (r *Repository) put(name string, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files[name] = data
}

func (r *Repository) tufKey(s signature.Signer) *metadata.Key {
	r.tb.Helper()
	public, err := s.PublicKey()
	r.must(err)
	key, err := metadata.KeyFromPublicKey(public)
	r.must(err)
	return key
}

func (r *Repository) must(err error) {
	r.tb.Helper()
	if err != nil {
		r.tb.Fatal(err)
	}
}

// signed signs metadata with all keys, each once.
func signed[T metadata.Roles](r *Repository, m *metadata.Metadata[T], keys []signature.Signer) []byte {
	r.tb.Helper()
	done := map[signature.Signer]bool{}
	for _, k := range keys {
		if done[k] {
			continue
		}
		done[k] = true
		_, err := m.Sign(k)
		r.must(err)
	}
	data, err := m.ToBytes(false)
	r.must(err)
	return data
}
