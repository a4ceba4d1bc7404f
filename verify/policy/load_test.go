package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func write(t testing.TB, path, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func names(s *Set) (all []string) {
	for _, p := range s.Policies() {
		all = append(all, p.Name)
	}
	return all
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/b.yaml", keyPolicy(t, "three", "**", "P-256")+"---\n"+keyPolicy(t, "one", "**", "P-256"))
	write(t, dir+"/a.yml", keyPolicy(t, "two", "**", "P-256"))
	write(t, dir+"/c.json", strings.TrimSpace(`{"apiVersion":"policy.sigstore.dev/v1alpha1","kind":"ClusterImagePolicy","metadata":{"name":"four"},"spec":{"images":[{"glob":"**"}],"authorities":[{"static":{"action":"fail"}}]}}`))
	write(t, dir+"/UPPER.YAML", keyPolicy(t, "five", "**", "P-256"))
	write(t, dir+"/empty.yaml", "")
	write(t, dir+"/.hidden.yaml", "not: read")
	write(t, dir+"/README.md", "not read")
	write(t, dir+"/b.yaml.bak", "not: read")
	write(t, dir+"/sub/x.yaml", "not: read")
	s, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"five", "four", "one", "three", "two"}, names(s)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := s.Policies()[3].Source; got != dir+"/b.yaml:1" {
		t.Errorf("source %s", got)
	}
}

func TestLoadMountedConfigMap(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/..2024_01_01/p.yaml", keyPolicy(t, "p", "**", "P-256"))
	for link, target := range map[string]string{"..data": "..2024_01_01", "p.yaml": "..data/p.yaml"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"p"}, names(s)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLoadNoPolicies(t *testing.T) {
	s, err := Load(t.TempDir())
	if err != nil || s.Revision() == "" || len(s.Policies()) != 0 {
		t.Fatalf("%v, %v", s, err)
	}
	if got, err := s.Match("foo", ""); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestLoadNoFolder(t *testing.T) {
	s, err := Load(filepath.Join(t.TempDir(), "missing"))
	if s != nil || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v, %v", s, err)
	}
}

// One sound file beside each must not make a set: its rules would hold and
// those of the other be missing without a word.
func TestLoadRefusesTheWholeFolder(t *testing.T) {
	for rule, c := range map[string]struct {
		make func(path string) error
		want string
	}{
		"broken file":         {func(p string) error { return os.WriteFile(p, []byte("{"), 0o644) }, "not readable as YAML"},
		"link to nothing":     {func(p string) error { return os.Symlink("gone", p) }, "cannot be read: no such file"},
		"link to itself":      {func(p string) error { return os.Symlink("x.yaml", p) }, "cannot be read: too many levels"},
		"folder":              {func(p string) error { return os.Mkdir(p, 0o755) }, "not a regular file"},
		"pipe without writer": {func(p string) error { return syscall.Mkfifo(p, 0o644) }, "not a regular file"},
		"device":              {func(p string) error { return os.Symlink("/dev/zero", p) }, "not a regular file"},
		"too large":           {func(p string) error { return os.WriteFile(p, make([]byte, MaxFileSize+1), 0o644) }, "larger than"},
		"name used twice":     {func(p string) error { return os.WriteFile(p, []byte(keyPolicy(t, "p", "a", "P-256")), 0o644) }, "already defined in"},
	} {
		t.Run(rule, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir+"/good.yaml", keyPolicy(t, "p", "**", "P-256"))
			if err := c.make(dir + "/x.yaml"); err != nil {
				t.Fatal(err)
			}
			s, err := Load(dir)
			if err == nil || s != nil {
				t.Fatal("accepted")
			}
			if !strings.HasPrefix(err.Error(), dir+"/x.yaml:") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant it to name the file and say: %s", err, c.want)
			}
		})
	}
}

func TestLoadFile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/good.yaml", keyPolicy(t, "p", "**", "P-256"))
	write(t, dir+"/bad.yaml", "kind: Pod\n")
	if err := syscall.Mkfifo(dir+"/pipe.yaml", 0o644); err != nil {
		t.Fatal(err)
	}
	if found, err := LoadFile(dir + "/good.yaml"); err != nil || len(found.Policies) != 1 || found.Policies[0].Name != "p" {
		t.Errorf("good file: %v, %v", found, err)
	}
	var faults Errors
	if _, err := LoadFile(dir + "/bad.yaml"); !errors.As(err, &faults) {
		t.Errorf("bad file: %v", err)
	}
	for _, name := range []string{"/pipe.yaml", "/none.yaml"} {
		_, err := LoadFile(dir + name)
		if err == nil || errors.As(err, &faults) || !strings.HasPrefix(err.Error(), dir+name+": ") {
			t.Errorf("%s cannot be read, which is no fault of its content: %v", name, err)
		}
	}
}

func TestLoadReportsAllFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a.yaml", "kind: Pod\n")
	write(t, dir+"/b.yaml", keyPolicy(t, "p", "**", "P-256")+"---\n"+keyPolicy(t, "p", "**", "P-256"))
	write(t, dir+"/c.yaml", doc("mode: x"))
	_, err := Load(dir)
	var faults Errors
	if !errors.As(err, &faults) {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, f := range faults {
		got[filepath.Base(f.File)]++
	}
	if diff := cmp.Diff(map[string]int{"a.yaml": 1, "b.yaml": 1, "c.yaml": 3}, got); diff != "" {
		t.Errorf("faults by file (-want +got):\n%s", diff)
	}
}

func BenchmarkLoad1000(b *testing.B) {
	dir := b.TempDir()
	for i := range 1000 {
		write(b, fmt.Sprintf("%s/%d.yaml", dir, i), keyPolicy(b, fmt.Sprintf("p%d", i), "**", "P-256"))
	}
	for b.Loop() {
		if _, err := Load(dir); err != nil {
			b.Fatal(err)
		}
	}
}

// A policy in a file of another name is one not enforced: somebody has to say so.
func TestFilesThatAreLeftOutAreTold(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a.yaml", keyPolicy(t, "a", "**", "P-256"))
	write(t, dir+"/.hidden", "x")
	write(t, dir+"/sub/b.txt", "x")
	if err := os.Symlink("nowhere", dir+"/dangling"); err != nil {
		t.Fatal(err)
	}
	warnings := func() []Warning {
		s, err := Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		return s.Warnings()
	}
	if got := warnings(); len(got) != 0 {
		t.Errorf("nothing that could be a policy is left out: %v", got)
	}
	write(t, dir+"/b.txt", "x")
	write(t, dir+"/c\nyaml", "x")
	if err := os.Symlink("sub/b.txt", dir+"/link"); err != nil { // as in a mounted ConfigMap
		t.Fatal(err)
	}
	want := dir + `: not read, because of their names: b.txt, "c\nyaml" and link; ` + readNames
	if got := warnings(); len(got) != 1 || got[0].String() != want {
		t.Errorf("%v, want %s", got, want)
	}
	for i := range 50 {
		write(t, fmt.Sprintf("%s/d%02d", dir, i), "x")
	}
	if got := warnings(); len(got) != 1 || !strings.Contains(got[0].Text, "and 43 more; ") {
		t.Errorf("%v", got)
	}
	for file, told := range map[string]bool{"a.yaml": false, "b.txt": true, ".a.yaml": true} {
		if got := Unread(dir + "/" + file); (len(got) == 1) != told {
			t.Errorf("%s: %v", file, got)
		}
	}
}
