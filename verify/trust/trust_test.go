package trust

import (
	"context"
	"crypto"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trust/kmstest"
	"github.com/cosentry/cosentry/verify/trustroot/tuftest"
)

func TestNilSnapshotGivesWhatThePolicyHoldsAndNothingElse(t *testing.T) {
	var s *Snapshot
	_, err := s.Root("")
	mustFail(t, err, ErrMissing, publicGoodName)
	_, err = s.Root("x")
	mustFail(t, err, ErrMissing, "x")
	_, err = s.PullSecret("a", "b")
	mustFail(t, err, ErrMissing, "a/b")
	for _, k := range []*policy.Key{nil, {}, {KMS: "awskms:///alias/a"}, {Secret: &policy.Reference{Namespace: "a", Name: "b"}}} {
		keys, err := s.Keys(k)
		if mustFail(t, err, ErrMissing, "key"); len(keys) > 0 {
			t.Errorf("%+v gives keys", k)
		}
	}
	for _, r := range []*policy.Rule{nil, {}, {Type: "cue", Remote: &policy.Remote{URL: "https://a"}}, {Type: "cue", ConfigMap: &policy.Reference{}}} {
		text, err := s.Rule(r)
		if mustFail(t, err, ErrMissing, "rule"); text != "" {
			t.Errorf("%+v gives %q", r, text)
		}
	}
	for _, k := range []*policy.Keyless{nil, {}, {TrustRoot: "x"}, {CA: &policy.Certificates{}}, {CA: &policy.Certificates{Secret: &policy.Reference{}}}} {
		m, err := s.Certificates(k)
		if mustFail(t, err, ErrMissing, ""); m != nil {
			t.Errorf("%+v gives certificates", k)
		}
	}

	if keys, err := s.Keys(&policy.Key{PublicKeys: []policy.PublicKey{{Fingerprint: "f"}}}); err != nil || len(keys) != 1 {
		t.Errorf("keys of the policy: %v, %v", keys, err)
	}
	if text, err := s.Rule(&policy.Rule{Type: "cue", Text: aRule}); err != nil || text != aRule {
		t.Errorf("rule of the policy: %q, %v", text, err)
	}
	ca := caPolicy(t, "      insecureIgnoreSCT: true\n", rootCert(t))
	if m, err := s.Certificates(keylessOf(ca)); err != nil || len(m.FulcioCertificateAuthorities()) != 1 {
		t.Errorf("ca-cert of the policy: %v", err)
	}
	if s.Revision() != "" || len(s.Warnings(set(t, secretPolicy))) != 1 {
		t.Error("revision or warnings of nothing")
	}
}

// A Snapshot is asked with the policies that it was made for. One that is asked with others knows nothing of them.
func TestSnapshotOfOtherPoliciesIsMissing(t *testing.T) {
	n := fresh(t)
	_, text := newKey(t)
	n.write(t, cosignSecret+"k", text)
	_, err := n.Resolve(set(t)).Keys(keyOf(set(t, secretPolicy)))
	mustFail(t, err, ErrMissing, "not looked up")
}

func TestRevisionFollowsContentAndNothingElse(t *testing.T) {
	n, s := fresh(t), set(t, secretPolicy)
	_, one := newKey(t)
	_, two := newKey(t)
	seen := map[string]string{}
	for _, step := range []struct{ name, text string }{{"none", ""}, {"one", one}, {"two", two}, {"no key", "x"}, {"both", one + two}} {
		if step.text != "" {
			n.write(t, cosignSecret+"k", step.text)
		}
		at := n.Resolve(s).Revision()
		for other, r := range seen {
			if r == at {
				t.Errorf("%s has the revision of %s", step.name, other)
			}
		}
		seen[step.name] = at
	}
	n.write(t, cosignSecret+"k", one)
	if again := newNode(t, n.dir, n.cache).Resolve(s).Revision(); again != seen["one"] || len(again) != 16 {
		t.Errorf("revision %s, want that of before: %s", again, seen["one"])
	}
}

func TestChangeOfAFileIsTold(t *testing.T) {
	n, s := fresh(t), set(t, secretPolicy)
	key, text := newKey(t)
	other, otherText := newKey(t)
	n.Resolve(s)
	n.start(t)
	told := func(want crypto.PublicKey) {
		t.Helper()
		deadline := time.After(30 * time.Second)
		for !isKey(n, s, want)() {
			select {
			case <-n.Changed():
			case <-deadline:
				t.Fatal("the change was not told")
			}
		}
	}
	// Neither the Secret's folder nor those around it are there yet.
	n.write(t, cosignSecret+"..1/k", text)
	if err := os.Symlink("..1/k", filepath.Join(n.dir, cosignSecret, "k")); err != nil {
		t.Fatal(err)
	}
	told(key)
	// A mount changes by a rename.
	n.write(t, cosignSecret+"..2/k", otherText)
	at := filepath.Join(n.dir, cosignSecret)
	if err := os.Symlink("..2/k", filepath.Join(at, "..new")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(at, "..new"), filepath.Join(at, "k")); err != nil {
		t.Fatal(err)
	}
	told(other)
}

func TestNothingIsLeftRunningAfterRun(t *testing.T) {
	t.Cleanup(func() {
		for _, s := range []*kmstest.Service{services.Vault, services.AWS, services.Google, services.Azure} {
			s.Behave(kmstest.Serving)
		}
	})
	var uris []string
	for _, s := range []*kmstest.Service{services.Vault, services.AWS, services.Google, services.Azure} {
		key, _ := newKey(t)
		s.Put("leak", key)
		uris = append(uris, "  - key:\n      kms: "+s.URI("leak"))
	}
	p := set(t, uris...)
	round := func(b kmstest.Behaviour) {
		for _, s := range []*kmstest.Service{services.Vault, services.AWS, services.Google, services.Azure} {
			s.Behave(b)
		}
		asked := services.Vault.Asked()
		n := fresh(t)
		n.Resolve(p)
		stop := n.start(t)
		until(t, "Vault was asked", func() bool { return services.Vault.Asked() > asked })
		stop()
	}
	round(kmstest.Serving) // libraries start what they need once
	before := runtime.NumGoroutine()
	for range 5 {
		round(kmstest.Hanging)
		round(kmstest.Serving)
	}
	for _, s := range []*kmstest.Service{services.Vault, services.AWS, services.Google, services.Azure} {
		s.Behave(kmstest.Away) // ends the server's own
	}
	until(t, "as many goroutines as before", func() bool { return runtime.NumGoroutine() <= before+5 })
}

func TestResolveStatusAndRunAtOnce(t *testing.T) {
	key, text := newKey(t)
	services.Vault.Put("atonce", key)
	n := fresh(t)
	n.write(t, cosignSecret+"k", text)
	sets := []*policy.Set{kmsPolicy(t, services.Vault.URI("atonce")), set(t, secretPolicy, keylessPolicy), configMapPolicy(t)}
	n.start(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 20 {
				s := sets[(i+j)%len(sets)]
				snapshot := n.Resolve(s)
				snapshot.Warnings(s)
				_, _ = snapshot.Root("")
				n.Status()
				n.later(time.Hour)
			}
		})
	}
	all.Wait()
	until(t, "the key is there", isKey(n, sets[0], key))
}

func TestFetchNowEndsWithItsContext(t *testing.T) {
	t.Cleanup(func() { services.Vault.Behave(kmstest.Serving) })
	services.Vault.Behave(kmstest.Hanging)
	n := fresh(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.FetchNow(ctx, kmsPolicy(t, services.Vault.URI("slow")))
	}()
	cancel()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("still waiting")
	}
}

func TestWarningsNameThePlaceInThePolicy(t *testing.T) {
	n := fresh(t, fromFile("broken", "/nowhere/root.json"))
	s := set(t, `  - static:
      action: fail
  - key:
      kms: hashivault://unreached
  - key:
      secretRef:
        name: cosign
  - keyless:
      trustRootRef: unknown
      identities:
      - issuer: https://issuer.example
        subject: me@example.com
    ctlog:
      trustRootRef: unknown-log
    rfc3161timestamp:
      trustRootRef: unknown-tsa
    attestations:
    - name: a
      predicateType: vuln
      policy:
        type: cue
        configMapRef:
          name: rules
          key: a.cue`)
	got := words(n.Resolve(s).Warnings(s))
	for _, want := range []string{
		"policy.yaml:12: spec.authorities[1].key.kms: KMS key \"hashivault://unreached\": not available: not fetched yet",
		"spec.authorities[2].key.secretRef: secret cosign-system/cosign: not there",
		"spec.authorities[3].keyless.trustRootRef: trust root \"unknown\": not there",
		"spec.authorities[3].ctlog.trustRootRef: trust root \"unknown-log\"",
		"spec.authorities[3].rfc3161timestamp.trustRootRef: trust root \"unknown-tsa\"",
		"spec.authorities[3].attestations[0].policy.configMapRef: configmap cosign-system/rules/a.cue: not there",
		"/nowhere/root.json: trust.roots: trust root \"broken\": not there",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no warning %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "authorities[0]") {
		t.Errorf("a warning of what refers to nothing:\n%s", got)
	}
}

// A command that asks nobody does not call a fault what it has not looked for.
func TestOfflineSaysThatNobodyWasAsked(t *testing.T) {
	repository := tuftest.WithTrustedRoot(t, tuftest.TrustedRootJSON(t, newSigstore(t)))
	docs := policy.Documents{TrustRoots: []*policy.TrustRoot{{Name: "corp", Source: "roots.yaml:1",
		Remote: &policy.TUFRemote{Root: repository.Root(), Mirror: repository.Serve(), Target: "trusted_root.json"}}}}
	docs.Policies = append(docs.Policies, remotePolicy(t, "https://127.0.0.1:1", sha(aRule)).Policies()...)
	docs.Policies = append(docs.Policies, set(t, "  - static:\n      action: fail", keylessOfRoot("corp"), secretPolicy).Policies()[1:]...)
	s := with(t, docs)
	offline := func(o *Options) { o.Offline = true }
	for name, n := range map[string]*node{"with a folder": fresh(t, offline), "without one": newNode(t, t.TempDir(), "", offline)} {
		got := n.Resolve(s).Warnings(s)
		for _, w := range got {
			secret := strings.Contains(w.Text, "secret")
			if strings.Contains(w.Text, errNotAsked.Error()) == secret || strings.Contains(w.Text, "until this is mended") != secret {
				if !(w.Source == "roots.yaml:1" && strings.HasSuffix(w.Text, errNotAsked.Error())) {
					t.Errorf("%s: %s", name, w)
				}
			}
		}
		// KMS key, rule, root where it is named and where it is described, and the Secret.
		if len(got) != 5 || strings.Contains(words(got), notFetchedYet) {
			t.Errorf("%s: warnings are\n%s", name, words(got))
		}
	}
	// Whoever asked says what came of it.
	n := fresh(t, offline)
	n.FetchNow(t.Context(), s)
	if got := words(n.Resolve(s).Warnings(s)); strings.Contains(got, errNotAsked.Error()) || !strings.Contains(got, "until this is mended") {
		t.Errorf("warnings are\n%s", got)
	}
}

func TestWarningsOfEnds(t *testing.T) {
	ca := caPolicy(t, "      insecureIgnoreSCT: true\n", rootCert(t))
	n := fresh(t)
	for name, tt := range map[string]struct {
		at    time.Time
		words string
	}{
		"long before": {rootCert(t).NotAfter.Add(-40 * 24 * time.Hour), ""},
		"soon":        {rootCert(t).NotAfter.Add(-20 * 24 * time.Hour), "spec.authorities[0].keyless.ca-cert: the last of its certificate authorities expires on"},
		"after it":    {rootCert(t).NotAfter.Add(time.Hour), "has expired on"},
	} {
		n.at(tt.at)
		got := words(n.Resolve(ca).Warnings(ca))
		if tt.words == "" && strings.Contains(got, "ca-cert") || !strings.Contains(got, tt.words) {
			t.Errorf("%s: warnings are %q", name, got)
		}
	}
	public := set(t, keylessPolicy, keylessPolicy)
	end := n.Resolve(public).roots[""].root.Expires
	n.at(end.Add(-6 * 24 * time.Hour))
	if got := n.Resolve(public).Warnings(public); len(got) != 1 || !strings.Contains(got[0].String(), "expires on "+end.UTC().Format(time.DateOnly)) {
		t.Errorf("warnings of the public-good instance's root are %q", words(got))
	}
}

func TestOptionsThatContradictEachOtherAreRefused(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	for name, o := range map[string]Options{
		"no log":          {},
		"negative":        {Log: quiet, Refresh: -1},
		"no name":         {Log: quiet, Roots: []RootFile{{"", "/a"}}},
		"a name twice":    {Log: quiet, Roots: []RootFile{{"a", "/a"}, {"a", "/b"}}},
		"a relative path": {Log: quiet, Roots: []RootFile{{"a", "a"}}},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestPanicOfALibraryIsAFailureLikeAnother(t *testing.T) {
	n, p := fresh(t), kmsPolicy(t, "hashivault://panics")
	n.fetchKey = func(context.Context, string) (string, error) { panic("oh") }
	n.FetchNow(t.Context(), p)
	_, err := n.Resolve(p).Keys(keyOf(p))
	mustFail(t, err, ErrUnavailable, "panicked")
}
