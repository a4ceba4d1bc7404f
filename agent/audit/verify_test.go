package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// chain writes a sound log of files with so many records each, the last one
// current, numbered from first.
func chain(t testing.TB, dir string, first uint64, counts ...int) Head {
	t.Helper()
	e := newEncoder()
	head := Head{first - 1, genesis.Hash}
	for i, n := range counts {
		name := rotatedName(head.Seq + 1)
		if i == len(counts)-1 {
			name = currentName
		}
		var file []byte
		for range n {
			body, err := e.body(sample(int(head.Seq)))
			if err != nil {
				t.Fatal(err)
			}
			file, head = appendLine(file, head, body)
		}
		write(t, filepath.Join(dir, name), file)
	}
	return head
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// editLines changes a file's lines, newlines included.
func editLines(t *testing.T, path string, f func([][]byte) [][]byte) {
	t.Helper()
	write(t, path, bytes.Join(f(bytes.SplitAfter(read(t, path), []byte("\n"))), nil))
}

// rechain gives a file's records the hashes and numbers that follow prev, as an attacker would.
func rechain(t *testing.T, path string, prev Head) Head {
	t.Helper()
	var out []byte
	for line := range bytes.Lines(read(t, path)) {
		body := line[bytes.Index(line, []byte(`"time"`)) : len(line)-1-tailLen]
		out, prev = appendLine(out, prev, body)
	}
	write(t, path, out)
	return prev
}

func TestTampering(t *testing.T) {
	// Files: records 1-4, 5-8, 9-12 (current).
	file1, file2, file3 := rotatedName(1), rotatedName(5), currentName
	at := func(file string, line int, seq uint64, why Why) *BrokenError {
		return &BrokenError{File: file, Line: line, Seq: seq, Why: why}
	}
	for name, c := range map[string]struct {
		attack func(t *testing.T, dir string)
		want   *BrokenError
	}{
		"deny edited to read allow": {func(t *testing.T, dir string) {
			p := filepath.Join(dir, file2)
			write(t, p, bytes.Replace(read(t, p), []byte(`"deny"`), []byte(`"allow"`), 1))
		}, at(file2, 1, 5, WhyHash)},
		"edited, own hash made right": {func(t *testing.T, dir string) {
			editLines(t, filepath.Join(dir, file2), func(l [][]byte) [][]byte {
				b := bytes.Replace(l[1][:len(l[1])-1-tailLen], []byte(`"deny"`), []byte(`"allow"`), 1)
				sum := sha256.Sum256(b)
				l[1] = []byte(string(b) + hashKey + hex.EncodeToString(sum[:]) + "\"}\n")
				return l
			})
		}, at(file2, 3, 7, WhyPrev)},
		"rewritten to the end of its file": {func(t *testing.T, dir string) {
			p := filepath.Join(dir, file2)
			write(t, p, bytes.ReplaceAll(read(t, p), []byte(`"deny"`), []byte(`"allow"`)))
			_, prev, _ := parseLine(bytes.SplitN(read(t, p), []byte("\n"), 2)[0])
			rechain(t, p, Head{4, prev})
		}, at(file3, 1, 9, WhyPrev)},
		"record removed": {func(t *testing.T, dir string) {
			editLines(t, filepath.Join(dir, file2), func(l [][]byte) [][]byte { return slices.Delete(l, 1, 2) })
		}, at(file2, 2, 7, WhyGap)},
		"last record of a rotated file removed": {func(t *testing.T, dir string) {
			editLines(t, filepath.Join(dir, file2), func(l [][]byte) [][]byte { return slices.Delete(l, 3, 4) })
		}, at(file3, 1, 9, WhyMissingFile)},
		"first record of a rotated file removed": {func(t *testing.T, dir string) {
			editLines(t, filepath.Join(dir, file2), func(l [][]byte) [][]byte { return l[1:] })
		}, at(file2, 1, 6, WhyMissingFile)},
		"first record of all removed": {func(t *testing.T, dir string) {
			editLines(t, filepath.Join(dir, file1), func(l [][]byte) [][]byte { return l[1:] })
		}, at(file1, 1, 2, WhyMisnamed)},
		"record repeated": {func(t *testing.T, dir string) {
			editLines(t, filepath.Join(dir, file2), func(l [][]byte) [][]byte { return slices.Insert(l, 1, l[0]) })
		}, at(file2, 2, 5, WhyGap)},
		"records swapped": {func(t *testing.T, dir string) {
			editLines(t, filepath.Join(dir, file1), func(l [][]byte) [][]byte { l[1], l[2] = l[2], l[1]; return l })
		}, at(file1, 2, 3, WhyGap)},
		"forged record inserted": {func(t *testing.T, dir string) {
			editLines(t, filepath.Join(dir, file1), func(l [][]byte) [][]byte {
				head, _, _ := parseLine(l[0][:len(l[0])-1])
				body, _ := newEncoder().body(sample(99))
				forged, _ := appendLine(nil, head, body)
				return slices.Insert(l, 1, forged)
			})
		}, at(file1, 3, 2, WhyGap)},
		"first record replaced by one of another chain": {func(t *testing.T, dir string) {
			editLines(t, filepath.Join(dir, file1), func(l [][]byte) [][]byte {
				body, _ := newEncoder().body(sample(0))
				l[0], _ = appendLine(nil, Head{0, sha256hex("another")}, body)
				return l
			})
		}, at(file1, 1, 1, WhyPrev)},
		"blank line inserted": {func(t *testing.T, dir string) {
			editLines(t, filepath.Join(dir, file1), func(l [][]byte) [][]byte { return slices.Insert(l, 2, []byte("\n")) })
		}, at(file1, 3, 3, WhyUnparsable)},
		"line that is not JSON, with its right hash": {func(t *testing.T, dir string) {
			editLines(t, filepath.Join(dir, file1), func(l [][]byte) [][]byte {
				head, _, _ := parseLine(l[2][:len(l[2])-1])
				l[3], _ = appendLine(nil, head, []byte(`"decision":"deny"},{`))
				return l
			})
		}, at(file1, 4, 4, WhyUnparsable)},
		"endless line": {func(t *testing.T, dir string) {
			editLines(t, filepath.Join(dir, file1), func(l [][]byte) [][]byte {
				return slices.Insert(l, 1, append(bytes.Repeat([]byte("a"), 3*maxLine), '\n'))
			})
		}, at(file1, 2, 2, WhyUnparsable)},
		"number written another way": {func(t *testing.T, dir string) {
			p := filepath.Join(dir, file1)
			write(t, p, bytes.Replace(read(t, p), []byte(`{"seq":2,`), []byte(`{"seq":02,`), 1))
		}, at(file1, 2, 2, WhyUnparsable)},
		"file in the middle removed": {func(t *testing.T, dir string) {
			os.Remove(filepath.Join(dir, file2))
		}, at(file3, 1, 9, WhyMissingFile)},
		"rotated file emptied": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, file2), nil)
		}, at(file2, 1, 5, WhyUnparsable)},
		"rotated file cut in a line": {func(t *testing.T, dir string) {
			p := filepath.Join(dir, file2)
			b := read(t, p)
			write(t, p, b[:len(b)-10])
		}, at(file2, 4, 8, WhyUnparsable)},
		"files exchanged": {func(t *testing.T, dir string) {
			a, b := filepath.Join(dir, file1), filepath.Join(dir, file2)
			one, two := read(t, a), read(t, b)
			write(t, a, two)
			write(t, b, one)
		}, at(file1, 1, 5, WhyMisnamed)},
		"oldest file renamed": {func(t *testing.T, dir string) {
			os.Rename(filepath.Join(dir, file1), filepath.Join(dir, rotatedName(2)))
		}, at(rotatedName(2), 1, 1, WhyMisnamed)},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			chain(t, dir, 1, 4, 4, 4)
			mustVerify(t, dir)
			c.attack(t, dir)
			_, err := VerifyDir(dir)
			var got *BrokenError
			if !errors.As(err, &got) {
				t.Fatalf("found %v, want %v", err, c.want)
			}
			if got.File != c.want.File || got.Line != c.want.Line || got.Seq != c.want.Seq || got.Why != c.want.Why {
				t.Errorf("found %v, want %v", got, c.want)
			}
		})
	}
}

func sha256hex(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// What only a head noted elsewhere can show.
func TestTamperingAgainstKnownHead(t *testing.T) {
	for name, c := range map[string]struct {
		attack func(t *testing.T, dir string)
		want   Why
	}{
		"tail cut off": {func(t *testing.T, dir string) {
			editLines(t, filepath.Join(dir, currentName), func(l [][]byte) [][]byte { return l[:2] })
		}, WhyTruncated},
		"current file removed": {func(t *testing.T, dir string) {
			os.Remove(filepath.Join(dir, currentName))
		}, WhyTruncated},
		"all rewritten with new hashes": {func(t *testing.T, dir string) {
			prev := genesis
			for _, name := range []string{rotatedName(1), currentName} {
				p := filepath.Join(dir, name)
				write(t, p, bytes.ReplaceAll(read(t, p), []byte(`"deny"`), []byte(`"allow"`)))
				prev = rechain(t, p, prev)
			}
		}, WhyKnownHead},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			head := chain(t, dir, 1, 4, 4)
			mustVerify(t, dir, head, genesis)
			c.attack(t, dir)
			if _, err := VerifyDir(dir); err != nil {
				t.Fatalf("without a head this cannot be seen, yet: %v", err)
			}
			_, err := VerifyDir(dir, head)
			var got *BrokenError
			if !errors.As(err, &got) || got.Why != c.want {
				t.Errorf("found %v, want %s", err, c.want)
			}
		})
	}
}

func TestOldestFilesRemovedIsNotBroken(t *testing.T) {
	dir := t.TempDir()
	chain(t, dir, 1, 4, 4, 4)
	if err := os.Remove(filepath.Join(dir, rotatedName(1))); err != nil {
		t.Fatal(err)
	}
	if r := mustVerify(t, dir); r.FirstSeq != 5 || r.Records != 8 {
		t.Errorf("report %+v, want records 5 to 12", r)
	}
}

func TestNoLogIsNotAnIntactLog(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Join(dir, "missing")} {
		if r, err := VerifyDir(d); err == nil {
			t.Errorf("%s: intact, %+v", d, r)
		}
	}
}

// A second name for the current file must not stand for the files before it.
func TestCurrentFileLinkedAsRotated(t *testing.T) {
	dir := t.TempDir()
	chain(t, dir, 1, 3, 3)
	old := filepath.Join(dir, rotatedName(1))
	if err := errors.Join(os.Remove(old), os.Link(filepath.Join(dir, currentName), old)); err != nil {
		t.Fatal(err)
	}
	if r, err := VerifyDir(dir); err == nil || !strings.Contains(err.Error(), "also has the name") {
		t.Errorf("report %+v: %v, want that the file has two names", r, err)
	}
}

func TestPipeInPlaceOfTheLogDoesNotHang(t *testing.T) {
	dir := t.TempDir()
	mkfifo(t, filepath.Join(dir, currentName))
	if _, err := VerifyDir(dir); err == nil {
		t.Error("a pipe was accepted as a log")
	}
}

// A line that its writer is in the middle of is not torn.
func TestHalfWrittenLineIsLookedAtAgain(t *testing.T) {
	dir := t.TempDir()
	head := chain(t, dir, 1, 3)
	path := filepath.Join(dir, currentName)
	good := read(t, path)
	write(t, path, good[:len(good)-100])
	f, err := openRead(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v := verifier{last: genesis, wait: func() { write(t, path, good) }}
	if err := v.file(currentName, f); err != nil || v.report.TornBytes != 0 || v.report.Head != head {
		t.Errorf("report %+v: %v, want the head %v", v.report, err, head)
	}
}

// The command in the package comment, as it stands there.
func TestLineIsCheckedWithoutThisPackage(t *testing.T) {
	dir := t.TempDir()
	head := chain(t, dir, 1, 1)
	cmd := exec.Command("sh", "-c", `head -n 1 audit.jsonl | sed -E 's/,"hash":"[0-9a-f]{64}"\}$//' | tr -d '\n' | sha256sum`)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), head.Hash) {
		t.Errorf("%s (%v), want %s", out, err, head.Hash)
	}
	if doc := string(read(t, "doc.go")); !strings.Contains(doc, cmd.Args[2]) {
		t.Error("the package comment has another command")
	}
}

// Every byte counts: whichever is changed, taken out or doubled, it is seen.
func TestEveryByteIsCovered(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, currentName)
	good, head := appendLine(nil, genesis, []byte(`"time":"2026-03-01T12:00:00Z","decision":"deny"`))
	good, _ = appendLine(good, head, []byte(`"time":"2026-03-01T12:00:01Z","decision":"allow"`))
	write(t, path, good)
	mustVerify(t, dir)
	check := func(what string, i int, b []byte) {
		write(t, path, b)
		if r, err := VerifyDir(dir); err == nil && r.TornBytes == 0 {
			t.Fatalf("byte %d (%q) %s: taken for intact", i, good[i], what)
		}
	}
	for i := range good {
		for _, x := range []byte{0x01, 0x20, 0x80} {
			b := bytes.Clone(good)
			b[i] ^= x
			check("flipped", i, b)
		}
		check("removed", i, slices.Delete(bytes.Clone(good), i, i+1))
		check("doubled", i, slices.Insert(bytes.Clone(good), i, good[i]))
	}
}

var lineShape = regexp.MustCompile(`^(\{"seq":([1-9][0-9]*),"prev":"([0-9a-f]{64})",.*),"hash":"([0-9a-f]{64})"\}$`)

// FuzzVerifyArbitrary holds VerifyDir against a check written from the
// specification alone, with a regular expression.
func FuzzVerifyArbitrary(f *testing.F) {
	dir := f.TempDir()
	chain(f, dir, 1, 3)
	good := read(f, filepath.Join(dir, currentName))
	f.Add(good)
	f.Add(good[:len(good)-5])
	f.Add([]byte("\n"))
	f.Add([]byte(`{"seq":1,"prev":"`))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, currentName), b)
		r, err := VerifyDir(dir)
		if err != nil {
			return
		}
		prev, n := genesis.Hash, uint64(0)
		for line := range bytes.Lines(b[:int64(len(b))-r.TornBytes]) {
			m := lineShape.FindSubmatch(bytes.TrimSuffix(line, []byte("\n")))
			if m == nil {
				t.Fatalf("line %d taken for a record: %.100q", n+1, line)
			}
			if n > 0 && string(m[3]) != prev || sha256hex(string(m[1])) != string(m[4]) {
				t.Fatalf("line %d: wrong hash accepted", n+1)
			}
			prev = string(m[4])
			n++
		}
		if n != r.Records {
			t.Fatalf("%d records reported, %d are there", r.Records, n)
		}
	})
}

// FuzzVerifyMutated replaces any stretch of a sound log with any bytes. With
// the head known, nothing but the log itself is intact.
func FuzzVerifyMutated(f *testing.F) {
	dir := f.TempDir()
	head := chain(f, dir, 1, 3)
	good := read(f, filepath.Join(dir, currentName))
	f.Add(10, 1, []byte("x"))
	f.Add(0, 900, []byte(""))
	f.Add(len(good)-1, 1, []byte(""))
	f.Fuzz(func(t *testing.T, at, n int, with []byte) {
		if at < 0 || n < 0 || at > len(good) || n > len(good)-at {
			return
		}
		b := slices.Replace(bytes.Clone(good), at, at+n, with...)
		dir := t.TempDir()
		write(t, filepath.Join(dir, currentName), b)
		r, err := VerifyDir(dir, head)
		if intact := err == nil && r.TornBytes == 0; intact != bytes.Equal(b, good) {
			t.Fatalf("intact=%v (%v) after replacing %d bytes at %d with %q", intact, err, n, at, with)
		}
	})
}
