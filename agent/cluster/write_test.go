package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cosentry/cosentry/verify/limits"
)

func writer(t *testing.T, dir string) *Writer {
	t.Helper()
	w, err := OpenWriter(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

func good(string) error { return nil }

func sample() Contents {
	return Contents{
		Documents: []File{
			{Kind: KindPolicy, Name: "a.b", Data: []byte("policy"), Signature: []byte("c2ln")},
			{Kind: KindTrustRoot, Name: "root", Data: []byte("root")},
		},
		Secrets:    map[Object]map[string][]byte{{"cosign-system", "key"}: {"cosign.pub": []byte("PEM")}},
		ConfigMaps: map[Object]map[string][]byte{{"cosign-system", "rules"}: {"a.cue": []byte("a")}},
		Namespaces: []byte("kind: NamespaceList"),
	}
}

func mustWrite(t *testing.T, w *Writer, c Contents) string {
	t.Helper()
	id, err := w.Write(c, good)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	dir := t.TempDir()
	w := writer(t, dir)
	if _, there, err := w.Current(); there || err != nil {
		t.Fatalf("a set before the first: %v, %v", there, err)
	}
	want := sample()
	checked := ""
	id, err := w.Write(want, func(folder string) error {
		data, err := os.ReadFile(filepath.Join(folder, Policies, "clusterimagepolicy.a.b.yaml"))
		checked = string(data)
		return err
	})
	if err != nil || checked != "policy" {
		t.Fatalf("checked %q, %v", checked, err)
	}
	got, there, err := w.Current()
	if err != nil || !there {
		t.Fatal(there, err)
	}
	if diff := cmp.Diff(want, got); diff != "" || !want.Equal(got) {
		t.Error(diff)
	}
	if target, err := os.Readlink(filepath.Join(dir, Current)); err != nil || target != "sets/"+id {
		t.Errorf("current leads to %q, %v", target, err)
	}
}

func TestOthersCannotRead(t *testing.T) {
	dir := t.TempDir()
	w := writer(t, dir)
	old := syscall.Umask(0)
	mustWrite(t, w, Contents{Secrets: map[Object]map[string][]byte{{"a", "b"}: {"c": []byte("d")}}})
	syscall.Umask(old)
	err := filepath.WalkDir(filepath.Join(dir, Sets), func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is %s", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestARefusedSetChangesNothing(t *testing.T) {
	dir := t.TempDir()
	w := writer(t, dir)
	id := mustWrite(t, w, sample())
	_, err := w.Write(Contents{}, func(string) error { return errors.New("does not load") })
	if err == nil || err.Error() != "does not load" {
		t.Fatal(err)
	}
	got, there, err := w.Current()
	if want := sample(); err != nil || !there || len(got.Documents) != len(want.Documents) {
		t.Errorf("%v, %v, %v", got, there, err)
	}
	if names := list(t, filepath.Join(dir, Sets)); !cmp.Equal(names, []string{id}) {
		t.Errorf("left behind: %v", names)
	}
}

// A name from the API server is never a way out of the folder.
func TestNamesThatLeadElsewhereAreRefused(t *testing.T) {
	dir := t.TempDir()
	w := writer(t, dir)
	key := func(namespace, name, key string) map[Object]map[string][]byte {
		return map[Object]map[string][]byte{{namespace, name}: {key: []byte("x")}}
	}
	for name, c := range map[string]Contents{
		"document":         {Documents: []File{{Kind: KindPolicy, Name: "../../x"}}},
		"document, slash":  {Documents: []File{{Kind: KindPolicy, Name: "a/b"}}},
		"kind":             {Documents: []File{{Kind: "../x", Name: "a"}}},
		"namespace":        {Secrets: key("..", "a", "b")},
		"secret":           {Secrets: key("a", "../../../../x", "b")},
		"ConfigMap":        {ConfigMaps: key("a", "", "b")},
		"key":              {ConfigMaps: key("a", "b", "../../../../../x")},
		"key of two dots":  {Secrets: key("a", "b", "..")},
		"key of a mount":   {Secrets: key("a", "b", "..data")},
		"key with a NUL":   {Secrets: key("a", "b", "c\x00d")},
		"key, empty":       {Secrets: key("a", "b", "")},
		"name, capital":    {Secrets: key("A", "b", "c")},
		"name, line break": {Secrets: key("a", "b\nc", "d")},
		"document, twice":  {Documents: []File{{Kind: KindPolicy, Name: "a"}, {Kind: KindPolicy, Name: "a"}}},
	} {
		if _, err := w.Write(c, good); err == nil {
			t.Errorf("%s: written", name)
		}
	}
	if _, there, _ := w.Current(); there {
		t.Error("something was put in force")
	}
}

func TestBoundsOfASet(t *testing.T) {
	w := writer(t, t.TempDir())
	many := Contents{ConfigMaps: map[Object]map[string][]byte{{"a", "b"}: {}}}
	for i := range limits.SyncedFiles.Max() + 1 {
		many.ConfigMaps[Object{"a", "b"}][fmt.Sprint(i)] = nil
	}
	large := Contents{Namespaces: make([]byte, limits.SyncedSet.Max()+1)}
	for name, c := range map[string]Contents{"many": many, "large": large} {
		if _, err := w.Write(c, good); !errors.As(err, new(*limits.Exceeded)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOldSetsGoButTheOneBeforeStays(t *testing.T) {
	dir := t.TempDir()
	w := writer(t, dir)
	var ids []string
	for _, text := range []string{"a", "b", "c"} {
		ids = append(ids, mustWrite(t, w, Contents{Namespaces: []byte(text)}))
	}
	if diff := cmp.Diff(sorted(ids[1], ids[2]), list(t, filepath.Join(dir, Sets))); diff != "" {
		t.Error(diff)
	}
	// Its name is taken by the set in which a reader may be.
	again := mustWrite(t, w, Contents{Namespaces: []byte("c")})
	if again == ids[2] {
		t.Errorf("%s was written twice", again)
	}
}

func sorted(a, b string) []string {
	if a > b {
		a, b = b, a
	}
	return []string{a, b}
}

// What a writer left that was killed at any moment is no set, and in nobody's way.
func TestAKilledWriterLeavesTheSetInForce(t *testing.T) {
	dir := t.TempDir()
	w := writer(t, dir)
	mustWrite(t, w, sample())
	w.Close()
	half := filepath.Join(dir, Sets, newSet, Policies)
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string]string{filepath.Join(half, "clusterimagepolicy.a.yaml"): "hal", filepath.Join(dir, newBeat): "2"} {
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("sets/.new", filepath.Join(dir, newCurrent)); err != nil {
		t.Fatal(err)
	}
	w = writer(t, dir)
	c, there, err := w.Current()
	if err != nil || !there || len(c.Documents) != 2 {
		t.Fatalf("%v, %v, %v", c, there, err)
	}
	mustWrite(t, w, Contents{Namespaces: []byte("new")})
	if err := w.Beat(time.Unix(1772366400, 0)); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, Heartbeat)); err != nil || string(data) != "2026-03-01T12:00:00Z\n" {
		t.Errorf("%q, %v", data, err)
	}
}

// A set that somebody altered is not what it was, whatever its name says.
func TestAnAlteredSetIsSeen(t *testing.T) {
	elsewhere := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(elsewhere, []byte("not yours"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, alter := range map[string]func(set string) error{
		"other text": func(set string) error { return os.WriteFile(policyIn(set), []byte("static"), 0o600) },
		"less":       func(set string) error { return os.Remove(policyIn(set)) },
		"a link": func(set string) error {
			return errors.Join(os.Remove(policyIn(set)), os.Symlink(elsewhere, policyIn(set)))
		},
		"a pipe": func(set string) error {
			return errors.Join(os.Remove(policyIn(set)), syscall.Mkfifo(policyIn(set), 0o600))
		},
		"something else": func(set string) error { return os.WriteFile(filepath.Join(set, "x"), nil, 0o600) },
		"gone":           os.RemoveAll,
	} {
		dir := t.TempDir()
		w := writer(t, dir)
		id := mustWrite(t, w, sample())
		if err := alter(filepath.Join(dir, Sets, id)); err != nil {
			t.Fatal(err)
		}
		if c, _, err := w.Current(); err == nil && c.Equal(sample()) {
			t.Errorf("%s: not seen", name)
		} else if strings.Contains(string(join(c)), "not yours") {
			t.Errorf("%s: another file was read", name)
		}
	}
}

func policyIn(set string) string { return filepath.Join(set, Policies, "clusterimagepolicy.a.b.yaml") }

func join(c Contents) (all []byte) {
	for _, d := range c.Documents {
		all = append(all, d.Data...)
	}
	return all
}

func TestALinkThatLeadsAstrayIsNoSet(t *testing.T) {
	for _, target := range []string{"/etc", "..", "sets/../..", "sets/", "sets/.new", "sets/a/b", "sets/gone"} {
		dir := t.TempDir()
		w := writer(t, dir)
		if err := os.Symlink(target, filepath.Join(dir, Current)); err != nil {
			t.Fatal(err)
		}
		if c, there, err := w.Current(); err == nil {
			t.Errorf("%s: %v, %v", target, c, there)
		}
		mustWrite(t, w, sample())
		if c, there, err := w.Current(); err != nil || !there || len(c.Documents) != 2 {
			t.Errorf("%s: not replaced: %v, %v", target, there, err)
		}
	}
}

func TestThereIsOneWriterAtATime(t *testing.T) {
	dir := t.TempDir()
	first := writer(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := OpenWriter(ctx, dir); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a second: %v", err)
	}
	first.Close()
	writer(t, dir)
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
