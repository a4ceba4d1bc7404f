package sight

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// grace is for how long one who connects is not thrown out. With the places of kubelet's probes that is ten thousand
// connections a second, before which what waits in the kernel's queue is accepted soon enough.
const grace = 50 * time.Millisecond

// crowd accepts every connection at once, and has up to n of them open. For one that comes beyond, another is closed: the oldest that
// has not sent a whole request yet, or, if those are few, the oldest that has. kubelet sends its request as it connects, and has its
// answer in a moment: whoever opens connections and is silent, however many, throws out his own. If they kept their places until
// they were sent away, kubelet would wait behind them. Each is left grace, and no more: a flood may be faster than this process gets
// to read.
type crowd struct {
	net.Listener
	n int

	mu            sync.Mutex
	silent, asked *list.List // of *guest, oldest first
}

func newCrowd(l net.Listener, n int) *crowd {
	return &crowd{Listener: l, n: n, silent: list.New(), asked: list.New()}
}

func (l *crowd) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.silent.Len()+l.asked.Len() >= l.n {
		out := l.silent
		// One who has asked is spared, but not so that there is no place left in which to ask.
		if l.silent.Len() < (l.n+1)/2 {
			out = l.asked
		}
		last := out.Front().Value.(*guest)
		if left := grace - time.Since(last.came); left > 0 {
			l.mu.Unlock()
			time.Sleep(left)
			l.mu.Lock()
			continue
		}
		last.leave()
		_ = last.Conn.Close()
	}
	g := &guest{Conn: c, of: l, came: time.Now(), in: l.silent}
	g.place = l.silent.PushBack(g)
	return g, nil
}

// guest is a connection of a crowd.
type guest struct {
	net.Conn
	of    *crowd
	came  time.Time
	in    *list.List // nil: it has left
	place *list.Element
}

// leave gives the place back. The crowd is locked.
func (g *guest) leave() {
	if g.in != nil {
		g.in.Remove(g.place)
		g.in = nil
	}
}

// ask says that a whole request has come.
func (g *guest) ask() {
	g.of.mu.Lock()
	defer g.of.mu.Unlock()
	if g.in == nil {
		return
	}
	g.leave()
	g.in = g.of.asked
	g.place = g.in.PushBack(g)
}

func (g *guest) Close() error {
	g.of.mu.Lock()
	g.leave()
	g.of.mu.Unlock()
	return g.Conn.Close()
}

type guestKey struct{}

// withGuest lets a request know on whose connection it came.
func withGuest(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, guestKey{}, c)
}

// whole notes who has sent a whole request. One with a body is none: it is waited for after the answer.
func whole(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g, ok := r.Context().Value(guestKey{}).(*guest); ok && r.ContentLength == 0 {
			g.ask()
		}
		h.ServeHTTP(w, r)
	})
}
