package verify

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/limits"
)

func openStore(t testing.TB, dir string) *evidence.Store {
	t.Helper()
	s, err := evidence.OpenStore(dir, 16, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// A pod restarts while the registry is away, or without the pull secret, on a node whose agent was
// restarted too.
func TestKeptEvidenceOutlivesTheRegistryAndTheAgent(t *testing.T) {
	for form, material := range map[string]any{"classic": classicFor("P-256", appDigest), "bundle": bundleFor("P-256", appDigest)} {
		for cause, err := range map[string]error{"away": errUnavailable, "without credentials": errUnauthorized} {
			t.Run(form+" "+cause, func(t *testing.T) {
				dir := t.TempDir()
				o := testOptions(holding(found(material)))
				first := openStore(t, dir)
				o.Keeper = first
				checkDecision(t, verdictOn(t, newVerifierWith(t, o, byKey("P-256")), appSubject()), true, "")
				if err := first.Close(t.Context()); err != nil {
					t.Fatal(err)
				}

				for _, s := range []*source{failing(err), holding(found(err))} {
					o.Source, o.Keeper = s, openStore(t, dir)
					checkDecision(t, verdictOn(t, newVerifierWith(t, o, byKey("P-256")), appSubject()), true, "")
				}
				// It is judged again, by the policies of now.
				v := newVerifierWith(t, o, byKey("other P-256"))
				_, verr := v.Verify(t.Context(), appSubject())
				checkUndecided(t, verr, err, "signed")
			})
		}
	}
}

// memory is a Keeper that gives back whatever a tampered disk could hold.
type memory struct {
	kept   []*evidence.Evidence
	recall *evidence.Evidence
	asked  int
	// bounded and inTime are of the last recall's context.
	bounded, inTime bool
}

func (m *memory) Keep(e *evidence.Evidence) { m.kept = append(m.kept, e) }

func (m *memory) Recall(ctx context.Context, _ evidence.Question) *evidence.Evidence {
	m.asked++
	_, m.bounded = ctx.Deadline()
	m.inTime = ctx.Err() == nil
	return m.recall
}

func TestKeptEvidenceGrantsNothingByItself(t *testing.T) {
	other := found(classicFor("P-256", appDigest))
	other.Digest = otherDigest
	for name, kept := range map[string]*evidence.Evidence{
		"nothing":                         nil,
		"empty":                           found(),
		"by another key":                  found(classicFor("other P-256", appDigest), bundleFor("other P-256", appDigest)),
		"for another image":               found(classicFor("P-256", otherDigest), bundleFor("P-256", otherDigest)),
		"filed under another image":       other,
		"another image's under this name": {Digest: otherDigest, Signatures: []evidence.Signature{classicFor("P-256", otherDigest)}},
	} {
		m := &memory{recall: kept}
		o := testOptions(failing(errUnavailable))
		o.Keeper = m
		v := newVerifierWith(t, o, byKey("P-256"))
		_, err := v.Verify(t.Context(), appSubject())
		checkUndecided(t, err, evidence.ErrUnavailable, "signed")
		if v.Cached() != 0 || len(m.kept) != 0 {
			t.Errorf("%s: %d cached, %d kept", name, v.Cached(), len(m.kept))
		}
	}
}

// A registry that answers is believed over what was kept: a signature that was taken off it counts no
// longer, and evidence past a bound is not mended from disk.
func TestARegistryThatAnswersIsBelieved(t *testing.T) {
	for _, ev := range []*evidence.Evidence{found(), found(errTooMany), found(errMismatch)} {
		m := &memory{recall: found(classicFor("P-256", appDigest))}
		o := testOptions(holding(ev))
		o.Keeper = m
		checkDecision(t, verdictOn(t, newVerifierWith(t, o, byKey("P-256")), appSubject()), false, "no signatures found")
		if m.asked != 0 {
			t.Error("kept evidence was asked for")
		}
	}
}

func TestOnlyWhatAnAllowRestedOnIsKept(t *testing.T) {
	good, bad := classicFor("P-256", appDigest), classicFor("other P-256", appDigest)
	for name, c := range map[string]struct {
		doc      string
		material []any
		kept     int
	}{
		"allow":                       {byKey("P-256"), []any{good}, 1},
		"deny":                        {byKey("P-256"), []any{bad}, 0},
		"warning":                     {policyDoc("w", "warn", keyAuthority("k", []string{"P-256"})), []any{bad}, 0},
		"allow on a part":             {byKey("P-256"), []any{good, errUnavailable}, 0},
		"static pass, nothing looked": {policyDoc("s", "enforce", staticAuthority("pass", "")), []any{good}, 0},
	} {
		m := &memory{}
		o := testOptions(holding(found(c.material...)))
		o.Keeper = m
		verdictOn(t, newVerifierWith(t, o, c.doc), appSubject())
		if len(m.kept) != c.kept {
			t.Errorf("%s: %d kept, want %d", name, len(m.kept), c.kept)
		}
	}
}

// slow is a Keeper that does what none may: it waits.
type slow struct {
	memory
	keeping chan struct{}
	letGo   chan struct{}
}

func (s *slow) Keep(*evidence.Evidence) {
	s.keeping <- struct{}{}
	<-s.letGo
}

// The registry is well and the image is signed: what becomes of the evidence on a disk is nobody's matter who waits for
// the verdict. It is remembered by then, and no place is held that other images wait for.
func TestAVerdictIsRememberedBeforeItsEvidenceIsKept(t *testing.T) {
	h := &slow{keeping: make(chan struct{}, 2), letGo: make(chan struct{})}
	o := testOptions(holding(found(classicFor("P-256", appDigest))))
	o.Keeper, o.ClusterKeeper = h, h
	v := newVerifierWith(t, o, byKey("P-256"))
	done := make(chan error, 1)
	go func() {
		_, err := v.Verify(context.Background(), appSubject())
		done <- err
	}()
	<-h.keeping
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // which is not used up but by who waits in vain
	defer cancel()
	verdict, err := v.Verify(ctx, appSubject())
	if err != nil {
		t.Fatal(err)
	}
	checkDecision(t, verdict, true, "")
	var all []evidence.Question
	for i := range limits.Questions.Max() {
		all = append(all, evidence.Question{Repository: fmt.Sprintf("r%d.example/app", i)})
	}
	leave, err := v.places.Enter(ctx, all...)
	if err != nil {
		t.Errorf("places are held: %v", err)
	}
	leave()
	close(h.letGo)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A registry that never answers uses up all the time there is for it. What was kept is for that very case; and it is
// not waited for without end, because a place is held meanwhile.
func TestKeptEvidenceIsRecalledInATimeOfItsOwn(t *testing.T) {
	m := &memory{recall: found(classicFor("P-256", appDigest))}
	o := testOptions(silent{})
	o.Keeper, o.FetchTimeout = m, time.Millisecond
	// Judging has as long as fetching had, which is too short here.
	_, _ = newVerifierWith(t, o, byKey("P-256")).Verify(t.Context(), appSubject())
	if m.asked != 1 || !m.inTime || !m.bounded {
		t.Errorf("asked %d times, in time: %v, bounded: %v", m.asked, m.inTime, m.bounded)
	}
}

// silent is a registry that never answers.
type silent struct{}

func (silent) Fetch(ctx context.Context, _ evidence.Question) (*evidence.Evidence, error) {
	<-ctx.Done()
	return nil, fmt.Errorf("%w: %w", evidence.ErrUnavailable, context.Cause(ctx))
}
