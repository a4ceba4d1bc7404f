package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMemoryIsGivenBack: what a burst took is not kept from the node's pods.
func TestMemoryIsGivenBack(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // nothing but what is tested collects here
	held := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapSys - m.HeapReleased
	}
	before := held()
	burst := make([][]byte, 64)
	for i := range burst {
		burst[i] = make([]byte, 1<<20)
		burst[i][0] = 1
	}
	if held() < before+32<<20 {
		t.Fatalf("the burst took no memory: %d MiB, before it %d", held()>>20, before>>20)
	}
	runtime.KeepAlive(burst)
	burst = nil
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		giveMemoryBack(ctx, 10*time.Millisecond)
	}()
	for end := time.Now().Add(20 * time.Second); held() > before+16<<20; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%d MiB are still held, before the burst it was %d", held()>>20, before>>20)
			break
		}
	}
	cancel()
	<-done
}

// TestOnlyConstantsAreUnmapped: a page that was written to and is dropped comes back as it is in the file.
func TestOnlyConstantsAreUnmapped(t *testing.T) {
	const exe = "/usr/bin/cosentry"
	smaps := ""
	for i, c := range []struct{ perms, file, anonymous, swap string }{
		{"r-xp", exe, "0", "0"},
		{"r--p", exe, "0", "0"},
		{"r--p", exe, "4", "0"}, // relocated, and then made read-only
		{"r--p", exe, "0", "4"}, // the same, swapped out
		{"rw-p", exe, "0", "0"},
		{"rw-p", exe, "64", "0"},
		{"r-xp", "/usr/lib/other.so", "0", "0"},
		{"r-xp", exe + " (deleted)", "0", "0"},
		{"r--p", "", "0", "0"},
	} {
		smaps += fmt.Sprintf("%x000-%x000 %s 00000000 fe:00 12 %s\nSize: 4 kB\nAnonymous: %s kB\nSwap: %s kB\nVmFlags: rd mr\n", i+1, i+2, c.perms, c.file, c.anonymous, c.swap)
	}
	want := []mapping{{0x1000, 0x2000}, {0x2000, 0x3000}}
	if got := constantMappings(strings.NewReader(smaps), exe); !slices.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
	if err := unmapProgram(); err != nil { // and this test, which it unmaps, goes on
		t.Error(err)
	}
}
