package sync

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	gosync "sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"

	"github.com/cosentry/cosentry/agent/cluster"
	nsfile "github.com/cosentry/cosentry/agent/namespaces"
	"github.com/cosentry/cosentry/verify/policy"
)

// node is one sync and its folder.
type node struct {
	t    *testing.T
	dir  string
	sync *Sync
	log  *lockedBuffer
	stop func()
}

type lockedBuffer struct {
	mu gosync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start starts a sync that writes to dir.
func start(t *testing.T, a *apiServer, dir string, keys ...policy.PublicKey) *node {
	t.Helper()
	return startWith(t, a, dir, true, keys...)
}

func startWith(t *testing.T, a *apiServer, dir string, namespaces bool, keys ...policy.PublicKey) *node {
	t.Helper()
	api, err := NewAPI(&rest.Config{Host: a.URL}, "test")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, dir: dir, log: &lockedBuffer{}}
	ctx, cancel := context.WithCancel(t.Context())
	n.sync, err = New(ctx, Options{
		API: api, Dir: dir, Signed: keys != nil, Namespaces: namespaces, Log: slog.New(slog.NewTextHandler(n.log, nil)),
		Load: func(folder string) error { _, err := cluster.LoadSet(ctx, folder, keys); return err },
	})
	if err != nil {
		t.Fatal(err)
	}
	n.sync.pace = pace{settle: 5 * time.Millisecond, patience: 50 * time.Millisecond, recheck: 20 * time.Millisecond, firstAnswer: time.Second,
		source: sourcePace{time.Millisecond, 10 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond}}
	done := make(chan error, 1)
	go func() { done <- n.sync.Run(ctx) }()
	n.stop = gosync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(n.stop)
	return n
}

func (n *node) eventually(what string, ok func() bool) {
	n.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			n.t.Fatalf("not in 20 seconds: %s\n%s\n%v", what, n.log, n.files())
		}
	}
}

// files are those of the set in force.
func (n *node) files() map[string]string {
	n.t.Helper()
	files := map[string]string{}
	set, err := filepath.EvalSymlinks(filepath.Join(n.dir, cluster.Current))
	if err != nil {
		return nil
	}
	_ = filepath.WalkDir(set, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			data, _ := os.ReadFile(path)
			name, _ := filepath.Rel(set, path)
			files[name] = string(data)
		}
		return nil
	})
	return files
}

func (n *node) has(file string) func() bool {
	return func() bool { _, ok := n.files()[file]; return ok }
}

func (n *node) hasNot(file string) func() bool {
	return func() bool { f := n.files(); _, ok := f[file]; return f != nil && !ok }
}

// rounds waits until so many rounds have ended: what has not happened then does not happen.
func (n *node) rounds(count int) {
	n.t.Helper()
	for range count {
		before := n.sync.round.Load()
		n.eventually("a round", func() bool { return n.sync.round.Load() != before })
	}
}

// upToDate waits until the heartbeat is of now.
func (n *node) upToDate() {
	n.t.Helper()
	now := time.Now().UTC()
	n.eventually("up to date", func() bool {
		return n.metric(upToDateSeries) > 0 && n.beat().After(now.Add(-time.Minute))
	})
}

func (n *node) beat() time.Time {
	t, err := cluster.Beat(n.dir)
	if err != nil {
		return time.Time{}
	}
	return t
}

func (n *node) metric(series string) float64 {
	n.t.Helper()
	w := httptest.NewRecorder()
	n.sync.MetricsHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			var v float64
			if _, err := fmt.Sscan(rest, &v); err != nil {
				n.t.Fatal(err)
			}
			return v
		}
	}
	return -1
}

func named(name string, spec map[string]any) map[string]any {
	return map[string]any{"metadata": map[string]any{"name": name, "uid": "u", "managedFields": []any{map[string]any{"manager": "kubectl"}}}, "spec": spec}
}

func forAll(authority map[string]any) map[string]any {
	return map[string]any{"images": []any{map[string]any{"glob": "**"}}, "authorities": []any{authority}}
}

func static(action string) map[string]any {
	return map[string]any{"static": map[string]any{"action": action}}
}

func bySecret(name string) map[string]any {
	return map[string]any{"key": map[string]any{"secretRef": map[string]any{"name": name}}}
}

func (a *apiServer) policy(name string, authority map[string]any) {
	a.put(policyPath, "ClusterImagePolicy", named(name, forAll(authority)))
}

func (a *apiServer) secret(namespace, name string, data map[string]string) {
	encoded := map[string]any{}
	for k, v := range data {
		encoded[k] = base64.StdEncoding.EncodeToString([]byte(v))
	}
	a.put(secretPath, "Secret", map[string]any{"metadata": map[string]any{"namespace": namespace, "name": name}, "data": encoded})
}

func (a *apiServer) namespace(name string, labels map[string]any) {
	a.put(namespacePath, "Namespace", map[string]any{"metadata": map[string]any{"name": name, "labels": labels}})
}

// upToDateSeries is finer than the heartbeat's seconds. It begins with 0.
const upToDateSeries = "cosentry_sync_up_to_date_timestamp_seconds"

const fileA = "policies/clusterimagepolicy.a.yaml"

func TestWhatTheClusterHoldsComesToTheNode(t *testing.T) {
	a := newAPIServer(t)
	a.policy("a", bySecret("key"))
	rule := map[string]any{"type": "cue", "configMapRef": map[string]any{"namespace": "rules", "name": "r", "key": "a.cue"}}
	withRule := forAll(map[string]any{"key": map[string]any{"secretRef": map[string]any{"name": "key"}},
		"source": []any{map[string]any{"oci": "registry.example/sigs", "signaturePullSecrets": []any{map[string]any{"name": "pull"}}}}})
	withRule["policy"] = rule
	a.put(policyPath, "ClusterImagePolicy", named("b.c", withRule))
	a.secret("cosign-system", "key", map[string]string{"cosign.pub": "PEM"})
	a.secret("shop", "pull", map[string]string{".dockerconfigjson": "{}", "other": "private"})
	a.secret("shop", "key", map[string]string{"tls.key": "private"})
	a.secret("shop", "database", map[string]string{"password": "private"})
	a.put(configMapPath, "ConfigMap", map[string]any{"metadata": map[string]any{"namespace": "rules", "name": "r"}, "data": map[string]any{"a.cue": "x: 1", "b.cue": "y"}})
	a.namespace("shop", map[string]any{include: "true", "team": "x"})
	a.namespace("legacy", nil)
	n := start(t, a, t.TempDir())
	n.upToDate()
	got := n.files()
	listed, err := nsfile.Parse([]byte(got[cluster.Namespaces]), false)
	if err != nil || !cmp.Equal(listed, map[string]bool{"shop": true, "legacy": false}) {
		t.Errorf("%v, %v", listed, err)
	}
	for file, want := range map[string]string{
		"secrets/cosign-system/key/cosign.pub": "PEM",
		"secrets/shop/pull/.dockerconfigjson":  "{}",
		"configmaps/rules/r/a.cue":             "x: 1",
	} {
		if got[file] != want {
			t.Errorf("%s: %q", file, got[file])
		}
		delete(got, file)
	}
	for _, file := range []string{fileA, "policies/clusterimagepolicy.b.c.yaml", cluster.Namespaces} {
		if strings.Contains(got[file], "managedFields") || got[file] == "" {
			t.Errorf("%s: %s", file, got[file])
		}
		delete(got, file)
	}
	if len(got) > 0 {
		t.Errorf("nobody named these: %v", got)
	}
	l, err := cluster.Load(t.Context(), n.dir, nil)
	if err != nil || len(l.Policies.Policies()) != 2 {
		t.Errorf("%v, %v", l, err)
	}
	// Rights for secrets that policies name are enough.
	for _, r := range a.requests() {
		if (strings.Contains(r, "/secrets") || strings.Contains(r, "/configmaps")) && !strings.Contains(r, "fieldSelector=metadata.name%3D") {
			t.Errorf("asked for more than was named: %s", r)
		}
	}
}

func TestChangesArrive(t *testing.T) {
	a := newAPIServer(t)
	a.policy("a", bySecret("key"))
	a.secret("cosign-system", "key", map[string]string{"cosign.pub": "old"})
	n := start(t, a, t.TempDir())
	key := "secrets/cosign-system/key/cosign.pub"
	n.eventually("the key", n.has(key))
	a.secret("cosign-system", "key", map[string]string{"cosign.pub": "new"})
	n.eventually("the rotated key", func() bool { return n.files()[key] == "new" })
	a.remove(secretPath, "cosign-system", "key")
	n.eventually("that the key was taken away", n.hasNot(key))
	a.policy("b", static("fail"))
	n.eventually("another policy", n.has("policies/clusterimagepolicy.b.yaml"))
	a.remove(policyPath, "", "a")
	n.eventually("that a policy was deleted", n.hasNot(fileA))
	a.put(rootPath, "TrustRoot", named("broken", map[string]any{}))
	n.eventually("a fault", func() bool { return n.metric("cosentry_sync_broken") == 1 })
}

func TestNothingIsWrittenWhereNothingChanged(t *testing.T) {
	a := newAPIServer(t)
	a.policy("a", static("fail"))
	a.namespace("shop", map[string]any{"a": "b"})
	n := start(t, a, t.TempDir())
	n.upToDate()
	n.eventually("the first set", func() bool { return n.metric("cosentry_sync_sets_written_total") > 0 })
	before, _ := os.Readlink(filepath.Join(n.dir, cluster.Current))
	o := named("a", forAll(static("fail")))
	o["status"] = map[string]any{"conditions": []any{}}
	a.put(policyPath, "ClusterImagePolicy", o)
	a.namespace("shop", map[string]any{"a": "c"})
	a.policy("b", static("fail"))
	n.eventually("a change", n.has("policies/clusterimagepolicy.b.yaml"))
	a.remove(policyPath, "", "b")
	n.eventually("back", n.hasNot("policies/clusterimagepolicy.b.yaml"))
	n.rounds(3)
	if after, _ := os.Readlink(filepath.Join(n.dir, cluster.Current)); !strings.HasPrefix(after, before) {
		t.Errorf("%s became %s", before, after)
	}
	n.stop()
	n = start(t, a, n.dir)
	n.upToDate()
	if written := n.metric("cosentry_sync_sets_written_total"); written != 0 {
		t.Errorf("a restart wrote %v sets", written)
	}
}
