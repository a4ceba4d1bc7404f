package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trust"
)

func static(name, action string) string {
	return "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {name: " + name + "}\n" +
		"spec: {images: [{glob: \"**\"}], authorities: [{static: {action: " + action + "}}]}\n"
}

// synced is a folder with one set in it, of files by their path in the set.
func synced(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		put(t, filepath.Join(dir, Sets, "one", name), text)
	}
	if err := os.MkdirAll(filepath.Join(dir, Sets, "one", Policies), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(Sets+"/one", filepath.Join(dir, Current)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const closedFile = "policies/clusterimagepolicy.closed.yaml"

func TestASetIsReadWhole(t *testing.T) {
	dir := synced(t, map[string]string{
		closedFile: static("closed", "fail"), "policies/clusterimagepolicy.a.b.yaml": static("a.b", "pass"),
		"secrets/shop/regcred/.dockerconfigjson": "{}", "configmaps/shop/rules/main.rego": "package sigstore",
		Namespaces: "not looked at here",
	})
	l, err := Load(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if l.ID != "one" || len(l.Policies.Policies()) != 2 || len(l.Skipped) != 0 {
		t.Errorf("%+v", l)
	}
	for _, ref := range []policy.Reference{{Namespace: "shop", Name: "regcred"}, {Namespace: "shop", Name: "regcred", Key: ".dockerconfigjson"}} {
		if data, err := l.Held.Read(trust.KindSecret, ref); err != nil || string(data) != "{}" {
			t.Errorf("%+v: %s, %v", ref, data, err)
		}
	}
	if data, err := l.Held.Read(trust.KindConfigMap, policy.Reference{Namespace: "shop", Name: "rules"}); err != nil || string(data) != "package sigstore" {
		t.Errorf("%s, %v", data, err)
	}
	if _, err := l.Held.Read(trust.KindSecret, policy.Reference{Namespace: "shop", Name: "rules"}); !errors.Is(err, trust.ErrMissing) {
		t.Error(err)
	}
}

// Only a folder that no set was ever put in force in says that the cluster has nothing to add.
func TestNoSetIsToldFromOneThatIsGone(t *testing.T) {
	fresh := t.TempDir()
	for _, dir := range []string{filepath.Join(fresh, "not-there"), fresh} {
		if _, err := Load(t.Context(), dir, nil); !errors.Is(err, ErrNone) {
			t.Errorf("%s: %v", dir, err)
		}
		if _, err := Beat(dir); !errors.Is(err, ErrNone) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	file := filepath.Join(fresh, "file")
	put(t, file, "")
	gone := synced(t, nil)
	if err := os.RemoveAll(filepath.Join(gone, Sets, "one")); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{"a file in the folder's place": file, "a link to a set that is gone": gone} {
		if l, err := Load(t.Context(), dir, nil); err == nil || errors.Is(err, ErrNone) {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
}

// Sync is not root, and the agent is: nothing in the folder leads the agent out of it, or hangs it.
func TestNothingInTheFolderLeadsOutOfIt(t *testing.T) {
	outside := t.TempDir()
	put(t, filepath.Join(outside, Policies, "clusterimagepolicy.closed.yaml"), static("closed", "fail"))
	secret := filepath.Join(outside, "secret")
	put(t, secret, "the node's own")
	set := func(dir string, name ...string) string {
		return filepath.Join(append([]string{dir, Sets, "one"}, name...)...)
	}
	link := func(to string, at func(dir string) string) func(string) error {
		return func(dir string) error {
			if err := errors.Join(os.RemoveAll(at(dir)), os.MkdirAll(filepath.Dir(at(dir)), 0o700)); err != nil {
				return err
			}
			return os.Symlink(to, at(dir))
		}
	}
	at := func(name ...string) func(string) string { return func(dir string) string { return set(dir, name...) } }
	for name, change := range map[string]func(dir string) error{
		"the set in force":            link(outside, func(dir string) string { return filepath.Join(dir, Current) }),
		"the set, by way of a parent": link("sets/../../x", func(dir string) string { return filepath.Join(dir, Current) }),
		"a set with a hidden name":    link("sets/.new", func(dir string) string { return filepath.Join(dir, Current) }),
		"the set's folder":            link(outside, at()),
		"the policies":                link(filepath.Join(outside, Policies), at(Policies)),
		"a policy":                    link(filepath.Join(outside, closedFile), at(closedFile)),
		"a policy, in the folder":     link("clusterimagepolicy.other.yaml", at(closedFile)),
		"a secret":                    link(secret, at(Secrets, "shop", "regcred", "key")),
		"a secret's folder":           link(outside, at(Secrets, "shop", "regcred")),
		"a pipe": func(dir string) error {
			return errors.Join(os.Remove(set(dir, closedFile)), syscall.Mkfifo(set(dir, closedFile), 0o600))
		},
		"a socket": func(dir string) error {
			fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			defer syscall.Close(fd)
			wd, err := os.Getwd()
			if err != nil {
				return err
			}
			defer os.Chdir(wd) //nolint:errcheck // it was there a moment ago
			if err := os.Chdir(set(dir, Policies)); err != nil {
				return err
			}
			return syscall.Bind(fd, &syscall.SockaddrUnix{Name: "s"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := synced(t, map[string]string{closedFile: static("closed", "fail")})
			if err := change(dir); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() {
				l, err := Load(context.Background(), dir, nil)
				if err == nil {
					err = fmt.Errorf("it was read: %+v", l)
				} else if errors.Is(err, ErrNone) || strings.Contains(err.Error(), "the node's own") {
					err = fmt.Errorf("not as it must: %w", err)
				} else {
					err = nil
				}
				done <- err
			}()
			select {
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("it hangs")
			}
		})
	}
	dir := synced(t, nil)
	if err := os.Symlink(secret, filepath.Join(dir, Heartbeat)); err != nil {
		t.Fatal(err)
	}
	if _, err := Beat(dir); err == nil || strings.Contains(err.Error(), "the node's own") {
		t.Error(err)
	}
}

// What is not known may be a restriction. A set is taken as a whole or not at all.
func TestASetThatIsNotAsItShouldBeIsNotTaken(t *testing.T) {
	for name, tc := range map[string]struct{ file, text, want string }{
		"a fault in a policy":         {closedFile, static("closed", "maybe"), `"maybe"`},
		"a file that is no document":  {"policies/readme.md", "x", "is no name of a document"},
		"a document of another kind":  {"policies/pod.x.yaml", static("x", "pass"), "is no name of a document"},
		"a document without a name":   {"policies/clusterimagepolicy..yaml", static("x", "pass"), "not a name"},
		"a name in capitals":          {"policies/clusterimagepolicy.X.yaml", static("x", "pass"), "not a name"},
		"another name inside":         {"policies/clusterimagepolicy.other.yaml", static("closed", "pass"), `it holds ClusterImagePolicy "closed" and is named after ClusterImagePolicy "other"`},
		"another kind inside":         {"policies/trustroot.closed.yaml", static("closed", "pass"), "is named after TrustRoot"},
		"two documents in one":        {closedFile, static("closed", "fail") + "---\n" + static("open", "pass"), "holds 2 documents"},
		"a list":                      {closedFile, "apiVersion: v1\nkind: List\nitems: []\n", "holds 0 documents"},
		"nothing in a file":           {closedFile, "", "holds 0 documents"},
		"a signature of nothing":      {"policies/clusterimagepolicy.x.yaml.sig", "x", "is signed and not there"},
		"a folder that is not known":  {"more/x", "x", "is no file of a set"},
		"a file beside them":          {"x", "x", "is no file of a set"},
		"a secret without a name":     {"secrets/shop/key", "x", "is no file of a set"},
		"a secret that is a mount's":  {"secrets/shop/regcred/..data/key", "x", "has none so deep"},
		"a secret's key that is none": {"secrets/shop/regcred/..key", "x", "not a key"},
		"a namespace that is none":    {"secrets/Shop/regcred/key", "x", "not a name"},
		"a secret that is too large":  {"secrets/shop/regcred/key", strings.Repeat("x", int(limits.HeldFile.Max())+1), "is exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := Load(t.Context(), synced(t, map[string]string{"policies/clusterimagepolicy.good.yaml": static("good", "fail"), tc.file: tc.text}), nil)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%+v, %v; want %q", l, err, tc.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if l, err := Load(ctx, synced(t, map[string]string{closedFile: static("closed", "fail")}), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("when the time is up: %+v, %v", l, err)
	}
}

// Whoever owns the API server can fill a folder. What the agent makes of it is bounded, in number and in memory: an agent
// that is killed for its memory would be killed again at its next start, and with it the node's way to its runtime.
func TestASetIsBounded(t *testing.T) {
	many := func(n int, name func(int) string, text func(int) string) map[string]string {
		files := map[string]string{}
		for i := range n {
			files[name(i)] = text(i)
		}
		return files
	}
	policies := func(i int) string { return fmt.Sprintf("policies/clusterimagepolicy.p%d.yaml", i) }
	identities := func(i int) string {
		var b strings.Builder
		fmt.Fprintf(&b, "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {name: p%d}\nspec:\n  images: [{glob: \"**\"}]\n  authorities:\n", i)
		for range 40 {
			b.WriteString("  - keyless:\n      url: https://f.example\n      identities:\n")
			for range policy.MaxIdentities {
				b.WriteString("      - {issuerRegExp: \".\", subjectRegExp: \".\"}\n")
			}
		}
		return b.String()
	}
	for name, tc := range map[string]struct {
		files map[string]string
		bound limits.Bound
	}{
		"bytes": {many(33, func(i int) string { return fmt.Sprintf("secrets/a/s%d/key", i) }, func(int) string { return strings.Repeat("x", 1<<20) }), limits.SyncedSet},
		"parts": {many(10, policies, identities), limits.SyncedParts},
		"things to fetch": {many(int(limits.SyncedFetches.Max())+1, policies, func(i int) string {
			return fmt.Sprintf("apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {name: p%d}\nspec: {images: [{glob: \"**\"}], authorities: [{key: {kms: \"hashivault://k%d\"}}]}\n", i, i)
		}), limits.SyncedFetches},
	} {
		t.Run(name, func(t *testing.T) {
			dir := synced(t, tc.files)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			l, err := Load(t.Context(), dir, nil)
			runtime.ReadMemStats(&after)
			var exceeded *limits.Exceeded
			if !errors.As(err, &exceeded) || exceeded.Bound != tc.bound {
				t.Errorf("%+v, %v", l, err)
			}
			if mb := int64(after.HeapSys-before.HeapSys) >> 20; mb > 600 {
				t.Errorf("the heap grew by %d MiB", mb)
			}
		})
	}
}

func TestHeartbeat(t *testing.T) {
	for text, want := range map[string]bool{
		"2026-03-01T12:00:00Z\n": true, "2026-03-01T12:00:00+02:00": true, "": false, "yesterday": false, strings.Repeat("2", 65): false,
	} {
		dir := t.TempDir()
		put(t, filepath.Join(dir, Heartbeat), text)
		if at, err := Beat(dir); (err == nil) != want || errors.Is(err, ErrNone) {
			t.Errorf("%q: %s, %v", text, at, err)
		}
	}
}
