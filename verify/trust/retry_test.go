package trust

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trustroot"
	"github.com/cosentry/cosentry/verify/trustroot/tuftest"
)

func TestTriesComeLaterAndLater(t *testing.T) {
	for failures, want := range map[int]time.Duration{1: 5 * time.Second, 2: 10 * time.Second, 5: 80 * time.Second, 20: 5 * time.Minute, 1 << 30: 5 * time.Minute} {
		if got := retryAfter(failures, firstWanted, lastWanted); got != want {
			t.Errorf("what policies lack: after %d failures %s, want %s", failures, got, want)
		}
	}
	for failures, want := range map[int]time.Duration{1: time.Minute, 2: 2 * time.Minute, 9: time.Hour} {
		if got := retryAfter(failures, firstKept, lastKept); got != want {
			t.Errorf("what is kept: after %d failures %s, want %s", failures, got, want)
		}
	}
}

// What policies lack is refused until it is there; what works may wait.
func TestHowLongAnItemIsLeftAlone(t *testing.T) {
	now := beforeEnd()
	failed := errors.New("away")
	const most = 20 // failures, after which no pause is longer
	until := func(end time.Time) *trustroot.Root { return &trustroot.Root{Revision: "fetched", Expires: end} }
	root := func(it item, r *trustroot.Root) item {
		it.id, it.every, it.content = itemID{kind: KindRoot}, 24*time.Hour, &content{root: r}
		return it
	}
	public, same, key := trustroot.PublicGood(), trustroot.PublicGood(), &content{text: "key"}
	same.Expires = now.Add(-time.Hour)
	for name, tt := range map[string]struct {
		it          item
		at          time.Time
		least, most time.Duration
	}{
		"a key that was never had":               {item{id: keyItemID("k"), every: time.Hour, err: failed, failures: most}, now, 0, lastWanted},
		"a key that is gone":                     {item{id: keyItemID("k"), every: time.Hour, err: failed, failures: most, gone: true}, now, 0, lastWanted},
		"a rule that was never had":              {item{id: itemID{kind: KindRemote}, err: failed, failures: most}, now, 0, lastWanted},
		"a root that was never had":              {item{id: itemID{kind: KindRoot}, every: 24 * time.Hour, err: failed, failures: most}, now, 0, lastWanted},
		"a root that has expired":                {root(item{err: failed, failures: most}, until(now.Add(-time.Hour))), now, 0, lastWanted},
		"a root that soon will have":             {root(item{err: failed, failures: most}, until(now.Add(nearEnd))), now, 0, lastWanted},
		"what was fetched ends soon":             {root(item{}, until(now.Add(time.Minute))), now, 0, lastWanted},
		"the built-in root, at its end":          {item{id: itemID{kind: KindRoot}, every: 24 * time.Hour, builtIn: public, err: failed, failures: most}, public.Expires, 0, lastWanted},
		"another took the built-in root's place": {root(item{builtIn: public, err: failed, failures: most}, until(now.Add(-time.Hour))), now, 0, lastWanted},
		"a key that is kept":                     {item{id: keyItemID("k"), every: time.Hour, content: key, err: failed, failures: most}, now, 54 * time.Minute, 66 * time.Minute},
		"a key that was fetched":                 {item{id: keyItemID("k"), every: time.Hour, content: key}, now, 54 * time.Minute, 66 * time.Minute},
		"a root that is kept":                    {root(item{err: failed, failures: most}, until(now.Add(48*time.Hour))), now, 54 * time.Minute, 66 * time.Minute},
		"the built-in root, while it holds":      {item{id: itemID{kind: KindRoot}, every: 24 * time.Hour, builtIn: public, err: failed, failures: most}, now, 54 * time.Minute, 66 * time.Minute},
		"the built-in root's end counts":         {root(item{builtIn: public, err: failed, failures: most}, same), now, 54 * time.Minute, 66 * time.Minute},
		"what the disk does not take":            {item{id: itemID{kind: KindRemote}, content: key, disk: notKept}, now, 54 * time.Minute, 66 * time.Minute},
		"a root that the disk does not take":     {root(item{disk: notKept}, until(time.Time{})), now, 54 * time.Minute, 66 * time.Minute},
		// A full disk must not have a rotated key be trusted for longer than its owner said.
		"a key of each minute that the disk does not take": {item{id: keyItemID("k"), every: time.Minute, content: key, disk: notKept}, now, 54 * time.Second, 66 * time.Second},
		"a root that ends before its next refresh":         {root(item{}, until(now.Add(10*time.Hour))), now, 9 * time.Hour, 9*time.Hour + nearEnd/2},
		"a root that ends before its next retry":           {root(item{err: failed, failures: most}, until(now.Add(nearEnd+5*time.Minute))), now, 5 * time.Minute, 5*time.Minute + nearEnd/2},
		"a root that was fetched":                          {root(item{}, until(now.Add(30*24*time.Hour))), now, 21 * time.Hour, 27 * time.Hour},
		"a root without an end":                            {root(item{}, until(time.Time{})), now, 21 * time.Hour, 27 * time.Hour},
		// Who signs such an end must not have all nodes ask without a pause.
		"a root whose end is further than can be told": {root(item{}, until(time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC))), now, 21 * time.Hour, 27 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			const draws = 1000
			var early, late bool
			var sum time.Duration
			for range draws {
				d := tt.it.pause(tt.at)
				if d <= 0 || d < tt.least || d > tt.most+time.Millisecond {
					t.Fatalf("%s, want %s to %s", d, tt.least, tt.most)
				}
				third := (tt.most - tt.least) / 3
				early, late, sum = early || d < tt.least+third, late || d > tt.most-third, sum+d
			}
			// 10,000 nodes that begin together must not go on together.
			if !early || !late {
				t.Errorf("pauses are not spread over %s to %s", tt.least, tt.most)
			}
			if tt.most == lastWanted && sum < draws*2*time.Minute {
				t.Errorf("mean pause is %s: 10,000 nodes would ask more often than the comment says", sum/draws)
			}
		})
	}
}

// idle gives all items, by kind, when none is being tried.
func (n *node) idle(t *testing.T) map[string]*item {
	t.Helper()
	all := map[string]*item{}
	until(t, "nothing is tried", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		clear(all)
		for _, it := range n.items {
			if it.trying || it.running {
				return false
			}
			all[it.id.kind] = it
		}
		return true
	})
	return all
}

func (n *node) due(it *item) time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return it.due
}

// wait is how long an item still waits for its next try.
func (n *node) wait(it *item) time.Duration { return n.due(it).Sub(n.now()) }

// An outage of three hours at a node's start: key, rule and root were never had. Once their sources are back the node has
// them in minutes by itself, and in seconds if its owner reloads. It took up to 66 minutes, whatever the owner did but
// restart.
func TestReloadAfterAnOutageAsksAtOnce(t *testing.T) {
	var up atomic.Bool
	_, pem := newKey(t)
	url := rulesServer(t, func(w http.ResponseWriter, _ *http.Request) {
		if !up.Load() {
			http.Error(w, "", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, aRule)
	})
	repository := tuftest.WithTrustedRoot(t, tuftest.TrustedRootJSON(t, newSigstore(t)))
	repository.Rewrite(func(_ string, data []byte) []byte {
		if !up.Load() {
			return nil
		}
		return data
	})
	corp := &policy.TrustRoot{Name: "corp", Remote: &policy.TUFRemote{Root: repository.Root(), Mirror: repository.Serve(), Target: "trusted_root.json"}}
	kms, rule := kmsPolicy(t, "hashivault://k"), remotePolicy(t, url, sha(aRule))
	rule.Policies()[0].Name = "p1"
	all := with(t, policy.Documents{Policies: append(kms.Policies(), rule.Policies()...), TrustRoots: []*policy.TrustRoot{corp}})
	n := fresh(t)
	n.fetchKey = func(context.Context, string) (string, error) {
		if !up.Load() {
			return "", errors.New("away")
		}
		return pem, nil
	}
	n.Resolve(all)
	n.start(t)
	for round := 1; time.Duration(round)*lastWanted < 3*time.Hour; round++ {
		until(t, "all have failed", func() bool {
			n.mu.Lock()
			defer n.mu.Unlock()
			for _, it := range n.items {
				if it.failures < round {
					return false
				}
			}
			return len(n.items) > 0
		})
		for _, it := range n.idle(t) {
			if left := n.wait(it); left > lastWanted+time.Millisecond {
				t.Fatalf("after failure %d, %s is tried again in %s", round, it.id, left)
			}
		}
		n.later(lastWanted + time.Second)
	}
	items := n.idle(t)
	if len(items) != 3 {
		t.Fatalf("%d kinds of items", len(items))
	}
	up.Store(true)
	n.Again()
	for _, it := range items {
		if left := n.wait(it); left > spread {
			t.Errorf("after a reload, %s is tried again in %s", it.id, left)
		}
	}
	n.later(spread)
	until(t, "all are there", func() bool {
		s := n.Resolve(all)
		_, noKey := s.Keys(keyOf(kms))
		_, noRule := s.Rule(ruleOf(rule))
		_, noRoot := s.Root("corp")
		return noKey == nil && noRule == nil && noRoot == nil
	})
}

// turns is a key management service whose answers a test gives one at a time.
type turns struct {
	asked  chan struct{}
	answer chan any // a PEM or an error
}

func (n *node) byTurns() turns {
	s := turns{make(chan struct{}), make(chan any)}
	n.fetchKey = func(ctx context.Context, _ string) (string, error) {
		select {
		case s.asked <- struct{}{}:
		case <-ctx.Done():
			return "", ctx.Err()
		}
		select {
		case a := <-s.answer:
			if err, wrong := a.(error); wrong {
				return "", err
			}
			return a.(string), nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	return s
}

func (s turns) isAsked(t *testing.T, when string) {
	t.Helper()
	select {
	case <-s.asked:
	case <-time.After(30 * time.Second):
		t.Fatalf("after 30 s the service is not asked: %s", when)
	}
}

// A key that works may have been rotated: what has not failed is asked for too.
func TestReloadAsksForWhatWorks(t *testing.T) {
	first, old := newKey(t)
	second, rotated := newKey(t)
	n, p := fresh(t), kmsPolicy(t, "hashivault://k")
	service := n.byTurns()
	n.Resolve(p)
	n.start(t)
	service.isAsked(t, "at first")
	service.answer <- old
	until(t, "the key is there", isKey(n, p, first))
	it := n.idle(t)[KindKMS]
	if left := n.wait(it); left < 30*time.Minute {
		t.Fatalf("it is asked for again in %s: this shows nothing", left)
	}
	n.Again()
	if left := n.wait(it); left > spread {
		t.Errorf("after a reload it is asked for in %s", left)
	}
	// Who reloads on and on must not put it off.
	for range 100 {
		before := n.due(it)
		if n.Again(); n.due(it).After(before) {
			t.Fatal("a reload puts it off")
		}
	}
	n.later(spread)
	service.isAsked(t, "after a reload")
	service.answer <- rotated
	until(t, "the new key is there", isKey(n, p, second))
}

// A try that was under way may have asked before the owner was done, and fails or brings what was there until then.
func TestReloadDuringATryAsksOnceMore(t *testing.T) {
	_, old := newKey(t)
	second, rotated := newKey(t)
	for name, answer := range map[string]any{"it fails": errors.New("away"), "it brings the old key": old} {
		t.Run(name, func(t *testing.T) {
			n, p := fresh(t), kmsPolicy(t, "hashivault://k")
			service := n.byTurns()
			n.Resolve(p)
			const before = 20 // failures, after which the next try would be minutes away
			it := n.idle(t)[KindKMS]
			it.failures = before
			n.start(t)
			service.isAsked(t, "at first")
			n.Again()
			service.answer <- answer
			until(t, "that try is over", func() bool {
				n.mu.Lock()
				defer n.mu.Unlock()
				return it.failures != before
			})
			if left := n.wait(it); left > spread {
				t.Errorf("the next try is in %s", left)
			}
			n.later(spread)
			service.isAsked(t, "once more")
			service.answer <- rotated
			until(t, "the new key is there", isKey(n, p, second))
			if left := n.wait(n.idle(t)[KindKMS]); left < 30*time.Minute {
				t.Errorf("and then again in %s", left)
			}
		})
	}
}

// What never changes and is there is not asked for, whoever reloads.
func TestReloadDoesNotAskForWhatIsBoundByAHash(t *testing.T) {
	var asked atomic.Int32
	url := rulesServer(t, func(w http.ResponseWriter, _ *http.Request) { asked.Add(1); fmt.Fprint(w, aRule) })
	n, s := fresh(t), remotePolicy(t, url, sha(aRule))
	n.FetchNow(t.Context(), s)
	n.Again()
	n.later(spread)
	var tries sync.WaitGroup
	n.beginDue(t.Context(), &tries)
	tries.Wait()
	if asked.Load() != 1 {
		t.Errorf("it was asked for %d times", asked.Load())
	}
}

func TestStepsOfTheClock(t *testing.T) {
	day := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	if today, _ := systemClock()(); today != today.Round(0) {
		t.Error("times of day have a monotonic reading: what is due would not follow a step")
	}
	const sec, hour = time.Second, time.Hour
	type at struct{ day, worked, want time.Duration }
	for name, all := range map[string][]at{
		"none":                       {{hour, hour, 0}},
		"NTP slews it for a day":     {{24*hour + 43*sec, 24 * hour, 0}},
		"put forward":                {{2 * hour, sec, 2*hour - sec}, {3 * hour, hour + sec, 0}},
		"put back":                   {{-2 * hour, sec, -2*hour - sec}, {-hour, hour + sec, 0}},
		"there and back":             {{hour, 0, hour}, {0, 0, -hour}},
		"short sleeps add up":        {{31 * sec, sec, 0}, {62 * sec, 2 * sec, 0}, {93 * sec, 3 * sec, 90 * sec}},
		"further than can be told":   {{-1 << 63, 0, -1 << 63}},
		"further still, after hours": {{-1 << 63, hour, 1<<63 - 1 - hour + 1}},
	} {
		s := steps{day: day}
		for i, a := range all {
			if got := s.step(day.Add(a.day), a.worked); got != a.want {
				t.Errorf("%s, look %d: %s, want %s", name, i, got, a.want)
			}
		}
	}
}

// A clock that was put back would let a key that was taken back count for so much longer; one that was put forward, or a
// machine that slept, has not asked for as long.
func TestStepOfTheClockHasEverythingAskedForAgain(t *testing.T) {
	_, pem := newKey(t)
	for name, by := range map[string]time.Duration{"back": -2 * time.Hour, "forward": 10 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			n, p := fresh(t), kmsPolicy(t, "hashivault://k")
			service := n.byTurns()
			n.Resolve(p)
			n.start(t)
			service.isAsked(t, "at first")
			service.answer <- pem
			it := n.idle(t)[KindKMS]
			if left := n.wait(it); left < 30*time.Minute {
				t.Fatalf("it is asked for again in %s: this shows nothing", left)
			}
			n.step(by)
			until(t, "the step is seen", func() bool { return strings.Contains(n.log.String(), "this machine slept") })
			if left := n.wait(it); left > spread {
				t.Errorf("it is asked for again in %s", left)
			}
			n.later(spread)
			service.isAsked(t, "after the step")
		})
	}
}

// A virtual machine that slept past the end of its root must not refuse everything until trust.refresh is over by a clock
// that stood still meanwhile.
func TestRootThatExpiredDuringASleepIsFetchedAtOnce(t *testing.T) {
	repository := tuftest.WithTrustedRoot(t, tuftest.TrustedRootJSON(t, newSigstore(t)))
	n := fresh(t)
	n.at(time.Now())
	lasting := repository.Expires["snapshot"]
	repository.Expires["snapshot"] = n.now().Add(3 * time.Hour)
	repository.Publish()
	s := roots(t, &policy.TrustRoot{Name: "r", Remote: &policy.TUFRemote{Root: repository.Root(), Mirror: repository.Serve(), Target: "trusted_root.json"}})
	holds := func() bool { _, err := n.Resolve(s).Root("r"); return err == nil }
	n.start(t)
	until(t, "it is there", holds)
	repository.Expires["snapshot"] = lasting
	repository.Publish()
	n.step(4 * time.Hour)
	until(t, "the one that holds longer is there", holds)
}
