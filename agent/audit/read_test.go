package audit

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// seqs reads to the end; a fault stands as 0.
func seqs(t *testing.T, dir string, o ReadOptions) []uint64 {
	t.Helper()
	var got []uint64
	for e, err := range Read(t.Context(), dir, o) {
		if broken := new(BrokenError); err != nil && !errors.As(err, &broken) {
			t.Fatal(err)
		}
		got = append(got, e.Seq)
	}
	return got
}

func TestReadChooses(t *testing.T) {
	dir := t.TempDir()
	chain(t, dir, 1, 3, 3, 2)
	since := sample(5).Time // sample(i) is record i+1
	for name, c := range map[string]struct {
		opts ReadOptions
		want []uint64
	}{
		"all":                      {ReadOptions{}, []uint64{1, 2, 3, 4, 5, 6, 7, 8}},
		"last within the current":  {ReadOptions{Last: 1}, []uint64{8}},
		"last is the current":      {ReadOptions{Last: 2}, []uint64{7, 8}},
		"last goes into a rotated": {ReadOptions{Last: 3}, []uint64{6, 7, 8}},
		"last more than there is":  {ReadOptions{Last: 100}, []uint64{1, 2, 3, 4, 5, 6, 7, 8}},
		"since a time":             {ReadOptions{Since: since}, []uint64{6, 7, 8}},
		"since, of the last":       {ReadOptions{Since: since, Last: 2}, []uint64{7, 8}},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(c.want, seqs(t, dir, c.opts)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestReadOfLessThanNothing(t *testing.T) {
	dir := t.TempDir()
	chain(t, dir, 1, 3)
	n := 0
	for e, err := range Read(t.Context(), dir, ReadOptions{Last: -5}) {
		if n++; err == nil {
			t.Errorf("record %d was given", e.Seq)
		}
	}
	if n != 1 {
		t.Errorf("%d entries, want one error", n)
	}
}

func TestReadGoesOnPastDamage(t *testing.T) {
	dir := t.TempDir()
	chain(t, dir, 1, 2, 2, 3)
	path := filepath.Join(dir, currentName)
	editLines(t, path, func(l [][]byte) [][]byte {
		return slices.Insert(l, 1, []byte("junk\n"))
	})
	if err := os.Remove(filepath.Join(dir, rotatedName(3))); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]uint64{1, 2, 0, 5, 0, 6, 7}, seqs(t, dir, ReadOptions{})); d != "" {
		t.Errorf("want faults for the missing file and for the junk:\n%s", d)
	}
}

func TestReadStopsWhenTheCallerDoes(t *testing.T) {
	dir := t.TempDir()
	chain(t, dir, 1, 3)
	for range Read(t.Context(), dir, ReadOptions{Follow: true}) {
		break
	}
}

func TestReadOfNothing(t *testing.T) {
	for _, err := range Read(t.Context(), t.TempDir(), ReadOptions{}) {
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v, want ErrNotExist", err)
		}
		return
	}
	t.Error("no error for a directory without a log")
}

func TestFollowAcrossRotation(t *testing.T) {
	const n = 450 // about four files
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	l := mustOpen(t, Options{Dir: dir, MaxFileSize: maxLine, MaxFiles: 100})
	mustAppend(t, l, 1, 10)
	next := uint64(6)
	for e, err := range Read(ctx, dir, ReadOptions{Last: 5, Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Seq != next {
			t.Fatalf("record %d, want %d", e.Seq, next)
		}
		switch next++; {
		case e.Seq == n:
			return
		case e.Seq%10 == 0: // what was written has been read: write more, sometimes several files' worth
			mustAppend(t, l, 1, min(int(e.Seq)*2, n)-int(e.Seq))
		}
		if e.Seq == 10 {
			mustAppend(t, l, 1, int(l.Head().Seq-10))
		}
	}
	t.Errorf("ended before record %d, at %d", n, next-1)
}

func TestFollowBeforeTheLogIsThere(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	got := make(chan Entry)
	go func() {
		defer close(got)
		for e, err := range Read(ctx, dir, ReadOptions{Follow: true}) {
			if err != nil {
				t.Error(err)
				return
			}
			got <- e
		}
	}()
	l := mustOpen(t, Options{Dir: dir})
	mustAppend(t, l, 1, 1)
	if e := <-got; e.Seq != 1 {
		t.Fatalf("record %d, want 1", e.Seq)
	}
	mustAppend(t, l, 2, 2)
	if e := <-got; e.Seq != 2 {
		t.Fatalf("record %d, want 2", e.Seq)
	}
	cancel()
	if e, more := <-got; more {
		t.Errorf("record %d after the end", e.Seq)
	}
}

func TestFollowSaysWhatRotationTookAway(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	l := mustOpen(t, Options{Dir: dir, MaxFileSize: maxLine, MaxFiles: 1})
	mustAppend(t, l, 1, 1)
	var gap *BrokenError
	for e, err := range Read(ctx, dir, ReadOptions{Follow: true}) {
		switch {
		case errors.As(err, &gap):
		case err != nil:
			t.Fatal(err)
		case e.Seq == 1:
			mustAppend(t, l, 2, 300) // more than the one file holds
		}
		if e.Seq == 300 {
			break
		}
	}
	if gap == nil || gap.Why != WhyGap {
		t.Errorf("found %v, want a gap for the records that were removed unread", gap)
	}
}

// Reading and verifying a log in use must not take a line that is being
// written, or a rotation, for damage.
func TestReadWhileWritten(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, Options{Dir: dir, MaxFileSize: maxLine, MaxFiles: 3})
	mustAppend(t, l, 1, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 1500 {
			if err := l.Append(sample(i % 60)); err != nil {
				t.Error(err)
			}
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		if r, err := VerifyDir(dir); err != nil || r.TornBytes > 0 {
			t.Fatalf("report %+v: %v", r, err)
		}
	}
}
