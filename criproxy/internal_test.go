package criproxy

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The longest wait between two attempts is what a runtime's return may cost. Ten minutes of them pass on a clock that the test has for
// itself.
func TestRuntimeThatIsAwayIsTriedAgainWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const away = 10 * time.Minute
		begun := time.Now()
		var mu sync.Mutex
		tries := []time.Time{begun}
		conn, err := dialRaw("unix:///run/runtime.sock", grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			tries = append(tries, time.Now())
			return nil, syscall.ECONNREFUSED
		}))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		p := &Proxy{conn: conn, log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithTimeout(t.Context(), away)
		defer cancel()
		p.keepConnected(ctx)
		mu.Lock()
		defer mu.Unlock()
		tries = append(tries, begun.Add(away))
		for i, at := range tries[1:] {
			if pause := at.Sub(tries[i]); pause >= time.Second {
				t.Errorf("%v pass before try %d", pause, i)
			}
		}
	})
}

// An update of cri-api brings methods by itself. One that could make bytes run
// needs a decision, and this test is where it is asked for.
func TestEveryMethodHasItsKind(t *testing.T) {
	table, err := newMethodTable(false, false)
	if err != nil {
		t.Fatal(err)
	}
	if gating, err := newMethodTable(false, true); err != nil || gating.known[runtimeapi.RuntimeService_RunPodSandbox_FullMethodName].kind != gated {
		t.Errorf("RunPodSandbox is not gated where that was asked for (%v)", err)
	}
	special := map[string]kind{
		runtimeapi.ImageService_PullImage_FullMethodName:         gated,
		runtimeapi.RuntimeService_CreateContainer_FullMethodName: gated,
		runtimeapi.RuntimeService_RestorePod_FullMethodName:      refused,
		"/runtime.v1.RuntimeService/GetContainerEvents":          serverStream,
		"/runtime.v1.RuntimeService/StreamPodSandboxes":          serverStream,
		"/runtime.v1.RuntimeService/StreamContainers":            serverStream,
		"/runtime.v1.RuntimeService/StreamContainerStats":        serverStream,
		"/runtime.v1.RuntimeService/StreamPodSandboxStats":       serverStream,
		"/runtime.v1.RuntimeService/StreamPodSandboxMetrics":     serverStream,
		"/runtime.v1.ImageService/StreamImages":                  serverStream,
	}
	for full, want := range special {
		if got := table.known[full].kind; got != want {
			t.Errorf("%s is of kind %d, want %d", full, got, want)
		}
	}
	for full, m := range table.known {
		if _, ok := special[full]; !ok && m.kind != unary {
			t.Errorf("%s is of kind %d, which nobody decided", full, m.kind)
		}
		if m.full != full || m.label != full {
			t.Errorf("%s is entered as %+v", full, m)
		}
	}
	if got := len(table.known); got != 43 {
		t.Errorf("cri-api has %d methods where 43 were looked at: decide on the new ones, then change the number", got)
	}
}

// A lock that is held is given up on, with words that name it.
func TestLockIsNotWaitedForWithoutEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cri.sock")
	unlock, err := lockPath(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	if l, err := listen(path, socketMode, 20*time.Millisecond); err == nil {
		l.Close()
		t.Error("the lock was passed by")
	} else if !strings.Contains(err.Error(), path+".lock") {
		t.Errorf("%v does not name the lock file", err)
	}
	unlock()
	l, err := listen(path, socketMode, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if lockWait > 5*time.Second {
		t.Errorf("a start may hang for %v, deaf to SIGTERM", lockWait)
	}
}

// A client can call what is not served as often as it likes; it must not fill the disk with log lines.
func TestRefusedMethodsAreLoggedOnceInAWhile(t *testing.T) {
	now := time.Unix(0, 0)
	q := newQuiet()
	q.now = func() time.Time { return now }
	count := func(keys ...string) (n int) {
		for range 3 {
			for _, k := range keys {
				if q.due(k) {
					n++
				}
			}
		}
		return n
	}
	if n := count("a", "b"); n != 2 {
		t.Errorf("two methods were logged %d times", n)
	}
	now = now.Add(sayAgain - 1)
	if n := count("a"); n != 0 {
		t.Errorf("logged again after %v", sayAgain-1)
	}
	now = now.Add(1)
	if n := count("a"); n != 1 {
		t.Errorf("logged %d times after %v", n, sayAgain)
	}
	var many []string
	for i := range 1000 {
		many = append(many, strconv.Itoa(i))
	}
	if n := count(many...); n > maxSaid+1 || len(q.said) > maxSaid+1 {
		t.Errorf("a thousand names: %d lines, %d remembered", n, len(q.said))
	}
	now = now.Add(sayAgain)
	if n := count("new"); n != 1 {
		t.Error("a new method is not logged after those of before were forgotten")
	}
}

// countingPool tells how many buffers are out.
type countingPool struct{ out int }

func (p *countingPool) Get(n int) *[]byte {
	p.out++
	b := make([]byte, n)
	return &b
}

func (p *countingPool) Put(*[]byte) { p.out-- }

// Whatever order a frame is received, sent, released in: each reference is given
// back once. A second Free panics, a missing one leaves a buffer out.
func TestFrameReferences(t *testing.T) {
	content := bytes.Repeat([]byte("x"), 64<<10) // large enough to be pooled
	receive := func(pool *countingPool, f *frame) {
		b := mem.Copy(content, pool)
		if err := (rawCodec{}).Unmarshal(mem.BufferSlice{b}, f); err != nil {
			t.Fatal(err)
		}
		b.Free() // as gRPC does
	}
	for name, use := range map[string]func(*countingPool, *frame){
		"released":       func(p *countingPool, f *frame) { receive(p, f); f.release(); f.release() },
		"received twice": func(p *countingPool, f *frame) { receive(p, f); receive(p, f); f.release() },
		"read": func(p *countingPool, f *frame) {
			receive(p, f)
			b, done := f.bytes()
			f.release()
			if !bytes.Equal(b, content) {
				t.Error("the content changed")
			}
			done()
		},
		"sent": func(p *countingPool, f *frame) {
			receive(p, f)
			out, err := rawCodec{}.Marshal(f)
			f.release()
			if err != nil || !bytes.Equal(out.Materialize(), content) {
				t.Errorf("the content changed (%v)", err)
			}
			out.Free()
		},
	} {
		t.Run(name, func(t *testing.T) {
			pool := &countingPool{}
			use(pool, &frame{})
			if pool.out != 0 {
				t.Errorf("%d buffers are out", pool.out)
			}
		})
	}
}

// Sending a frame again would send an empty message.
func TestFrameIsSentOnce(t *testing.T) {
	f := frameOf([]byte("x"))
	if _, err := (rawCodec{}).Marshal(f); err != nil {
		t.Fatal(err)
	}
	if _, err := (rawCodec{}).Marshal(f); err == nil {
		t.Error("a frame was sent twice")
	}
	if _, err := (rawCodec{}).Marshal(&frame{}); err == nil {
		t.Error("a frame that was never filled was sent")
	}
	if _, err := (rawCodec{}).Marshal(&runtimeapi.VersionRequest{}); err == nil {
		t.Error("something that is not a frame was sent")
	}
	if err := (rawCodec{}).Unmarshal(nil, &runtimeapi.VersionRequest{}); err == nil {
		t.Error("something that is not a frame was filled")
	}
}
