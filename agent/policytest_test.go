package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/sigstore/sigstoretest"
)

// TestPolicyTestExitCodes: 0 allowed, 1 refused, 2 could not tell; online, and by saved evidence with the registry gone.
func TestPolicyTestExitCodes(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	s, stranger := newSigned(t), newSigned(t)
	dir := t.TempDir()
	good := write(t, dir+"/good.yaml", s.policy("good", s.publicKey))
	bad := write(t, dir+"/bad.yaml", s.policy("bad", stranger.publicKey))
	faulty := write(t, dir+"/faulty/f.yaml", "kind: Nonsense\n")
	elsewhere := write(t, dir+"/elsewhere.yaml", static("elsewhere", "registry.example/**", "pass"))
	folder := filepath.Dir(write(t, dir+"/folder/a.yaml", s.policy("in-a-folder", s.publicKey)))
	warn := write(t, dir+"/warn.yaml", strings.Replace(s.policy("soft", stranger.publicKey), "spec:\n", "spec:\n  mode: warn\n", 1))
	attested := write(t, dir+"/attested.yaml", s.policy("attested", s.publicKey)+"    attestations: [{name: scan, predicateType: vuln}]\n")
	atDigest := strings.TrimSuffix(s.image, ":1") + "@" + s.digest

	config, _ := newNode(t, map[string]string{"a.yaml": static("shut", "**", "fail")})
	saved := filepath.Join(t.TempDir(), "saved", "app")
	if _, errs, code := command(t, "verify", "--config", config, "--save", saved, s.image); code != 1 || errs != "" {
		t.Fatalf("saving: exit %d, %s", code, errs)
	}
	type row struct {
		args     []string
		code     int
		decision string
		says     string
	}
	online := map[string]row{
		"signed":                      {[]string{"--policy", good, "--image", s.image}, 0, "allow", "release-key"},
		"signed by another":           {[]string{"--policy", bad, "--image", s.image}, 1, "deny", "none by this key"},
		"all files count":             {[]string{"--policy", good, "--policy", bad, "--image", s.image}, 1, "deny", "bad"},
		"a folder":                    {[]string{"--policy", folder, "--image", atDigest}, 0, "allow", "in-a-folder"},
		"a policy that only warns":    {[]string{"--policy", warn, "--image", s.image}, 0, "warn", "with a warning"},
		"no policy matches":           {[]string{"--policy", elsewhere, "--image", s.image}, 1, "deny", "no policy matches"},
		"and that is allowed":         {[]string{"--policy", elsewhere, "--image", s.image, "--no-match", "allow"}, 0, "allow", "no policy matches"},
		"and that is warned of":       {[]string{"--policy", elsewhere, "--image", s.image, "--no-match", "warn"}, 0, "warn", "no policy matches"},
		"an attestation nobody made":  {[]string{"--policy", attested, "--image", s.image}, 1, "deny", "no attestation"},
		"a path":                      {[]string{"--policy", good, "--image", "/x.tar"}, 1, "deny", "it is a path"},
		"no such tag":                 {[]string{"--policy", good, "--image", s.image + "0"}, 2, "error", ""},
		"faulty policies":             {[]string{"--policy", faulty, "--image", s.image}, 2, "error", "f.yaml"},
		"policies that are not there": {[]string{"--policy", dir + "/none.yaml", "--image", s.image}, 2, "error", "none.yaml"},
		"an image that nobody saved":  {[]string{"--policy", good, "--image", stranger.image}, 1, "deny", "none by this key"},
	}
	check := func(t *testing.T, r row, more ...string) {
		t.Helper()
		args := append(append([]string{"policy", "test"}, r.args...), more...)
		out, errs, code := command(t, args...)
		if code != r.code || !strings.Contains(out, r.says) {
			t.Errorf("exit %d, want %d and %q:\n%s%s", code, r.code, r.says, out, errs)
		}
		out, _, code = command(t, append(args, "-o", "json")...)
		var e explanation
		if err := json.Unmarshal([]byte(out), &e); err != nil || code != r.code || e.Decision != r.decision {
			t.Errorf("exit %d, %v, decision %q, want %q:\n%s", code, err, e.Decision, r.decision, out)
		}
	}
	for name, r := range online {
		t.Run("online/"+name, func(t *testing.T) { check(t, r) })
	}
	s.server.Close()
	stranger.server.Close()
	for name, r := range online {
		if name == "an image that nobody saved" {
			r.code, r.decision, r.says = 2, "error", "COULD NOT TELL"
		}
		t.Run("saved/"+name, func(t *testing.T) { check(t, r, "--evidence", saved) })
	}
	for name, r := range map[string]row{
		"no evidence there": {[]string{"--policy", good, "--image", s.image, "--evidence", dir + "/none"}, 2, "error", "none"},
		"a folder of else":  {[]string{"--policy", good, "--image", s.image, "--evidence", dir}, 2, "error", "index.json"},
		"registry away":     {[]string{"--policy", good, "--image", s.image}, 2, "error", "COULD NOT TELL"},
	} {
		t.Run(name, func(t *testing.T) { check(t, r) })
	}
}

// Evidence in files is a stranger's word like a registry's: what was changed in it grants nothing.
func TestSavedEvidenceThatWasAltered(t *testing.T) {
	s := newSigned(t)
	dir := t.TempDir()
	good := write(t, dir+"/good.yaml", s.policy("good", s.publicKey))
	config, _ := newNode(t, map[string]string{"a.yaml": readFile(t, good)})
	saved := filepath.Join(dir, "saved")
	if _, errs, code := command(t, "verify", "--config", config, "--save", saved, s.image); code != 0 {
		t.Fatalf("saving: exit %d, %s", code, errs)
	}
	test := []string{"policy", "test", "--policy", good, "--image", s.image, "--evidence", saved}
	if out, errs, code := command(t, test...); code != 0 {
		t.Fatalf("as it was saved: exit %d\n%s%s", code, out, errs)
	}
	other := "sha256:" + strings.Repeat("0", 64)
	for name, alter := range map[string]func(text string) string{
		"another digest under the tag": func(text string) string {
			return strings.Replace(text, `:1\":\"`+s.digest, `:1\":\"`+other, 1)
		},
		"another digest for all": func(text string) string { return strings.ReplaceAll(text, s.digest, other) },
		"no records":             func(text string) string { return strings.ReplaceAll(text, "dev.cosentry", "dev.other") },
	} {
		t.Run(name, func(t *testing.T) {
			index := filepath.Join(saved, "index.json")
			was := readFile(t, index)
			defer write(t, index, was)
			altered := alter(was)
			if altered == was {
				t.Fatal("nothing was altered")
			}
			write(t, index, altered)
			if out, _, code := command(t, test...); code == 0 {
				t.Errorf("allowed:\n%s", out)
			}
		})
	}
	blobs, err := filepath.Glob(filepath.Join(saved, "blobs", "sha256", "*"))
	if err != nil || len(blobs) == 0 {
		t.Fatal(err, "no blobs")
	}
	refused := 0
	for _, blob := range blobs {
		was := readFile(t, blob)
		write(t, blob, was+" ")
		if _, _, code := command(t, test...); code != 0 {
			refused++
		}
		write(t, blob, was)
	}
	if refused < 2 { // the signature's manifest and its payload
		t.Errorf("of %d altered blobs %d were refused", len(blobs), refused)
	}
}

func TestSaveRefusesAFolderThatHoldsSomething(t *testing.T) {
	image, _ := push(t)
	config, dir := newNode(t, map[string]string{"a.yaml": static("open", "**", "pass")})
	file := write(t, dir+"/full/letter.txt", "dear diary")
	for _, to := range []string{filepath.Dir(file), file} {
		_, errs, code := command(t, "verify", "--config", config, "--save", to, image)
		if code != 2 || !strings.Contains(errs, "saving evidence") {
			t.Errorf("%s: exit %d, %s", to, code, errs)
		}
	}
	if readFile(t, file) != "dear diary" {
		t.Error("it was written to")
	}
	// One that is there and empty, and an image that needs no evidence.
	to := filepath.Join(dir, "empty")
	if err := os.Mkdir(to, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := command(t, "verify", "--config", config, "--save", to, image); code != 0 {
		t.Fatalf("exit %d, %s", code, errs)
	}
	policy := write(t, dir+"/p.yaml", static("open", "**", "pass"))
	if out, _, code := command(t, "policy", "test", "--policy", policy, "--evidence", to, "--image", image); code != 0 {
		t.Errorf("exit %d\n%s", code, out)
	}
}

func TestPolicyTestWantsWhatItNeeds(t *testing.T) {
	for name, args := range map[string][]string{
		"no policy":          {"--image", "app"},
		"no image":           {"--policy", "x"},
		"an unknown rule":    {"--policy", "x", "--image", "app", "--no-match", "perhaps"},
		"an unknown output":  {"--policy", "x", "--image", "app", "-o", "yaml"},
		"labels of no form":  {"--policy", "x", "--image", "app", "--labels", "web"},
		"an argument beside": {"--policy", "x", "--image", "app", "y"},
	} {
		if _, errs, code := command(t, append([]string{"policy", "test"}, args...)...); code != 2 || errs == "" {
			t.Errorf("%s: exit %d, %s", name, code, errs)
		}
	}
}

func TestVerifyInANamespaceThatIsNotEnforced(t *testing.T) {
	image, _ := push(t)
	config, _ := newNode(t, map[string]string{"a.yaml": static("shut", "**", "fail")})
	write(t, config, readFile(t, config)+"namespaces: {exempt: [kube-system]}\n")
	for namespace, want := range map[string]int{"kube-system": 0, "shop": 1, "": 1} {
		out, _, code := command(t, "verify", "--config", config, "--namespace", namespace, image)
		if code != want || strings.Contains(out, "not enforced by this node's settings") != (want == 0) {
			t.Errorf("%q: exit %d\n%s", namespace, code, out)
		}
	}
	if out, _, code := command(t, "verify", "--config", config, image); code != 1 {
		t.Errorf("no namespace: exit %d\n%s", code, out)
	}
}

func TestPolicyCheckTellsWhatIsNotThere(t *testing.T) {
	s := newSigned(t)
	dir := t.TempDir()
	policy := write(t, dir+"/p.yaml", `apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata: {name: by-secret}
spec:
  images: [{glob: "registry.example/**"}]
  authorities: [{key: {secretRef: {namespace: keys, name: release}}}]
`)
	out, errs, code := command(t, "policy", "check", policy)
	if code != 0 || !strings.Contains(errs, "warning: ") || !strings.Contains(errs, "what needs it fails") {
		t.Errorf("a secret that is not there: exit %d\n%s%s", code, out, errs)
	}
	write(t, dir+"/held/secrets/keys/release/cosign.pub", s.publicKey)
	if out, errs, code := command(t, "policy", "check", "--trust", dir+"/held", policy); code != 0 || strings.Contains(errs, "what needs it fails") {
		t.Errorf("a secret that is there: exit %d\n%s%s", code, out, errs)
	}
	if _, errs, code := command(t, "policy", "check", filepath.Dir(write(t, dir+"/none/readme.txt", ""))); code != 0 || !strings.Contains(errs, "there are no policies") {
		t.Errorf("no policies: exit %d\n%s", code, errs)
	}
}

// TestLogsAreAskedOnlineAlone: a policy that names a log has it asked for proofs that did not come along, but not where
// saved evidence is all that counts.
func TestLogsAreAskedOnlineAlone(t *testing.T) {
	var asked atomic.Int64
	rekor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte("[]")) // it holds no such entry
	}))
	defer rekor.Close()
	s := newSigned(t)
	dir := t.TempDir()
	// A log of the test's own: the public-good instance's root ends one day.
	logged := write(t, dir+"/p/logged.yaml", s.policy("logged", s.publicKey)+"    ctlog: {trustRootRef: test, url: \""+rekor.URL+"\"}\n"+
		fmt.Sprintf("---\napiVersion: policy.sigstore.dev/v1alpha1\nkind: TrustRoot\nmetadata: {name: test}\nspec: {trustedRootJSON: %q}\n", sigstoretest.New(t).TrustedRoot()))
	config, _ := newNode(t, map[string]string{"a.yaml": readFile(t, logged)})
	for name, args := range map[string][]string{
		"policy test":     {"policy", "test", "--policy", logged, "--image", s.image},
		"verify":          {"verify", "--config", config, s.image},
		"verify and save": {"verify", "--config", config, "--save", dir + "/saved", s.image},
	} {
		asked.Store(0)
		if out, _, code := command(t, args...); code != 1 || asked.Load() == 0 {
			t.Errorf("%s: exit %d, the log was asked %d times\n%s", name, code, asked.Load(), out)
		}
	}
	// That a log had nothing is not among what is saved: without it, nobody can tell.
	asked.Store(0)
	if out, _, code := command(t, "policy", "test", "--policy", logged, "--image", s.image, "--evidence", dir+"/saved"); code != 2 || asked.Load() > 0 {
		t.Errorf("by saved evidence: exit %d, the log was asked %d times\n%s", code, asked.Load(), out)
	}
}

// proofs is a log that puts one more signature beside what it is asked about, named after itself.
type proofs struct{}

func (proofs) Prove(_ context.Context, url string, _ [][]byte, ev *evidence.Evidence) (*evidence.Evidence, error) {
	more := *ev
	more.Signatures = append(slices.Clone(ev.Signatures), evidence.Signature{Base64Signature: url})
	return &more, nil
}

// Where evidence is read again no log is asked, so what every log had to say is saved with it.
func TestProofsOfEveryLogAreSaved(t *testing.T) {
	r := &recorder{logs: proofs{}}
	asked, other := &evidence.Evidence{Digest: "d"}, &evidence.Evidence{Digest: "d"}
	for _, url := range []string{"log a", "log b"} {
		if _, err := r.Prove(t.Context(), url, nil, asked); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.withProofs(other); got != other {
		t.Errorf("what no log was asked about: %+v", got)
	}
	var urls []string
	for _, s := range r.withProofs(asked).Signatures {
		urls = append(urls, s.Base64Signature)
	}
	if !slices.Equal(urls, []string{"log a", "log b"}) || len(asked.Signatures) > 0 {
		t.Errorf("%q, and %d beside what was asked about", urls, len(asked.Signatures))
	}
}
