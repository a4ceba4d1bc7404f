package trust

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/policy"
)

const cosignSecret = "secrets/cosign-system/cosign/"

func TestKeyOfASecret(t *testing.T) {
	want, text := newKey(t)
	t.Run("its only file", func(t *testing.T) {
		n, s := fresh(t), set(t, secretPolicy)
		n.write(t, cosignSecret+"cosign.pub", text)
		mustBe(t, n, s, want)
	})
	t.Run("as Kubernetes mounts it, with links", func(t *testing.T) {
		n, s := fresh(t), set(t, secretPolicy)
		n.write(t, cosignSecret+"..2026_01_01/cosign.pub", text)
		at := filepath.Join(n.dir, cosignSecret)
		for link, to := range map[string]string{"..data": "..2026_01_01", "cosign.pub": "..data/cosign.pub"} {
			if err := os.Symlink(to, filepath.Join(at, link)); err != nil {
				t.Fatal(err)
			}
		}
		mustBe(t, n, s, want)
	})
	t.Run("the file that is named, among several", func(t *testing.T) {
		n := fresh(t)
		n.write(t, "secrets/a/b/one", text)
		n.write(t, "secrets/a/b/two", "something else")
		data, err := held{KindSecret, policy.Reference{Namespace: "a", Name: "b", Key: "one"}}.read(n.dir)
		if err != nil || string(data) != text {
			t.Errorf("got %q, error %v", data, err)
		}
	})
}

func TestFilesThatAreNoKeyOfASecret(t *testing.T) {
	_, text := newKey(t)
	for name, tt := range map[string]struct {
		prepare func(t *testing.T, n *node)
		class   error
		words   string
	}{
		"no folder":       {func(*testing.T, *node) {}, ErrMissing, "no such file"},
		"an empty folder": {func(t *testing.T, n *node) { n.write(t, cosignSecret+"..data/x", "") }, ErrMissing, "holds no file"},
		"several files": {func(t *testing.T, n *node) {
			n.write(t, cosignSecret+"a", text)
			n.write(t, cosignSecret+"b", text)
		}, ErrInvalid, "several files"},
		"no key":   {func(t *testing.T, n *node) { n.write(t, cosignSecret+"a", "hello") }, ErrInvalid, "PEM"},
		"empty":    {func(t *testing.T, n *node) { n.write(t, cosignSecret+"a", "") }, ErrInvalid, "holds no key"},
		"half":     {func(t *testing.T, n *node) { n.write(t, cosignSecret+"a", text[:60]) }, ErrInvalid, "damaged"},
		"too long": {func(t *testing.T, n *node) { n.write(t, cosignSecret+"a", strings.Repeat("\n", 2<<20)) }, ErrInvalid, "bound"},
		"a pipe that nobody writes to": {func(t *testing.T, n *node) {
			n.write(t, cosignSecret+"..x/y", "")
			if err := syscall.Mkfifo(filepath.Join(n.dir, cosignSecret, "a"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, ErrInvalid, "not a regular file"},
		"a link to a device": {func(t *testing.T, n *node) {
			n.write(t, cosignSecret+"..x/y", "")
			if err := os.Symlink("/dev/zero", filepath.Join(n.dir, cosignSecret, "a")); err != nil {
				t.Fatal(err)
			}
		}, ErrInvalid, "not a regular file"},
		"a link to nowhere": {func(t *testing.T, n *node) {
			n.write(t, cosignSecret+"..x/y", "")
			if err := os.Symlink("nowhere", filepath.Join(n.dir, cosignSecret, "a")); err != nil {
				t.Fatal(err)
			}
		}, ErrMissing, "no such file"},
		"a file in the folder's place": {func(t *testing.T, n *node) { n.write(t, "secrets/cosign-system/cosign", text) }, ErrInvalid, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			n, s := fresh(t), set(t, secretPolicy)
			tt.prepare(t, n)
			keys, err := n.Resolve(s).Keys(keyOf(s))
			if len(keys) > 0 {
				t.Errorf("%d keys", len(keys))
			}
			mustFail(t, err, tt.class, tt.words)
			if st := n.find(t, KindSecret, "cosign-system/cosign"); st.OK || st.Error == "" {
				t.Errorf("state is %+v", st)
			}
		})
	}
	t.Run("too many files", func(t *testing.T) {
		n, s := fresh(t), set(t, secretPolicy)
		for i := range limits.HeldFiles.Max() + 1 {
			n.write(t, cosignSecret+"..many"+strings.Repeat("x", int(i%200))+string(rune('a'+i/200)), "")
		}
		_, err := n.Resolve(s).Keys(keyOf(s))
		mustFail(t, err, ErrInvalid, "bound")
	})
	t.Run("no folder in the settings", func(t *testing.T) {
		n, s := newNode(t, "", ""), set(t, secretPolicy)
		_, err := n.Resolve(s).Keys(keyOf(s))
		mustFail(t, err, ErrMissing, "trust.dir")
	})
}

// The parser refuses such names too; a path is not made of them whoever asks.
func TestNamesDoNotLeadOutOfTheFolder(t *testing.T) {
	n := fresh(t)
	n.write(t, "secret", "outside")
	n.write(t, "secrets/ns/name/key", "inside")
	for _, ref := range []policy.Reference{
		{Namespace: "..", Name: "..", Key: "secret"},
		{Namespace: "ns", Name: "..", Key: "name"},
		{Namespace: "ns", Name: "name", Key: "../../../secret"},
		{Namespace: "ns", Name: "name", Key: ".."},
		{Namespace: "ns", Name: "name", Key: "..data"},
		{Namespace: "ns", Name: "name", Key: "."},
		{Namespace: "ns", Name: "name/../name", Key: "key"},
		{Namespace: "", Name: "name", Key: "key"},
		{Namespace: "ns", Name: "", Key: "key"},
		{Namespace: "/etc", Name: "passwd"},
		{Namespace: "ns", Name: "name\x00", Key: "key"},
		{Namespace: "NS", Name: "name", Key: "key"},
	} {
		for _, kind := range []string{KindSecret, KindConfigMap} {
			data, err := held{kind, ref}.read(n.dir)
			if err == nil {
				t.Errorf("%+v gave %q", ref, data)
			} else {
				mustFail(t, err, ErrInvalid, "no name")
			}
		}
	}
}

func TestPullSecretIsReadWhenItIsAskedFor(t *testing.T) {
	n := fresh(t)
	snapshot := n.Resolve(set(t))
	_, err := snapshot.PullSecret("team", "registry")
	mustFail(t, err, ErrMissing, "secret team/registry/.dockerconfigjson")
	n.write(t, "secrets/team/registry/.dockerconfigjson", "{}")
	if data, err := snapshot.PullSecret("team", "registry"); err != nil || string(data) != "{}" {
		t.Errorf("got %q, error %v", data, err)
	}
	if _, err := snapshot.PullSecret("team/..", "registry"); err == nil {
		t.Error("a name that is a path was read")
	}
}
