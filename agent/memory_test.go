package main

import (
	"context"
	"runtime"
	"runtime/debug"
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
