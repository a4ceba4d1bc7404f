package audit

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func sample(i int) Record {
	return Record{
		Time: time.Date(2026, 3, 1, 12, 0, i, 0, time.UTC),
		Node: "node-a", Action: ActionCreate, Decision: DecisionDeny,
		Pod:       Pod{Namespace: "prod", Name: fmt.Sprintf("web-%d", i), UID: "0e7c1d7e-0000-4000-8000-000000000001"},
		Container: "app", Image: "registry.example/app:1.2",
		Digest: "sha256:ab12cd34ab12cd34ab12cd34ab12cd34ab12cd34ab12cd34ab12cd34ab12cd34",
		Policies: []PolicyResult{{Policy: "prod-signed", Mode: "enforce", Result: "fail",
			Authority: "release-key", KeyFingerprint: "SHA256:abcdef", Reason: "no signature by this key"}},
		Reason: "refused by policy prod-signed", Mode: "enforce", Duration: 1500 * time.Microsecond, Revision: "r1",
	}
}

func mustOpen(t testing.TB, o Options) *Log {
	t.Helper()
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func mustAppend(t testing.TB, l *Log, from, to int) {
	t.Helper()
	for i := from; i <= to; i++ {
		if err := l.Append(sample(i)); err != nil {
			t.Fatalf("append %d: %v", i, err)
		}
	}
}

func mustVerify(t testing.TB, dir string, known ...Head) Report {
	t.Helper()
	r, err := VerifyDir(dir, known...)
	if err != nil {
		t.Fatalf("log is not intact: %v", err)
	}
	return r
}

// entries reads the whole log, which must be free of faults.
func entries(t testing.TB, dir string) []Entry {
	t.Helper()
	var all []Entry
	for e, err := range Read(t.Context(), dir, ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

func TestRecordComesBackAsWritten(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, Options{Dir: dir})
	want := sample(1)
	want.CacheHit = true
	if err := l.Append(want); err != nil {
		t.Fatal(err)
	}
	got := entries(t, dir)
	if len(got) != 1 {
		t.Fatalf("%d records, want 1", len(got))
	}
	if d := cmp.Diff(want, got[0].Record); d != "" {
		t.Errorf("record differs (-want +got):\n%s", d)
	}
	if got := (Head{got[0].Seq, got[0].Hash}); got != l.Head() {
		t.Errorf("head %v, want %v", l.Head(), got)
	}
	if !strings.Contains(string(got[0].Raw), `"duration_us":1500,`) && !strings.Contains(string(got[0].Raw), `"duration_us":1500}`) {
		t.Errorf("no duration in microseconds in %s", got[0].Raw)
	}
}

func TestModesOfDirectoryAndFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "var", "audit")
	mustAppend(t, mustOpen(t, Options{Dir: dir}), 1, 1)
	for path, want := range map[string]fs.FileMode{dir: 0o700, filepath.Join(dir, currentName): 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %04o, want %04o", path, info.Mode().Perm(), want)
		}
	}
}

func TestOpenRefusesBadOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"no directory":                {},
		"files smaller than a record": {Dir: t.TempDir(), MaxFileSize: maxLine - 1},
		"negative number of files":    {Dir: t.TempDir(), MaxFiles: -1},
		"negative queue":              {Dir: t.TempDir(), QueueSize: -1},
		"negative time":               {Dir: t.TempDir(), WriteTimeout: -1},
	} {
		t.Run(name, func(t *testing.T) {
			if l, err := Open(o); err == nil {
				l.Close()
				t.Error("opened")
			}
		})
	}
}

func TestRestartContinuesChain(t *testing.T) {
	dir := t.TempDir()
	var head Head
	for i := 1; i <= 3; i++ {
		l := mustOpen(t, Options{Dir: dir})
		if i > 1 && l.Head() != head {
			t.Fatalf("head after restart %v, want %v", l.Head(), head)
		}
		mustAppend(t, l, 1, 2)
		head = l.Head()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	r := mustVerify(t, dir, head)
	if r.Records != 6 || r.FirstSeq != 1 || r.Head != head || r.Notices != 0 {
		t.Errorf("report %+v", r)
	}
}

func TestRotationContinuesChainAndRemovesOldest(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, Options{Dir: dir, MaxFileSize: maxLine, MaxFiles: 3})
	mustAppend(t, l, 1, 500)
	r := mustVerify(t, dir, l.Head())
	if r.Files != 3 || r.FirstSeq == 1 || r.Records != 501-r.FirstSeq {
		t.Errorf("report %+v, want 3 files, the first records gone", r)
	}
	if _, err := VerifyDir(dir, Head{1, strings.Repeat("a", hexLen)}); err == nil {
		t.Error("a known head from before the oldest record was passed over")
	}
	names, err := listRotated(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(names, currentName) {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > maxLine {
			t.Errorf("%s has %d bytes, want at most %d", name, info.Size(), maxLine)
		}
	}
}

func TestRotationNeverReplacesAFile(t *testing.T) {
	dir := t.TempDir()
	obstacle := filepath.Join(dir, rotatedName(1))
	told := new(tally)
	l := mustOpen(t, told.on(Options{Dir: dir, MaxFileSize: maxLine}))
	if err := os.WriteFile(obstacle, []byte("evidence"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, l, 1, 150)
	if got, _ := os.ReadFile(obstacle); string(got) != "evidence" {
		t.Errorf("file was replaced with %.40q", got)
	}
	if n := len(told.faults); n == 0 || n > 20 {
		t.Errorf("%d failures reported; want some, and not a try for each record", n)
	}
	if got := l.Head().Seq; got != 150 {
		t.Errorf("%d records written, want 150", got)
	}
}

func TestConcurrentAppends(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, Options{Dir: dir, MaxFileSize: maxLine, MaxFiles: 100})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 200 {
				if err := l.Append(sample(g*1000 + i)); err != nil {
					t.Error(err)
				}
				l.Head()
			}
		})
	}
	wg.Wait()
	if r := mustVerify(t, dir, l.Head()); r.Records != 800 || r.FirstSeq != 1 {
		t.Errorf("report %+v, want 800 records", r)
	}
}

// TestKilledInTheMiddle kills a real writer at a moment of its own choosing: no
// record whose Append had returned may be missing, and the log goes on.
func TestKilledInTheMiddle(t *testing.T) {
	if os.Getenv("AUDIT_TEST_DIR") != "" { // the writer
		l := mustOpen(t, Options{Dir: os.Getenv("AUDIT_TEST_DIR"), MaxFileSize: maxLine, MaxFiles: 1000})
		for i := 1; ; i++ {
			mustAppend(t, l, i, i)
			fmt.Println("seq", l.Head().Seq)
		}
	}
	dir := t.TempDir()
	var acked uint64
	for round := range 4 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledInTheMiddle$")
		cmd.Env = append(os.Environ(), "AUDIT_TEST_DIR="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewScanner(out)
		for n := 0; n < 150+37*round && in.Scan(); n++ {
			acked, _ = strconv.ParseUint(strings.TrimPrefix(in.Text(), "seq "), 10, 64)
		}
		cmd.Process.Kill()
		for in.Scan() {
			if n, err := strconv.ParseUint(strings.TrimPrefix(in.Text(), "seq "), 10, 64); err == nil {
				acked = n
			}
		}
		cmd.Wait()
		l := mustOpen(t, Options{Dir: dir, MaxFileSize: maxLine, MaxFiles: 1000})
		if l.Head().Seq < acked || acked == 0 {
			t.Fatalf("round %d: head %d after a crash, want at least %d", round, l.Head().Seq, acked)
		}
		mustVerify(t, dir, l.Head())
		l.Close()
	}
}

func BenchmarkAppend(b *testing.B) {
	l := mustOpen(b, Options{Dir: b.TempDir()})
	r := sample(1)
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Append(r); err != nil {
			b.Fatal(err)
		}
	}
}
