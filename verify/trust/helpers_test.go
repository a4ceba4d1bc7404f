package trust

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trust/kmstest"
	"github.com/cosentry/cosentry/verify/trustroot"
)

// services are shared: Go reads proxies and CAs from the environment once in the life of a process.
var services *kmstest.Services

func TestMain(m *testing.M) { os.Exit(kmstest.Main(m, &services)) }

// logged is a log that can be read while it is written.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// node is a Keeper with folders of its own and a clock that can be put forward. The clock begins at the real date, or
// beforeEnd where that is earlier.
type node struct {
	*Keeper
	dir, cache string
	log        *logged
	ahead      atomic.Int64 // both of its clocks
	stepped    atomic.Int64 // the time of day alone
}

// newNode makes one that has no network for the public-good instance, in folders that a test may share between two
// of them: that is a restart.
func newNode(t *testing.T, dir, cache string, change ...func(*Options)) *node {
	t.Helper()
	n := &node{dir: dir, cache: cache, log: &logged{}}
	o := Options{Dir: dir, CacheDir: cache, Log: slog.New(slog.NewTextHandler(n.log, nil))}
	for _, c := range change {
		c(&o)
	}
	k, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	n.ahead.Store(int64(min(0, time.Until(beforeEnd()))))
	system := systemClock()
	k.clock = func() (time.Time, time.Duration) {
		day, worked := system()
		ahead := time.Duration(n.ahead.Load())
		return day.Add(ahead + time.Duration(n.stepped.Load())), worked + ahead
	}
	n.Keeper = k
	return n
}

func fresh(t *testing.T, change ...func(*Options)) *node {
	t.Helper()
	return newNode(t, t.TempDir(), filepath.Join(t.TempDir(), "trust"), change...)
}

// beforeEnd is well before the end of the public-good root that is built in. Without it the tests that use that root
// would fail from some day on, on every branch, though nothing has changed.
func beforeEnd() time.Time { return trustroot.PublicGood().Expires.Add(-60 * 24 * time.Hour) }

// at puts the clock to a moment.
func (n *node) at(moment time.Time) {
	n.ahead.Store(int64(time.Until(moment)))
	signal(n.wake)
}

// later puts the clock forward.
func (n *node) later(d time.Duration) {
	n.ahead.Add(int64(d))
	signal(n.wake)
}

// step puts the time of day forward or back, as a person does, or NTP, or a virtual machine that wakes up.
func (n *node) step(d time.Duration) {
	n.stepped.Add(int64(d))
	signal(n.wake)
}

// start runs it until the test ends, or until the function that it gives is called.
func (n *node) start(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(func() {
		stop()
		until(t, "no call is under way", func() bool {
			n.mu.Lock()
			defer n.mu.Unlock()
			for _, it := range n.items {
				if it.running {
					return false
				}
			}
			return true
		})
	})
	return stop
}

// write puts a file under the node's folder.
func (n *node) write(t *testing.T, path, text string) {
	t.Helper()
	path = filepath.Join(n.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// until waits for something that comes about in the background.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline, tick := time.After(30*time.Second), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("after 30 s still not: %s", what)
		}
	}
}

// set is a policy for each list of authorities (YAML, indented by two).
func set(t *testing.T, authorities ...string) *policy.Set {
	t.Helper()
	var docs []policy.Documents
	for i, a := range authorities {
		text := fmt.Sprintf("apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata:\n  name: p%d\nspec:\n  images:\n  - glob: \"**\"\n  authorities:\n%s\n", i, a)
		d, err := policy.Parse("policy.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, d)
	}
	return with(t, docs...)
}

func with(t *testing.T, docs ...policy.Documents) *policy.Set {
	t.Helper()
	s, err := policy.NewSet(docs...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func keyOf(s *policy.Set) *policy.Key         { return s.Policies()[0].Authorities[0].Key }
func keylessOf(s *policy.Set) *policy.Keyless { return s.Policies()[0].Authorities[0].Keyless }
func ruleOf(s *policy.Set) *policy.Rule       { return s.Policies()[0].Authorities[0].Attestations[0].Rule }

func kmsPolicy(t *testing.T, uri string) *policy.Set {
	t.Helper()
	return set(t, "  - key:\n      kms: "+uri)
}

const secretPolicy = "  - key:\n      secretRef:\n        name: cosign"

func newKey(t testing.TB) (crypto.PublicKey, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key.Public(), pemOf(t, key.Public())
}

func pemOf(t testing.TB, key crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// mustBe checks that the set's key is this one and no other.
func mustBe(t *testing.T, n *node, s *policy.Set, want crypto.PublicKey) {
	t.Helper()
	keys, err := n.Resolve(s).Keys(keyOf(s))
	if err != nil {
		t.Fatal(err)
	}
	if len(keys) != 1 || !keys[0].Key.(interface{ Equal(crypto.PublicKey) bool }).Equal(want) {
		t.Errorf("%d keys, or another one", len(keys))
	}
}

// isKey reports whether that is so by now.
func isKey(n *node, s *policy.Set, want crypto.PublicKey) func() bool {
	return func() bool {
		keys, err := n.Resolve(s).Keys(keyOf(s))
		return err == nil && len(keys) == 1 && keys[0].Key.(interface{ Equal(crypto.PublicKey) bool }).Equal(want)
	}
}

// mustFail checks that an error is of the class and says why.
func mustFail(t *testing.T, err, class error, words string) {
	t.Helper()
	if !errors.Is(err, class) || !strings.Contains(err.Error(), words) {
		t.Errorf("error is %v, want one that is %q and says %q", err, class, words)
	}
	for _, other := range []error{ErrMissing, ErrUnavailable, ErrInvalid} {
		if !errors.Is(other, class) && errors.Is(err, other) {
			t.Errorf("error %v is also %q", err, other)
		}
	}
}

// state finds how things stand with something.
func (n *node) find(t *testing.T, kind, name string) State {
	t.Helper()
	for _, s := range n.Status() {
		if s.Kind == kind && s.Name == name {
			return s
		}
	}
	t.Fatalf("no state of %s %s among %+v", kind, name, n.Status())
	return State{}
}

// weakModulus is of a key that everybody can break.
func weakModulus(t *testing.T) *big.Int {
	t.Helper()
	p, err := rand.Prime(rand.Reader, 512)
	if err != nil {
		t.Fatal(err)
	}
	q, err := rand.Prime(rand.Reader, 512)
	if err != nil {
		t.Fatal(err)
	}
	return p.Mul(p, q)
}

// twoKeys is a kept file with a key too many.
func twoKeys(t *testing.T, uri string) []byte {
	t.Helper()
	_, a := newKey(t)
	_, b := newKey(t)
	file, err := json.Marshal(keptKey{URI: uri, PEM: a + b, Fetched: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// rootCert is a certificate authority that lives for ten years.
func rootCert(t *testing.T, change ...func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	year := time.Now().Truncate(24*time.Hour).AddDate(10, 0, 0)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA of a test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: year,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	for _, c := range change {
		c(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
