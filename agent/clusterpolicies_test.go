package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/cosentry/cosentry/agent/cluster"
)

// blobKey signs documents as `cosign sign-blob` does.
type blobKey struct {
	key    *ecdsa.PrivateKey
	public string // PEM
}

func newBlobKey(t *testing.T) blobKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return blobKey{key, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}
}

func (k blobKey) sign(t *testing.T, document string) string {
	t.Helper()
	hash := sha256.Sum256([]byte(document))
	sig, err := ecdsa.SignASN1(rand.Reader, k.key, hash[:])
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(sig)
}

// synced is a folder as sync writes it, and the settings of a node that goes by it.
type synced struct{ dir, config string }

// newSynced has the node's own policies, and the key that the cluster's must be signed with; empty: none.
func newSynced(t *testing.T, own map[string]string, publicKey string) *synced {
	t.Helper()
	config, dir := newNode(t, own)
	s := &synced{filepath.Join(dir, "cluster"), config}
	f, err := os.OpenFile(config, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	more := "clusterPolicies:\n  dir: " + s.dir + "\n"
	if publicKey != "" {
		more += "  publicKey: |\n    " + strings.ReplaceAll(strings.TrimSpace(publicKey), "\n", "\n    ") + "\n"
	}
	if _, err := f.WriteString(more); err != nil {
		t.Fatal(err)
	}
	return s
}

// put puts a set in force.
func (s *synced) put(t *testing.T, c cluster.Contents) {
	t.Helper()
	w, err := cluster.OpenWriter(t.Context(), s.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Write(c, func(string) error { return nil }); err != nil {
		t.Fatal(err)
	}
}

func named(name, document string) cluster.File {
	return cluster.File{Kind: cluster.KindPolicy, Name: name, Data: []byte(document)}
}

func decision(t *testing.T, args ...string) explanation {
	t.Helper()
	out, errs, _ := command(t, append(args, "-o", "json")...)
	var e explanation
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		t.Fatalf("%v: %s%s", err, out, errs)
	}
	return e
}

// What a node decides by both layers, `verify` decides.
func TestVerifyGoesByBothLayers(t *testing.T) {
	s, stranger := newSigned(t), newSigned(t)
	own := map[string]string{"a.yaml": s.policy("signed", s.publicKey)}
	attackers := s.policy("signed", stranger.publicKey)
	open := static("open", "**", "pass")
	for name, tc := range map[string]struct {
		set   *cluster.Contents
		image *signedImage
		want  string
		layer string // of the policy that refuses
	}{
		"nothing has come yet":                      {nil, s, "allow", ""},
		"nothing is in the set":                     {&cluster.Contents{}, s, "allow", ""},
		"a pass for everything":                     {&cluster.Contents{Documents: []cluster.File{named("open", open)}}, s, "allow", ""},
		"a pass for everything beside no signature": {&cluster.Contents{Documents: []cluster.File{named("open", open)}}, stranger, "deny", ""},
		"another key under the node's name":         {&cluster.Contents{Documents: []cluster.File{named("signed", attackers)}}, stranger, "deny", ""},
		"a restriction":                             {&cluster.Contents{Documents: []cluster.File{named("signed", attackers)}}, s, "deny", "cluster"},
		"a set that cannot be loaded":               {&cluster.Contents{Documents: []cluster.File{named("open", "kind: Nonsense\n")}}, s, "error", ""},
		"a document under another's name":           {&cluster.Contents{Documents: []cluster.File{named("other", open)}}, s, "error", ""},
	} {
		t.Run(name, func(t *testing.T) {
			n := newSynced(t, own, "")
			if tc.set != nil {
				n.put(t, *tc.set)
			}
			e := decision(t, "verify", "--config", n.config, tc.image.image)
			if e.Decision != tc.want {
				t.Fatalf("%+v", e)
			}
			if tc.want != "deny" {
				return
			}
			last := e.Verdict.Policies[len(e.Verdict.Policies)-1]
			if string(last.Layer) != tc.layer || last.Passed {
				t.Errorf("%+v", e.Verdict.Policies)
			}
			out, _, _ := command(t, "verify", "--config", n.config, tc.image.image)
			if strings.Contains(out, "cluster: signed") != (tc.layer != "") {
				t.Error(out)
			}
		})
	}
}

// With a key, whoever owns the API server can put nothing in force.
func TestOnlyWhatIsSignedComesFromTheCluster(t *testing.T) {
	s := newSigned(t)
	key, attacker := newBlobKey(t), newBlobKey(t)
	closed, open := static("closed", "**", "fail"), static("closed", "**", "pass")
	document := func(name, text, signature string) cluster.File {
		f := named(name, text)
		if signature != "" {
			f.Signature = []byte(signature)
		}
		return f
	}
	for name, tc := range map[string]struct {
		file    cluster.File
		skipped string // empty: it is taken, and refuses
	}{
		"signed":                       {document("closed", closed, key.sign(t, closed)), ""},
		"signed with a line's end":     {document("closed", closed, key.sign(t, closed)+"\n"), ""},
		"not signed":                   {document("closed", closed, ""), "it is not signed"},
		"signed by another key":        {document("closed", closed, attacker.sign(t, closed)), "no signature by key"},
		"another document's signature": {document("closed", closed, key.sign(t, open)), "no signature by key"},
		"an empty signature":           {document("closed", closed, " "), "the signature is empty"},
		"a signature that is none":     {document("closed", closed, "!"), "not the base64"},
		"under another name":           {document("other", closed, key.sign(t, closed)), "is named after"},
		"a byte more":                  {document("closed", closed+"\n", key.sign(t, closed)), "no signature by key"},
		"unsigned and no policy":       {document("closed", "{", ""), "it is not signed"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newSynced(t, map[string]string{"a.yaml": s.policy("signed", s.publicKey)}, key.public)
			n.put(t, cluster.Contents{Documents: []cluster.File{tc.file}})
			want := "allow"
			if tc.skipped == "" {
				want = "deny"
			}
			if e := decision(t, "verify", "--config", n.config, s.image); e.Decision != want {
				t.Errorf("%+v", e)
			}
			_, errs, code := command(t, "policy", "check", "--config", n.config, "--cluster")
			if code != 0 || strings.Contains(errs, "is not taken: ") != (tc.skipped != "") || !strings.Contains(errs, tc.skipped) {
				t.Errorf("exit %d: %s", code, errs)
			}
		})
	}
	t.Run("signed and no policy", func(t *testing.T) {
		n := newSynced(t, map[string]string{"a.yaml": s.policy("signed", s.publicKey)}, key.public)
		n.put(t, cluster.Contents{Documents: []cluster.File{document("closed", "{", key.sign(t, "{"))}})
		if e := decision(t, "verify", "--config", n.config, s.image); e.Decision != "error" {
			t.Errorf("%+v", e)
		}
		if _, errs, code := command(t, "policy", "check", "--config", n.config, "--cluster"); code != 1 {
			t.Errorf("exit %d: %s", code, errs)
		}
	})
}

// A signed document refers to what the node holds. A Secret of the cluster has the attacker's key.
func TestWhatASignedDocumentRefersToIsTheNodes(t *testing.T) {
	s, stranger := newSigned(t), newSigned(t)
	key := newBlobKey(t)
	bySecret := strings.Split(s.policy("by-secret", ""), "    key:")[0] + "    key: {secretRef: {name: release, namespace: cosign-system}}\n"
	held := map[cluster.Object]map[string][]byte{{Namespace: "cosign-system", Name: "release"}: {"cosign.pub": []byte(s.publicKey)}}
	own := map[string]string{"a.yaml": static("open", "**", "pass")}
	for name, tc := range map[string]struct {
		publicKey, onNode, want string
	}{
		"unsigned: the cluster's own":           {"", stranger.publicKey, "allow"},
		"signed: the node's":                    {key.public, s.publicKey, "allow"},
		"signed: the node's with another key":   {key.public, stranger.publicKey, "deny"},
		"signed: the node's which is not there": {key.public, "", "deny"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newSynced(t, own, tc.publicKey)
			if tc.onNode != "" {
				write(t, filepath.Dir(n.config)+"/secrets/cosign-system/release/cosign.pub", tc.onNode)
			}
			document := named("by-secret", bySecret)
			document.Signature = []byte(key.sign(t, bySecret))
			n.put(t, cluster.Contents{Documents: []cluster.File{document}, Secrets: held})
			if e := decision(t, "verify", "--config", n.config, s.image); e.Decision != tc.want {
				t.Errorf("%+v", e)
			}
		})
	}
}

// Labels of the cluster say where the cluster's policies hold, and free nothing of the node's own.
func TestVerifyWhereTheClustersPoliciesDoNotHold(t *testing.T) {
	s, stranger := newSigned(t), newSigned(t)
	n := newSynced(t, map[string]string{"a.yaml": s.policy("signed", s.publicKey)}, "")
	f, err := os.OpenFile(n.config, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("namespaces: {enforce: labelled, file: " + n.dir + "/current/namespaces.yaml}\n"); err != nil {
		t.Fatal(err)
	}
	n.put(t, cluster.Contents{
		Documents:  []cluster.File{named("closed", static("closed", "**", "fail"))},
		Namespaces: []byte(`{"apiVersion": "v1", "kind": "NamespaceList", "items": [{"metadata": {"name": "free"}}, {"metadata": {"name": "shop", "labels": {"policy.sigstore.dev/include": "true"}}}]}`),
	})
	for namespace, want := range map[string]string{"free": "allow", "shop": "deny", "new": "deny"} {
		if e := decision(t, "verify", "--config", n.config, "--namespace", namespace, s.image); e.Decision != want {
			t.Errorf("in %s: %+v", namespace, e)
		}
		if e := decision(t, "verify", "--config", n.config, "--namespace", namespace, stranger.image); e.Decision != "deny" {
			t.Errorf("unsigned, in %s: %+v", namespace, e)
		}
	}
}

func TestPolicyTestAddsTheClustersPolicies(t *testing.T) {
	dir := t.TempDir()
	pass, fail := write(t, dir+"/pass.yaml", static("p", "registry.example/**", "pass")), write(t, dir+"/fail.yaml", static("p", "registry.example/**", "fail"))
	elsewhere := write(t, dir+"/elsewhere.yaml", static("p", "other.example/**", "pass"))
	image := "registry.example/app@sha256:" + strings.Repeat("a", 64)
	for _, tc := range []struct{ own, cluster, want string }{
		{pass, pass, "allow"}, {pass, fail, "deny"}, {fail, pass, "deny"}, {elsewhere, pass, "deny"}, {pass, elsewhere, "allow"}, {pass, dir + "/none.yaml", "error"},
	} {
		if e := decision(t, "policy", "test", "--policy", tc.own, "--cluster-policy", tc.cluster, "--image", image); e.Decision != tc.want {
			t.Errorf("%s, cluster %s: %+v", filepath.Base(tc.own), filepath.Base(tc.cluster), e)
		}
	}
}

// What `policy signed` prints is applied, synced and taken.
func TestPolicySignedCarriesTheVeryBytes(t *testing.T) {
	dir, key := t.TempDir(), newBlobKey(t)
	document := "# whatever stands here is signed too\n" + static("release", "**", "fail") + "status: {}   # and this\n"
	file, public := write(t, dir+"/p.yaml", document), write(t, dir+"/key.pub", key.public)
	signature := write(t, dir+"/p.sig", key.sign(t, document)+"\n")
	out, errs, code := command(t, "policy", "signed", "--key", public, file, signature)
	if code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	var object struct {
		Kind     string
		Metadata struct {
			Name        string
			Annotations map[string]string
		}
		Spec map[string]any
	}
	if err := yaml.Unmarshal([]byte(out), &object); err != nil {
		t.Fatal(err)
	}
	bytes, err := base64.StdEncoding.DecodeString(object.Metadata.Annotations["cosentry.dev/document"])
	if err != nil || string(bytes) != document || object.Kind != "ClusterImagePolicy" || object.Metadata.Name != "release" || object.Spec["images"] == nil {
		t.Errorf("%v:\n%s", err, out)
	}
	n := newSynced(t, map[string]string{"a.yaml": static("open", "**", "pass")}, key.public)
	carried := named("release", string(bytes))
	carried.Signature = []byte(object.Metadata.Annotations["cosentry.dev/signature"])
	n.put(t, cluster.Contents{Documents: []cluster.File{carried}})
	if out, errs, code := command(t, "policy", "check", "--config", n.config, "--cluster"); code != 0 || !strings.HasPrefix(out, "1 policy,") || strings.Contains(errs, "not taken") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
}

func TestPolicySignedRefuses(t *testing.T) {
	dir, key, other := t.TempDir(), newBlobKey(t), newBlobKey(t)
	public := write(t, dir+"/key.pub", key.public)
	good := static("release", "**", "fail")
	for name, tc := range map[string]struct{ document, signature, want string }{
		"two documents":              {good + "---\n" + static("other", "**", "fail"), "", "it holds 2 documents"},
		"none":                       {"# nothing\n", "", "it holds 0 documents"},
		"a list":                     {"apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimSpace(good), "\n", "\n  ") + "\n", "", "no list of them"},
		"a fault":                    {strings.Replace(good, "fail", "maybe", 1), "", `"maybe"`},
		"another key":                {good, other.sign(t, good), "no signature by key"},
		"another document":           {good, key.sign(t, good+" "), "no signature by key"},
		"an object that carries one": {strings.Replace(good, "{name: release}", `{name: release, annotations: {cosentry.dev/document: eA==}}`, 1), "", "has the annotation cosentry.dev/document already"},
		"too much for an object":     {"# " + strings.Repeat("x", 200<<10) + "\n" + good, "", "put it on the nodes"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.signature == "" {
				tc.signature = key.sign(t, tc.document)
			}
			out, errs, code := command(t, "policy", "signed", "--key", public, write(t, dir+"/"+name+".yaml", tc.document), write(t, dir+"/"+name+".sig", tc.signature))
			if code != 1 || out != "" || !strings.Contains(errs, tc.want) {
				t.Errorf("exit %d, want %q: %s%s", code, tc.want, out, errs)
			}
		})
	}
}
