package audit

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func torn(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "torn-*.bin"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestTornLastLineIsSetAside(t *testing.T) {
	for name, tail := range map[string]func(next []byte) []byte{
		"one byte":                      func(b []byte) []byte { return b[:1] },
		"half a record":                 func(b []byte) []byte { return b[:len(b)/2] },
		"all but the newline":           func(b []byte) []byte { return b[:len(b)-1] },
		"zeros after a power cut":       func([]byte) []byte { return make([]byte, 4096) },
		"more zeros than a line's size": func([]byte) []byte { return make([]byte, 5*maxLine) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			head := chain(t, dir, 1, 3, 3)
			path := filepath.Join(dir, currentName)
			next, _ := appendLine(nil, head, []byte(`"decision":"allow"`))
			part := tail(next)
			write(t, path, append(read(t, path), part...))
			if r := mustVerify(t, dir, head); r.TornBytes != int64(len(part)) {
				t.Errorf("%d torn bytes reported, want %d", r.TornBytes, len(part))
			}
			told := new(tally)
			l := mustOpen(t, told.on(Options{Dir: dir}))
			mustAppend(t, l, 7, 7)
			if got := pods(t, dir); !strings.HasSuffix(got, "notice 7") {
				t.Errorf("on disk: %s, want a notice and then 7", got)
			}
			if r := mustVerify(t, dir, head, l.Head()); r.TornBytes != 0 || r.Notices != 1 || r.Records != 8 {
				t.Errorf("report %+v", r)
			}
			told.want(t, 1, 0)
			if names := torn(t, dir); len(names) != 1 || !bytes.Equal(read(t, names[0]), part) {
				t.Errorf("side files %v do not hold the %d bytes", names, len(part))
			}
		})
	}
}

func TestTornFirstLine(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, currentName), []byte(`{"seq":1,"pre`))
	l := mustOpen(t, Options{Dir: dir})
	mustAppend(t, l, 1, 1)
	if r := mustVerify(t, dir, l.Head()); r.FirstSeq != 1 || r.Records != 2 {
		t.Errorf("report %+v, want a notice and a record", r)
	}
}

func TestSideFilesAreBounded(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, currentName)
	for i := range 3 * maxTorn {
		l := mustOpen(t, Options{Dir: dir})
		mustAppend(t, l, i, i)
		l.Close()
		write(t, path, append(read(t, path), `{"seq"`...))
	}
	if n := len(torn(t, dir)); n != maxTorn {
		t.Errorf("%d side files, want %d", n, maxTorn)
	}
}

// What is not a torn line stays where it is: were it tidied away at the next
// start, nobody would see that it was tampered with.
func TestDamageIsNotTidiedAway(t *testing.T) {
	for name, attack := range map[string]func([]byte) []byte{
		"last record edited":     func(b []byte) []byte { return replaceLast(b, `"deny"`, `"none"`) },
		"junk at the end":        func(b []byte) []byte { return append(b, "junk\n"...) },
		"all records edited":     func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("deny"), []byte("none")) },
		"long junk at the end":   func(b []byte) []byte { return append(append(b, make([]byte, 4*maxLine)...), '\n') },
		"record in the middle":   func(b []byte) []byte { return bytes.Replace(b, []byte("deny"), []byte("none"), 1) },
		"edited, then also torn": func(b []byte) []byte { return append(replaceLast(b, `"deny"`, `"none"`), `{"seq"`...) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			chain(t, dir, 1, 3, 3)
			path := filepath.Join(dir, currentName)
			write(t, path, attack(read(t, path)))
			before := read(t, path)
			l := mustOpen(t, Options{Dir: dir})
			mustAppend(t, l, 7, 8)
			before = before[:bytes.LastIndexByte(before, '\n')+1]
			if !bytes.HasPrefix(read(t, path), before) {
				t.Error("the lines that were there were changed")
			}
			_, err := VerifyDir(dir)
			var broken *BrokenError
			if !errors.As(err, &broken) || broken.File != currentName {
				t.Errorf("found %v, want the damage in %s", err, currentName)
			}
		})
	}
}

func TestFullFileOfJunkIsRotatedAndFound(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, currentName), bytes.Repeat([]byte("junk\n"), maxLine/5))
	l := mustOpen(t, Options{Dir: dir, MaxFileSize: maxLine})
	mustAppend(t, l, 1, 250)
	_, err := VerifyDir(dir)
	var broken *BrokenError
	if !errors.As(err, &broken) || broken.File != rotatedName(0) || broken.Why != WhyUnparsable {
		t.Errorf("found %v, want the junk in %s", err, rotatedName(0))
	}
	names, err := listRotated(dir)
	if err != nil || len(names) != 3 {
		t.Errorf("rotated files %v (%v), want the junk and two more", names, err)
	}
}

func TestLongLineIsNoLine(t *testing.T) {
	in := newLines(strings.NewReader(strings.Repeat("a", maxLine) + "\n" + strings.Repeat("b", maxLine-1) + "\nc"))
	if _, err := in.next(); !errors.Is(err, errLong) {
		t.Errorf("%v, want errLong", err)
	}
	if line, err := in.next(); err != nil || len(line) != maxLine-1 || in.n != 2 {
		t.Errorf("line %d of %d bytes, %v, want the second whole", in.n, len(line), err)
	}
	if _, err := in.next(); !errors.Is(err, errTorn) || in.torn != 1 {
		t.Errorf("%d bytes, %v, want 1 torn", in.torn, err)
	}
}

func replaceLast(b []byte, from, to string) []byte {
	i := bytes.LastIndex(b, []byte(from))
	return bytes.Join([][]byte{b[:i], b[i+len(from):]}, []byte(to))
}

func TestCrashBetweenRenameAndCreate(t *testing.T) {
	for name, after := range map[string]func(path string){
		"before the create": func(path string) { os.Remove(path) },
		"after the create":  func(path string) { os.Truncate(path, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			chain(t, dir, 1, 3, 3, 0)
			after(filepath.Join(dir, currentName))
			r := mustVerify(t, dir)
			l := mustOpen(t, Options{Dir: dir})
			mustAppend(t, l, 7, 7)
			// It looks the same as a current file that was removed: the chain says so.
			if got := mustVerify(t, dir, r.Head, l.Head()); got.Records != 8 || got.Notices != 1 {
				t.Errorf("report %+v, want the 6 records, a notice and one more", got)
			}
		})
	}
}

// Records must not go into a file that nobody can read any more.
func TestFileAlteredWhileOpen(t *testing.T) {
	for name, c := range map[string]struct {
		attack func(t *testing.T, path string)
		broken bool
	}{
		"removed":             {func(t *testing.T, path string) { os.Remove(path) }, false}, // from 1 on nothing is left to compare with
		"moved away":          {func(t *testing.T, path string) { os.Rename(path, path+".1") }, false},
		"emptied":             {func(t *testing.T, path string) { os.Truncate(path, 0) }, false},
		"replaced by another": {func(t *testing.T, path string) { os.Remove(path); write(t, path, []byte("junk\n")) }, true},
		"replaced by one of its size": {func(t *testing.T, path string) {
			b := read(t, path)
			os.Remove(path)
			write(t, path, append(bytes.Repeat([]byte("j"), len(b)-1), '\n'))
		}, true},
		"cut in a line": {func(t *testing.T, path string) { os.Truncate(path, 1000) }, true},
		"line added":    {func(t *testing.T, path string) { write(t, path, append(read(t, path), "junk\n"...)) }, true},
		"part of a line added": {func(t *testing.T, path string) {
			write(t, path, append(read(t, path), "junk"...))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			told := new(tally)
			l := mustOpen(t, told.on(Options{Dir: dir}))
			mustAppend(t, l, 1, 3)
			before := l.Head()
			c.attack(t, filepath.Join(dir, currentName))
			mustAppend(t, l, 4, 4)
			if len(told.faults) == 0 {
				t.Error("nothing was reported")
			}
			b := read(t, filepath.Join(dir, currentName))
			if !bytes.Contains(b, []byte("web-4")) || !bytes.Contains(b, []byte("by someone else after record 3")) {
				t.Errorf("the next record and a notice are not in the file:\n%s", b)
			}
			_, err := VerifyDir(dir)
			if broken := new(BrokenError); errors.As(err, &broken) != c.broken {
				t.Errorf("verify: %v, want broken=%v", err, c.broken)
			}
			if _, err := VerifyDir(dir, before, l.Head()); name != "part of a line added" && err == nil {
				t.Error("with the head from before, it was taken for intact")
			}
		})
	}
}
