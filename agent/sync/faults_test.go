package sync

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cosentry/cosentry/agent/cluster"
)

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
