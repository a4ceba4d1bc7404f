package sight

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cosentry/cosentry/criproxy"
)

// Anyone on the node can connect, and each connection takes a file descriptor of the process that
// also accepts kubelet's. So there are few, and none is idle for long.
const (
	maxConns       = 32
	requestTimeout = 5 * time.Second // to be sent whole
	answerTimeout  = 30 * time.Second
	idleTimeout    = 10 * time.Second
	maxHeader      = 8 << 10
	// bindAgain is how often an address that is taken is tried.
	bindAgain = 10 * time.Second
)

// Sources are where the answers come from.
type Sources struct {
	Metrics http.Handler
	// Ready says why the agent is not ready to judge, or nil.
	Ready  func() error
	Status func() Status
}

// Serve answers on a loopback address until ctx ends, at most 32 connections at a time. An address that is
// taken is tried again: sight is no reason for the agent to stop.
func Serve(ctx context.Context, address string, s Sources, log *slog.Logger) error {
	return serve(ctx, tcp(address), s, log, bindAgain)
}

// ServeRoot answers on a unix socket that root alone can connect to, until ctx ends. Its 32 connections are its own: whoever fills
// an address of the network takes none of them. What a killed agent left there is replaced, and a link is not followed. In a folder that
// is not there, or not to be written to, it is tried again, and a socket that was removed is made anew.
func ServeRoot(ctx context.Context, socket string, s Sources, log *slog.Logger) error {
	return serveSocket(ctx, socket, s, log, bindAgain)
}

func serveSocket(ctx context.Context, socket string, s Sources, log *slog.Logger, again time.Duration) error {
	open := func() (net.Listener, error) {
		l, err := criproxy.ListenOwn(socket)
		if err != nil {
			return nil, err
		}
		return whileThere(ctx, l, socket, again)
	}
	return serve(ctx, door{socket, open}, s, log, again)
}

// whileThere has a listener closed once its file is no more at path: nobody can reach it.
func whileThere(ctx context.Context, l net.Listener, path string, every time.Duration) (net.Listener, error) {
	own, err := os.Lstat(path)
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	w := &watched{Listener: l, stop: stop}
	go func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if now, err := os.Lstat(path); err != nil || !os.SameFile(own, now) {
				w.lost.Store(true)
				_ = l.Close()
				return
			}
		}
	}()
	return w, nil
}

// watched is a listener whose watch ends with it.
type watched struct {
	net.Listener
	stop func()
	lost atomic.Bool
}

func (l *watched) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil && l.lost.Load() {
		return nil, errors.New("the socket's file was removed")
	}
	return c, err
}

func (l *watched) Close() error {
	l.stop()
	return l.Listener.Close()
}

func serve(ctx context.Context, at door, s Sources, log *slog.Logger, again time.Duration) error {
	few := func(l net.Listener) net.Listener { return limit(l, maxConns) }
	return serveOn(ctx, at, newServer(s, log), few, log, again)
}

// door is where a server is to be reached.
type door struct {
	address string
	open    func() (net.Listener, error)
}

func tcp(address string) door {
	return door{address, func() (net.Listener, error) { return net.Listen("tcp", address) }}
}

// serveOn serves at a door what few lets in.
func serveOn(ctx context.Context, at door, server *http.Server, few func(net.Listener) net.Listener, log *slog.Logger, again time.Duration) error {
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	said := ""
	for ctx.Err() == nil {
		l, err := at.open()
		if err == nil {
			if said != "" {
				log.Info("metrics and status are served", "address", at.address)
				said = ""
			}
			err = server.Serve(few(l))
		}
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		if said != err.Error() {
			said = err.Error()
			log.Error("metrics and status cannot be served; it is tried again", "address", at.address, "interval", again, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(again):
		}
	}
	return nil
}

func newServer(s Sources, log *slog.Logger) *http.Server { return bounded(s.handler(), log) }

func bounded(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: requestTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}

// limited accepts no connection beyond those it has places for. What it does not accept waits in
// the kernel's queue, which costs the process no descriptor.
type limited struct {
	net.Listener
	places chan struct{}
	closed chan struct{}
	once   sync.Once
}

func limit(l net.Listener, n int) *limited {
	return &limited{Listener: l, places: make(chan struct{}, n), closed: make(chan struct{})}
}

func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &placed{Conn: c, leave: sync.OnceFunc(func() { <-l.places })}, nil
}

func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// placed is a connection that gives its place back when it is closed.
type placed struct {
	net.Conn
	leave func()
}

func (c *placed) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
