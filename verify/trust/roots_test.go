package trust

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"

	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trustroot"
	"github.com/cosentry/cosentry/verify/trustroot/tuftest"
)

func newSigstore(t *testing.T) *ca.VirtualSigstore {
	t.Helper()
	s, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// roots is a set of trust roots and no policy.
func roots(t *testing.T, all ...*policy.TrustRoot) *policy.Set {
	t.Helper()
	for _, r := range all {
		r.Source = "roots.yaml:1"
	}
	return with(t, policy.Documents{TrustRoots: all})
}

func rootFile(t *testing.T, s root.TrustedMaterial) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "trusted_root.json")
	if err := os.WriteFile(file, tuftest.TrustedRootJSON(t, s), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func fromFile(name, path string) func(*Options) {
	return func(o *Options) { o.Roots = append(o.Roots, RootFile{name, path}) }
}

func TestRootOfEveryKind(t *testing.T) {
	text := tuftest.TrustedRootJSON(t, newSigstore(t))
	repository := tuftest.WithTrustedRoot(t, text)
	n := fresh(t, fromFile("file", rootFile(t, newSigstore(t))))
	s := roots(t,
		&policy.TrustRoot{Name: "json", JSON: text},
		&policy.TrustRoot{Name: "remote", Remote: &policy.TUFRemote{Root: repository.Root(), Mirror: repository.Serve(), Target: "trusted_root.json"}},
		&policy.TrustRoot{Name: "repository", Repository: &policy.TUFRepository{Root: repository.Root(), MirrorFS: repository.Archive(), Targets: "targets", Target: "trusted_root.json"}},
	)
	n.FetchNow(t.Context(), s)
	snapshot := n.Resolve(s)
	for _, name := range []string{"json", "remote", "repository", "file", ""} {
		m, err := snapshot.Root(name)
		if err != nil {
			t.Errorf("%s: %v", rootName(name), err)
			continue
		}
		if len(m.FulcioCertificateAuthorities()) == 0 || len(m.RekorLogs()) == 0 {
			t.Errorf("%s holds no authority or no log", rootName(name))
		}
		if st := n.find(t, KindRoot, rootName(name)); !st.OK || st.Error != "" || st.From == "" {
			t.Errorf("%s: state is %+v", rootName(name), st)
		}
	}
	if again := n.Resolve(s); again.Revision() != snapshot.Revision() {
		t.Error("the revision changes though nothing did")
	}
}

func TestRootsThatAreNotGiven(t *testing.T) {
	text := tuftest.TrustedRootJSON(t, newSigstore(t))
	broken := filepath.Join(t.TempDir(), "broken.json")
	if err := os.WriteFile(broken, []byte("{}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	n := fresh(t, fromFile("both", rootFile(t, newSigstore(t))), fromFile("broken", broken), fromFile("missing", "/nowhere/root.json"))
	repository := tuftest.WithTrustedRoot(t, text)
	s := roots(t,
		&policy.TrustRoot{Name: "both", JSON: text},
		&policy.TrustRoot{Name: "remote", Remote: &policy.TUFRemote{Root: repository.Root(), Mirror: "https://127.0.0.1:1", Target: "trusted_root.json"}},
	)
	n.FetchNow(t.Context(), s)
	snapshot := n.Resolve(s)
	for name, want := range map[string]struct {
		class error
		words string
	}{
		"both":    {ErrInvalid, "both a TrustRoot document and the settings"},
		"broken":  {ErrInvalid, "trust root"},
		"missing": {ErrMissing, "no such file"},
		"remote":  {ErrUnavailable, "refused"},
		"unknown": {ErrMissing, "has this name"},
	} {
		m, err := snapshot.Root(name)
		if m != nil {
			t.Errorf("%s is given", name)
		}
		mustFail(t, err, want.class, want.words)
		if name == "unknown" {
			continue
		}
		if st := n.find(t, KindRoot, name); st.OK || st.Error == "" {
			t.Errorf("%s: state is %+v", name, st)
		}
	}
	if text := words(snapshot.Warnings(s)); !strings.Contains(text, "roots.yaml:1: metadata.name: ") || !strings.Contains(text, broken+": trust.roots: ") {
		t.Errorf("warnings are\n%s", text)
	}
}

// A reference that names nothing fails each image that needs it: it must be seen where the node's owner looks, and be gone
// from there when no policy has it any more.
func TestRootThatNobodyHasIsAState(t *testing.T) {
	n := fresh(t)
	s := set(t, keylessOfRoot("corp"), keylessOfRoot("corp"))
	snapshot := n.Resolve(s)
	st := n.find(t, KindRoot, "corp")
	if st.OK || !strings.Contains(st.Error, "no TrustRoot document") {
		t.Errorf("state is %+v", st)
	}
	_, err := snapshot.Root("corp")
	mustFail(t, err, ErrMissing, "has this name")
	if got := words(snapshot.Warnings(s)); strings.Count(got, "has this name") != 2 {
		t.Errorf("warnings, of which there is one for each policy, are\n%s", got)
	}
	// Once it is there the same reference is fine.
	doc := &policy.TrustRoot{Name: "corp", JSON: tuftest.TrustedRootJSON(t, newSigstore(t))}
	n.Resolve(with(t, policy.Documents{Policies: s.Policies(), TrustRoots: []*policy.TrustRoot{doc}}))
	if st := n.find(t, KindRoot, "corp"); !st.OK || st.Error != "" {
		t.Errorf("state is %+v", st)
	}
}

// An authority that is about to end is seen before its last day: nothing expires, and new signatures would be refused.
func TestEndOfAuthoritiesIsAState(t *testing.T) {
	s := newSigstore(t)
	n := fresh(t, fromFile("corp", rootFile(t, s)))
	n.Resolve(set(t))
	want := s.FulcioCertificateAuthorities()[0].(*root.FulcioCertificateAuthority).Root.NotAfter
	st := n.find(t, KindRoot, "corp")
	if st.Ends.IsZero() || st.Ends.After(want) || !st.Expires.IsZero() || !st.OK {
		t.Errorf("state is %+v", st)
	}
	n.at(st.Ends.Add(time.Hour))
	if st := n.find(t, KindRoot, "corp"); !st.OK || st.Error != "" {
		t.Errorf("what was signed before counts no more: %+v", st)
	}
}

func TestStatusForgetsWhatIsNoLongerReferredTo(t *testing.T) {
	n := fresh(t)
	n.Resolve(set(t, secretPolicy, keylessOfRoot("corp"), "  - key:\n      kms: hashivault://k"))
	if got := n.Status(); len(got) != 4 {
		t.Fatalf("states are %+v", got)
	}
	n.Resolve(set(t))
	if got := n.Status(); len(got) != 1 || got[0].Name != publicGoodName {
		t.Errorf("states are %+v", got)
	}
	if len(n.items) != 0 {
		t.Errorf("%d things are still fetched", len(n.items))
	}
}

func keylessOfRoot(name string) string {
	return strings.Replace(keylessPolicy, "keyless:\n", "keyless:\n      trustRootRef: "+name+"\n", 1)
}

func words(all []policy.Warning) string {
	var b strings.Builder
	for _, w := range all {
		b.WriteString(w.String() + "\n")
	}
	return b.String()
}

func TestRemoteRootIsKeptRefreshedAndExpires(t *testing.T) {
	first, second := newSigstore(t), newSigstore(t)
	repository := tuftest.WithTrustedRoot(t, tuftest.TrustedRootJSON(t, first))
	mirror := repository.Serve()
	s := roots(t, &policy.TrustRoot{Name: "r", Remote: &policy.TUFRemote{Root: repository.Root(), Mirror: mirror, Target: "trusted_root.json"}})
	n := fresh(t)
	stop := n.start(t)
	holds := func(n *node, want *ca.VirtualSigstore) func() bool {
		return func() bool {
			m, err := n.Resolve(s).Root("r")
			return err == nil && sameCA(m, want)
		}
	}
	until(t, "it is there", holds(n, first))
	before := n.Resolve(s)

	repository.Set("trusted_root.json", tuftest.TrustedRootJSON(t, second), nil)
	repository.Publish()
	n.later(27 * time.Hour)
	until(t, "the new one is there", holds(n, second))
	if n.Resolve(s).Revision() == before.Revision() {
		t.Error("the revision is that of the old one")
	}
	stop()

	repository.Rewrite(func(string, []byte) []byte { return nil })
	away := newNode(t, n.dir, n.cache)
	away.FetchNow(t.Context(), s)
	if !holds(away, second)() {
		t.Error("it is not used after a restart, with the server away")
	}
	st := away.find(t, KindRoot, "r")
	if !st.OK || st.Error == "" || st.Expires.IsZero() {
		t.Errorf("state is %+v", st)
	}

	// A snapshot that nobody replaces ends too.
	snapshot := away.Resolve(s)
	away.at(st.Expires.Add(time.Hour))
	_, err := snapshot.Root("r")
	mustFail(t, err, ErrUnavailable, "expired")
	if away.Resolve(s).Revision() == snapshot.Revision() {
		t.Error("the revision is the same before and after the end")
	}
	if st := away.find(t, KindRoot, "r"); st.OK || !strings.Contains(st.Error, "expired") {
		t.Errorf("state is %+v", st)
	}
	_, err = newNode(t, n.dir, n.cache).Resolve(s).Root("r")
	if err != nil {
		t.Errorf("with the right clock: %v", err)
	}
}

func sameCA(m root.TrustedMaterial, want *ca.VirtualSigstore) bool {
	got := m.FulcioCertificateAuthorities()
	if len(got) != 1 {
		return false
	}
	a, ok := got[0].(*root.FulcioCertificateAuthority)
	b, also := want.FulcioCertificateAuthorities()[0].(*root.FulcioCertificateAuthority)
	return ok && also && a.Root.Equal(b.Root)
}

// Whoever holds an older Snapshot must not stop at an end that was put off: an end is part of the revision.
func TestEndThatIsPutOffIsANewRevision(t *testing.T) {
	builtIn := trustroot.PublicGood()
	later := *builtIn
	later.Expires = later.Expires.Add(time.Hour)
	at := func(r *trustroot.Root) string {
		return (&Snapshot{now: func() time.Time { return builtIn.Expires.Add(-time.Hour) }, roots: map[string]rootOrError{"": {root: r}}}).hash()
	}
	if at(builtIn) == at(&later) || at(builtIn) != at(trustroot.PublicGood()) {
		t.Error("the revision does not follow the end")
	}
}

const keylessPolicy = `  - keyless:
      identities:
      - issuer: https://issuer.example
        subject: me@example.com`

func TestPublicGoodRootWithoutNetworkWorksUntilItExpires(t *testing.T) {
	n, s := fresh(t, func(o *Options) { o.UpdatePublicGood = true }), set(t, keylessPolicy)
	n.Resolve(s)
	began := n.now()
	n.start(t)
	// The proxy of the tests leads nowhere.
	until(t, "it could not be refreshed", func() bool { return n.find(t, KindRoot, publicGoodName).Error != "" })
	st := n.find(t, KindRoot, publicGoodName)
	if !st.OK || st.Expires.IsZero() || !strings.Contains(st.From, "built in") {
		t.Errorf("state is %+v", st)
	}
	if _, err := n.Resolve(s).Certificates(keylessOf(s)); err != nil {
		t.Error(err)
	}
	until(t, "that is logged", func() bool { return strings.Contains(n.log.String(), "stays in use until it expires") })
	// Nodes that are cut off on purpose do not ask as if they lacked it.
	for _, it := range n.items {
		if in := n.due(it).Sub(began); in < firstKept/2 {
			t.Errorf("while the root that is built in holds, another is asked for in %s", in)
		}
	}
	n.later(2 * time.Hour)
	until(t, "it was tried again", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, it := range n.items {
			return it.failures > 1
		}
		return false
	})
	if c := strings.Count(n.log.String(), "stays in use until it expires"); c != 1 {
		t.Errorf("logged %d times", c)
	}
	n.at(st.Expires.Add(-6 * 24 * time.Hour))
	until(t, "its end is told ahead", func() bool { return strings.Contains(n.log.String(), "expires soon") })
	n.at(st.Expires.Add(time.Hour))
	until(t, "its end is told", func() bool { return strings.Contains(n.log.String(), "has expired") })
	_, err := n.Resolve(s).Certificates(keylessOf(s))
	mustFail(t, err, ErrUnavailable, "expired")
}

func TestPublicGoodRootIsNotAskedForWhereNoPolicyUsesIt(t *testing.T) {
	n := fresh(t, func(o *Options) { o.UpdatePublicGood = true })
	n.Resolve(set(t, secretPolicy))
	if len(n.items) != 0 {
		t.Errorf("%d things are fetched", len(n.items))
	}
}

// Between a fetched root that has expired and an older one that is built in there is a step back.
func TestExpiredPublicGoodRootIsNotReplacedByWhatWasBuiltInBefore(t *testing.T) {
	n := fresh(t, func(o *Options) { o.UpdatePublicGood = true })
	w := &wanted{roots: map[string]bool{"": true}}
	id := remoteItemID("", n.publicGood)
	ended := n.now().Add(-time.Hour)
	other := &trustroot.Root{TrustedMaterial: newSigstore(t), Revision: "other", Expires: ended}
	same := trustroot.PublicGood()
	same.Expires = ended
	for name, tt := range map[string]struct {
		fetched *trustroot.Root
		ok      bool
	}{"of others": {other, false}, "of the same authorities": {same, true}} {
		r := n.resolvePublicGood(w, map[itemID]got{id: {content: rootContent(tt.fetched, ended)}})
		if (r.root.Expired(n.now()) == nil) != tt.ok {
			t.Errorf("%s: it expires on %s", name, r.root.Expires)
		}
	}
}

func caPolicy(t *testing.T, more string, certs ...*x509.Certificate) *policy.Set {
	t.Helper()
	var text strings.Builder
	for _, c := range certs {
		for _, line := range strings.Split(strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))), "\n") {
			text.WriteString("          " + line + "\n")
		}
	}
	return set(t, "  - keyless:\n      ca-cert:\n        data: |\n"+text.String()+more+`      identities:
      - issuer: https://issuer.example
        subject: me@example.com`)
}

func TestCACertTakesThePlaceOfTheRootsAuthoritiesAlone(t *testing.T) {
	mine, other := newSigstore(t), newSigstore(t)
	fulcio := mine.FulcioCertificateAuthorities()[0].(*root.FulcioCertificateAuthority)
	certs := append([]*x509.Certificate{fulcio.Root}, fulcio.Intermediates...)
	publicGood := trustroot.PublicGood()
	othersLogs, err := trustroot.FromJSON(tuftest.TrustedRootJSON(t, other))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		more string
		logs map[string]*root.TransparencyLog
	}{
		"with the public-good instance's logs": {"", publicGood.CTLogs()},
		"with a root's logs":                   {"      trustRootRef: other\n", othersLogs.CTLogs()},
		"without logs":                         {"      insecureIgnoreSCT: true\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			n := fresh(t, fromFile("other", rootFile(t, other)))
			s := caPolicy(t, tt.more, certs...)
			m, err := n.Resolve(s).Certificates(keylessOf(s))
			if err != nil {
				t.Fatal(err)
			}
			if !sameCA(m, mine) {
				t.Error("other certificate authorities")
			}
			if len(m.RekorLogs()) > 0 || len(m.TimestampingAuthorities()) > 0 {
				t.Error("a ca-cert brings logs or timestamp authorities")
			}
			if len(m.CTLogs()) != len(tt.logs) {
				t.Errorf("%d logs, want %d", len(m.CTLogs()), len(tt.logs))
			}
			for id := range tt.logs {
				if m.CTLogs()[id] == nil {
					t.Errorf("log %s is missing", id)
				}
			}
			leaf, _, err := mine.GenerateLeafCert("me@example.com", "https://issuer.example")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.FulcioCertificateAuthorities()[0].Verify(leaf, time.Now()); err != nil {
				t.Errorf("a certificate of the authority is refused: %v", err)
			}
		})
	}
	t.Run("whose root's logs are missing", func(t *testing.T) {
		n, s := fresh(t), caPolicy(t, "      trustRootRef: unknown\n", certs...)
		_, err := n.Resolve(s).Certificates(keylessOf(s))
		mustFail(t, err, ErrMissing, "certificate transparency logs")
	})
}

// A certificate that is no CA's would otherwise make everybody who has one a CA.
func TestCACertThatIsNoAuthorityIsRefused(t *testing.T) {
	s := newSigstore(t)
	leaf, _, err := s.GenerateLeafCert("me@example.com", "https://issuer.example")
	if err != nil {
		t.Fatal(err)
	}
	saysSo := rootCert(t, func(c *x509.Certificate) { c.IsCA = false })
	for name, c := range map[string]*x509.Certificate{"of a signer": leaf, "that says so": saysSo} {
		data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
		if _, err := parseAuthorities(data); err == nil || !strings.Contains(err.Error(), "not that of a certificate authority") {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}
