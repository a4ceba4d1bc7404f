package reload

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trust"
)

const deadline = 10 * time.Second

// verifier keeps what was put in force.
type verifier struct {
	mu       sync.Mutex
	set      *policy.Set
	refs     *trust.Snapshot
	unusable error
	puts     int // times that a set was put in force
	loads    int // attempts that went well
	broken   int // attempts that failed
}

func (v *verifier) SetPolicies(s *policy.Set, refs *trust.Snapshot) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.set, v.refs, v.unusable = s, refs, nil
	v.puts++
}

func (v *verifier) SetUnusable(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.set, v.unusable = nil, err
}

func (v *verifier) PoliciesLoaded(string, int, time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.loads++
}

func (v *verifier) PoliciesBroken() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.broken++
}

// refuses is why every gated call is refused; nil: it is judged.
func (v *verifier) refuses() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.unusable
}

func (v *verifier) names() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.set == nil {
		return "none"
	}
	var names []string
	for _, p := range v.set.Policies() {
		names = append(names, p.Name)
	}
	return strings.Join(names, " ")
}

// nothing is referred to.
type nothing struct{}

func (nothing) Resolve(*policy.Set) *trust.Snapshot { return nil }

func document(name string) string {
	return "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {name: " + name + "}\n" +
		"spec: {images: [{glob: \"**\"}], authorities: [{static: {action: fail}}]}\n"
}

func put(t *testing.T, dir, file, text string) {
	t.Helper()
	// As careful owners do: written beside, then renamed.
	tmp := filepath.Join(dir, "."+file)
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, file)); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within %s: %s", deadline, what)
}

func start(t *testing.T, dir string) (*Policies, *verifier, chan os.Signal) {
	t.Helper()
	v := &verifier{}
	p := New(dir, nothing{}, v, v, slog.New(slog.DiscardHandler))
	p.Load()
	ctx, cancel := context.WithCancel(context.Background())
	again, done := make(chan os.Signal, 1), make(chan error, 1)
	go func() { done <- p.Watch(ctx, again) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: %v", err)
		}
	})
	return p, v, again
}

func TestBrokenAtStartTakesPermissionAway(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "a.yaml", "kind: Nonsense\n")
	p, v, _ := start(t, dir)
	if v.refuses() == nil {
		t.Fatal("the verifier was not told that it has no policies")
	}
	if s := p.State(); s.Revision != "" || !strings.Contains(s.Broken, "a.yaml") {
		t.Errorf("state %+v", s)
	}
	put(t, dir, "a.yaml", document("mended"))
	eventually(t, "mended policies in force", func() bool { return v.names() == "mended" })
	eventually(t, "state mended", func() bool { return p.State().Broken == "" })
}

func TestMissingFolderIsBroken(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "policies")
	_, v, again := start(t, dir)
	if v.refuses() == nil {
		t.Fatal("a missing folder was taken for an empty one")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "a.yaml", document("late"))
	again <- syscall.SIGHUP
	eventually(t, "policies of the folder made later", func() bool { return v.names() == "late" })
}

func TestBrokenLaterKeepsTheLastGoodSet(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "a.yaml", document("good"))
	p, v, _ := start(t, dir)
	put(t, dir, "b.yaml", "kind: [\n")
	eventually(t, "the fault is seen", func() bool { return p.State().Broken != "" })
	if v.names() != "good" || v.refuses() != nil {
		t.Errorf("in force: %s, unusable: %v", v.names(), v.refuses())
	}
	if s := p.State(); s.Revision == "" || s.Count != 1 {
		t.Errorf("state %+v", s)
	}
	if err := os.Remove(filepath.Join(dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the fault is gone", func() bool { return p.State().Broken == "" })
}

func TestAddedPolicyIsPutInForce(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "a.yaml", document("one"))
	_, v, _ := start(t, dir)
	put(t, dir, "b.yaml", document("two"))
	eventually(t, "both in force", func() bool { return v.names() == "one two" })
}

func TestFolderReplacedWholeIsFoundAgain(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "policies")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "a.yaml", document("old"))
	_, v, again := start(t, dir)
	if err := os.Rename(dir, filepath.Join(parent, "gone")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "a.yaml", document("new"))
	again <- syscall.SIGHUP
	eventually(t, "the new folder's policies", func() bool { return v.names() == "new" })
	// And it is watched again, not only read once.
	put(t, dir, "b.yaml", document("newer"))
	eventually(t, "a change in the new folder", func() bool { return v.names() == "new newer" })
}

func TestUnchangedFilesAreNotPutInForceAgain(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "a.yaml", document("same"))
	v := &verifier{}
	var log bytes.Buffer
	p := New(dir, nothing{}, v, v, slog.New(slog.NewTextHandler(&log, nil)))
	for range 3 {
		p.Load()
	}
	if v.puts != 1 {
		t.Errorf("put in force %d times: each time drops every verdict", v.puts)
	}
	if v.loads != 3 {
		t.Errorf("%d of 3 attempts were told", v.loads)
	}
	loaded := p.State().Loaded
	put(t, dir, "a.yaml", "{")
	for range 3 {
		p.Load()
	}
	if v.broken != 3 {
		t.Errorf("%d of 3 failed attempts were told", v.broken)
	}
	if n := strings.Count(log.String(), "cannot be loaded"); n != 1 {
		t.Errorf("one fault was logged %d times", n)
	}
	if s := p.State(); s.Loaded != loaded {
		t.Errorf("what is in force was loaded %v, not %v", loaded, s.Loaded)
	}
	put(t, dir, "a.yaml", document("same"))
	p.Load()
	if s := p.State(); s.Broken != "" || v.puts != 1 {
		t.Errorf("after mending: %+v, put in force %d times", s, v.puts)
	}
}

// Warnings reach the owner who never runs `policy check`, at each change and not each minute.
func TestWarningsAreLoggedAndCounted(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "a.yaml", strings.Replace(document("open"), "fail", "pass", 1))
	var log bytes.Buffer
	v := &verifier{}
	p := New(dir, nothing{}, v, v, slog.New(slog.NewTextHandler(&log, nil)))
	p.Load()
	p.Load()
	if n := strings.Count(log.String(), "passes every image"); n != 1 || !strings.Contains(log.String(), "policy=open") {
		t.Errorf("the warning was logged %d times:\n%s", n, &log)
	}
	if s := p.State(); s.Warnings != 1 {
		t.Errorf("state %+v", s)
	}
	for i := range 3 * maxWarnings {
		name := fmt.Sprintf("p%d", i)
		put(t, dir, name+".yaml", strings.Replace(document(name), "fail", "pass", 1))
	}
	log.Reset()
	p.Load()
	if n := strings.Count(log.String(), "level=WARN"); n != maxWarnings+1 {
		t.Errorf("%d lines for %d warnings", n, 3*maxWarnings+1)
	}
	if s := p.State(); s.Warnings != 3*maxWarnings+1 {
		t.Errorf("%d warnings counted", s.Warnings)
	}
}
