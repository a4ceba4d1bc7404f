package sync

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
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
	api, err := NewAPI(&rest.Config{Host: a.URL}, "test")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, dir: dir, log: &lockedBuffer{}}
	ctx, cancel := context.WithCancel(t.Context())
	n.sync, err = New(ctx, Options{
		API: api, Dir: dir, Signed: keys != nil, Log: slog.New(slog.NewTextHandler(n.log, nil)),
		Load: func(folder string) error { _, err := cluster.LoadSet(ctx, folder, keys); return err },
	})
	if err != nil {
		t.Fatal(err)
	}
	n.sync.pace = pace{settle: 5 * time.Millisecond, patience: 50 * time.Millisecond, recheck: 20 * time.Millisecond, firstAnswer: time.Second,
		source: sourcePace{time.Millisecond, 10 * time.Millisecond, 10 * time.Millisecond}}
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
	n.sync.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
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
	listed, err := nsfile.Parse([]byte(got[cluster.Namespaces]))
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

// The last good set stays for as long as the API server is away, and its age shows.
func TestAnAPIServerThatIsGoneChangesNothing(t *testing.T) {
	all := []string{policyPath, oldPolicyPath, rootPath, namespacePath, secretPath}
	a := newAPIServer(t)
	a.policy("a", bySecret("key"))
	a.secret("cosign-system", "key", map[string]string{"cosign.pub": "PEM"})
	a.namespace("shop", nil)
	n := start(t, a, t.TempDir())
	n.upToDate()
	n.eventually("the key", n.has("secrets/cosign-system/key/cosign.pub"))
	want := n.files()
	a.answer(http.StatusServiceUnavailable, all...)
	n.eventually("that it is gone", func() bool {
		return n.metric(`cosentry_sync_source{resource="clusterimagepolicies",state="unreachable"}`) == 1
	})
	n.rounds(1)
	knew := n.metric(upToDateSeries)
	n.rounds(3)
	if diff := cmp.Diff(want, n.files()); diff != "" {
		t.Error(diff)
	}
	if now := n.metric(upToDateSeries); now != knew {
		t.Errorf("it takes itself for up to date at %v, was at %v", now, knew)
	}
	n.stop()
	before := n.beat()

	n = start(t, a, n.dir)
	n.eventually("no answer", func() bool {
		return n.metric(`cosentry_sync_source{resource="namespaces",state="unreachable"}`) == 1
	})
	n.rounds(5)
	if diff := cmp.Diff(want, n.files()); diff != "" || n.metric("cosentry_sync_sets_written_total") != 0 {
		t.Error(diff)
	}
	if !n.beat().Equal(before) || n.metric(upToDateSeries) != 0 {
		t.Errorf("it takes itself for up to date at %s", n.beat())
	}
	a.answer(0, all...)
	n.upToDate()
}

// The heartbeat is as old as the kind that was heard of last.
func TestTheHeartbeatSaysSinceWhenNothingWasMissed(t *testing.T) {
	a := newAPIServer(t)
	a.policy("a", static("fail"))
	n := start(t, a, t.TempDir())
	n.upToDate()
	n.eventually("a policy", n.has(fileA))
	for _, resource := range []string{policies, trustRoots, namespaces} {
		n.eventually("changes of "+resource, func() bool { return n.metric(`cosentry_sync_source{resource="`+resource+`",state="live"}`) == 1 })
	}
	heard := func(resource string) time.Time { return n.sync.kinds[resource].view().seen }
	bookmark := func() {
		before := time.Now()
		a.bookmark(policyPath, rootPath)
		n.eventually("bookmarks", func() bool { return heard(policies).After(before) && heard(trustRoots).After(before) })
		n.rounds(2)
	}
	bookmark() // namespaces are what was heard of last from now on
	before := n.metric(upToDateSeries)
	bookmark()
	if now := n.metric(upToDateSeries); now != before {
		t.Errorf("namespaces were not heard of: %v became %v", before, now)
	}
	a.bookmark(policyPath, rootPath, namespacePath)
	n.eventually("a later time", func() bool { return n.metric(upToDateSeries) > before })
}

// Whoever deletes a definition deletes all policies, and hardly meant to.
func TestARemovedDefinitionRemovesNoPolicy(t *testing.T) {
	a := newAPIServer(t)
	a.policy("a", static("fail"))
	a.policy("b", static("fail"))
	n := start(t, a, t.TempDir())
	n.upToDate()
	n.eventually("policies", n.has(fileA))

	a.put(definitionAt, "CustomResourceDefinition", map[string]any{"metadata": map[string]any{"name": "clusterimagepolicies." + group, "deletionTimestamp": "2026-03-01T12:00:00Z"}})
	a.remove(policyPath, "", "a")
	n.eventually("that it is held", func() bool {
		return n.metric(`cosentry_sync_documents_held{resource="clusterimagepolicies"}`) == 1
	})
	a.remove(policyPath, "", "b")
	n.eventually("that both are", func() bool {
		return n.metric(`cosentry_sync_documents_held{resource="clusterimagepolicies"}`) == 2
	})
	a.remove(definitionAt, "", "clusterimagepolicies."+group)
	a.answer(http.StatusNotFound, policyPath, oldPolicyPath)
	n.eventually("that the kind is gone", func() bool {
		return n.metric(`cosentry_sync_source{resource="clusterimagepolicies",state="absent"}`) == 1
	})
	n.rounds(3)
	n.stop()
	n = start(t, a, n.dir)
	n.eventually("that it is held", func() bool {
		return n.metric(`cosentry_sync_documents_held{resource="clusterimagepolicies"}`) == 2
	})
	a.put(rootPath, "TrustRoot", named("broken", map[string]any{}))
	a.remove(rootPath, "", "broken")
	n.rounds(3)
	if !n.has(fileA)() || !n.has("policies/clusterimagepolicy.b.yaml")() || n.metric(upToDateSeries) != 0 {
		t.Errorf("%v, up to date at %s", n.files(), n.beat())
	}
	// It is back, and its owner left one out.
	a.put(definitionAt, "CustomResourceDefinition", map[string]any{"metadata": map[string]any{"name": "clusterimagepolicies." + group}})
	a.policy("b", static("fail"))
	a.answer(0, policyPath)
	n.eventually("what is back", n.hasNot(fileA))
	n.upToDate()
}

func TestADefinitionThatMayNotBeLookedAtConfirmsNothing(t *testing.T) {
	a := newAPIServer(t)
	a.answer(http.StatusForbidden, definitionAt+"/clusterimagepolicies."+group)
	a.policy("a", static("fail"))
	n := start(t, a, t.TempDir())
	n.eventually("a policy", n.has(fileA))
	a.remove(policyPath, "", "a")
	n.eventually("that it is held", func() bool {
		return n.metric(`cosentry_sync_documents_held{resource="clusterimagepolicies"}`) == 1
	})
	n.rounds(2)
	if !n.has(fileA)() {
		t.Error("removed")
	}
}

// A role that was taken away is not a cluster without policies.
func TestRefusedIsNotNone(t *testing.T) {
	a := newAPIServer(t)
	a.policy("a", bySecret("key"))
	a.secret("cosign-system", "key", map[string]string{"cosign.pub": "PEM"})
	n := start(t, a, t.TempDir())
	n.upToDate()
	n.eventually("the key", n.has("secrets/cosign-system/key/cosign.pub"))
	n.stop()
	want := n.files()
	a.answer(http.StatusForbidden, policyPath, oldPolicyPath, rootPath, namespacePath, secretPath)
	n = start(t, a, n.dir)
	n.eventually("that it is refused", func() bool {
		return n.metric(`cosentry_sync_source{resource="clusterimagepolicies",state="refused"}`) == 1 && n.metric(`cosentry_sync_references{state="refused"}`) == 1
	})
	n.rounds(3)
	if diff := cmp.Diff(want, n.files()); diff != "" {
		t.Error(diff)
	}

	fresh := start(t, a, t.TempDir())
	fresh.eventually("that it is refused", func() bool { return fresh.metric("cosentry_sync_broken") == 1 })
	if fresh.files() != nil {
		t.Errorf("it takes what it may not read for none: %v", fresh.files())
	}
}

func TestAClusterWithoutTheKindsHasNoPolicies(t *testing.T) {
	a := newAPIServer(t)
	a.answer(http.StatusNotFound, policyPath, oldPolicyPath, rootPath)
	a.namespace("shop", nil)
	n := start(t, a, t.TempDir())
	n.eventually("a set", func() bool { return n.files() != nil })
	n.upToDate()
	a.policy("a", static("fail"))
	a.answer(0, policyPath, rootPath)
	n.eventually("a policy", n.has(fileA))
}

func TestAnOlderVersionOfTheKindDoes(t *testing.T) {
	for _, code := range []int{http.StatusNotFound, http.StatusInternalServerError} {
		a := newAPIServer(t)
		a.answer(code, policyPath)
		a.put(oldPolicyPath, "ClusterImagePolicy", named("a", forAll(static("fail"))))
		n := start(t, a, t.TempDir())
		n.eventually("a policy", n.has(fileA))
		if !strings.Contains(n.files()[fileA], "v1alpha1") {
			t.Error(n.files()[fileA])
		}
		n.upToDate()
	}
}

// One object that an agent cannot load must neither be left out nor take the others along.
func TestATypoChangesNothing(t *testing.T) {
	for name, spoil := range map[string]func(a *apiServer){
		"unknown field": func(a *apiServer) {
			spec := forAll(static("fail"))
			spec["imagez"] = "x"
			a.put(policyPath, "ClusterImagePolicy", named("b", spec))
		},
		"no spec": func(a *apiServer) { a.put(policyPath, "ClusterImagePolicy", named("b", nil)) },
		"rule over spec": func(a *apiServer) {
			spec := forAll(static("pass"))
			spec["policy"] = map[string]any{"type": "cue", "data": "x: 1", "includeSpec": true}
			a.put(policyPath, "ClusterImagePolicy", named("b", spec))
		},
		"too many references": func(a *apiServer) {
			spec := forAll(static("fail"))
			for i := range 17 {
				var pullSecrets []any
				for j := range 16 {
					pullSecrets = append(pullSecrets, map[string]any{"name": fmt.Sprintf("s%d-%d", i, j)})
				}
				authority := bySecret("key")
				authority["source"] = []any{map[string]any{"oci": "registry.example/sigs", "signaturePullSecrets": pullSecrets}}
				spec["authorities"] = append(spec["authorities"].([]any), authority)
			}
			a.put(policyPath, "ClusterImagePolicy", named("b", spec))
		},
		"data of no form": func(a *apiServer) {
			a.put(secretPath, "Secret", map[string]any{"metadata": map[string]any{"namespace": "cosign-system", "name": "key"}, "data": map[string]any{"x": "%%%"}})
			a.policy("b", bySecret("key"))
		},
		"key that leads elsewhere": func(a *apiServer) {
			a.secret("cosign-system", "key", map[string]string{"../../../../../../tmp/x": "PEM"})
			a.policy("b", bySecret("key"))
		},
		"annotation of no form": func(a *apiServer) { a.put(policyPath, "ClusterImagePolicy", signedAs("b", "%%%", "c2ln")) },
		"document of another name": func(a *apiServer) {
			a.put(policyPath, "ClusterImagePolicy", signedAs("b", base64.StdEncoding.EncodeToString([]byte(documentText("c"))), "c2ln"))
		},
		"two documents": func(a *apiServer) {
			a.put(policyPath, "ClusterImagePolicy", signedAs("b", base64.StdEncoding.EncodeToString([]byte(documentText("b")+"---\n"+documentText("c"))), "c2ln"))
		},
		"document of another kind": func(a *apiServer) {
			a.put(rootPath, "TrustRoot", signedAs("b", base64.StdEncoding.EncodeToString([]byte(documentText("b"))), "c2ln"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAPIServer(t)
			a.policy("a", static("fail"))
			n := start(t, a, t.TempDir())
			n.upToDate()
			n.eventually("a policy", n.has(fileA))
			want := n.files()
			spoil(a)
			n.eventually("a fault", func() bool { return n.metric("cosentry_sync_broken") == 1 })
			before := n.metric(upToDateSeries)
			a.bookmark(policyPath, rootPath, namespacePath)
			n.rounds(3)
			if diff := cmp.Diff(want, n.files()); diff != "" || n.metric(upToDateSeries) != before {
				t.Error(diff)
			}
			a.policy("b", static("fail"))
			a.put(rootPath, "TrustRoot", named("b", nil))
			a.remove(rootPath, "", "b")
			n.eventually("that it is mended", func() bool {
				return n.metric("cosentry_sync_broken") == 0 && n.has("policies/clusterimagepolicy.b.yaml")()
			})
		})
	}
}

func documentText(name string) string {
	return "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {name: " + name + "} # as it was signed\nspec:\n  images: [{glob: \"**\"}]\n  authorities: [{static: {action: fail}}]\n"
}

func signedAs(name, document, signature string) map[string]any {
	o := named(name, forAll(static("pass")))
	o["metadata"].(map[string]any)["annotations"] = map[string]any{cluster.DocumentAnnotation: document, cluster.SignatureAnnotation: signature}
	return o
}

// The bytes that were signed come to the node as they are, whatever the object's fields say beside them.
func TestSignedDocumentsComeAsTheyWereSigned(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	keys, err := cluster.ParseKeys(string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	if err != nil {
		t.Fatal(err)
	}
	document := documentText("a")
	sum := sha256.Sum256([]byte(document))
	signature, err := ecdsa.SignASN1(rand.Reader, private, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	a := newAPIServer(t)
	a.put(policyPath, "ClusterImagePolicy", signedAs("a", base64.StdEncoding.EncodeToString([]byte(document)), base64.StdEncoding.EncodeToString(signature)))
	// What is not signed is left out by those who read it: it is no reason not to go on, and its secrets stay away.
	a.policy("unsigned", bySecret("key"))
	a.put(policyPath, "ClusterImagePolicy", signedAs("broken", "%%%", "c2ln"))
	a.put(policyPath, "ClusterImagePolicy", named("typo", nil))
	a.secret("cosign-system", "key", map[string]string{"cosign.pub": "PEM"})
	n := start(t, a, t.TempDir(), keys...)
	n.upToDate()
	n.eventually("the document", n.has(fileA))
	if got := n.files(); got[fileA] != document || got[fileA+".sig"] != base64.StdEncoding.EncodeToString(signature) {
		t.Error(got)
	}
	l, err := cluster.Load(t.Context(), n.dir, keys)
	if err != nil || len(l.Policies.Policies()) != 1 || len(l.Skipped) != 3 {
		t.Errorf("%v, %v", l, err)
	}
	for _, r := range a.requests() {
		if strings.Contains(r, "/secrets") {
			t.Errorf("asked: %s", r)
		}
	}
}

// An API server that was taken over gives what nobody asked for.
func TestMoreThanWasAskedForIsNotTaken(t *testing.T) {
	a := newAPIServer(t)
	a.careless = true
	a.policy("a", bySecret("key"))
	a.secret("cosign-system", "key", map[string]string{"cosign.pub": "PEM"})
	a.secret("cosign-system", "other", map[string]string{"x": "private"})
	a.secret("shop", "key", map[string]string{"x": "private"})
	n := start(t, a, t.TempDir())
	n.eventually("the key", n.has("secrets/cosign-system/key/cosign.pub"))
	a.secret("shop", "key", map[string]string{"x": "more"})
	n.rounds(3)
	for file := range n.files() {
		if strings.HasPrefix(file, "secrets/") && !strings.HasPrefix(file, "secrets/cosign-system/key/") {
			t.Error(file)
		}
	}
}

func TestAnEndlessAnswerIsNone(t *testing.T) {
	a := newAPIServer(t)
	a.policy("a", static("fail"))
	n := start(t, a, t.TempDir())
	n.upToDate()
	n.eventually("a policy", n.has(fileA))
	n.stop()
	a.mu.Lock()
	a.padding[policyPath], a.padding[oldPolicyPath] = 65<<20, 65<<20
	a.mu.Unlock()
	a.remove(policyPath, "", "a")
	n = start(t, a, n.dir)
	n.eventually("that it is no answer", func() bool {
		return n.metric(`cosentry_sync_source{resource="clusterimagepolicies",state="unreachable"}`) == 1
	})
	n.eventually("the reason", func() bool { return strings.Contains(n.log.String(), "answer of the API server") })
	n.rounds(2)
	if !n.has(fileA)() {
		t.Error(n.log)
	}
}

// What somebody did to the folder is undone.
func TestTheFolderIsMended(t *testing.T) {
	for name, harm := range map[string]func(dir string) error{
		"everything gone": func(dir string) error { return os.Remove(filepath.Join(dir, cluster.Current)) },
		"other text": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, cluster.Current, fileA), []byte("{}"), 0o600)
		},
		"unreadable": func(dir string) error { return os.WriteFile(filepath.Join(dir, cluster.Current, "x"), nil, 0o600) },
		"more": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, cluster.Current, "policies/clusterimagepolicy.z.yaml"), []byte(documentText("z")), 0o600)
		},
		"leads astray": func(dir string) error {
			if err := os.Remove(filepath.Join(dir, cluster.Current)); err != nil {
				return err
			}
			return os.Symlink("/etc", filepath.Join(dir, cluster.Current))
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAPIServer(t)
			a.policy("a", static("fail"))
			n := start(t, a, t.TempDir())
			n.upToDate()
			n.eventually("a policy", n.has(fileA))
			want := n.files()
			if err := harm(n.dir); err != nil {
				t.Fatal(err)
			}
			n.eventually("that it is mended", func() bool { return cmp.Equal(want, n.files()) })
		})
	}
}
