package sight

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
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

// Serve answers on address until ctx ends, at most 32 connections at a time. An address that is
// taken is tried again: sight is no reason for the agent to stop.
func Serve(ctx context.Context, address string, s Sources, log *slog.Logger) error {
	return serve(ctx, address, s, log, bindAgain)
}

func serve(ctx context.Context, address string, s Sources, log *slog.Logger, again time.Duration) error {
	few := func(l net.Listener) net.Listener { return limit(l, maxConns) }
	return serveOn(ctx, address, newServer(s, log), few, log, again)
}

// serveOn serves on address what few lets in.
func serveOn(ctx context.Context, address string, server *http.Server, few func(net.Listener) net.Listener, log *slog.Logger, again time.Duration) error {
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	said := ""
	for ctx.Err() == nil {
		l, err := net.Listen("tcp", address)
		if err == nil {
			if said != "" {
				log.Info("metrics and status are served", "address", address)
				said = ""
			}
			err = server.Serve(few(l))
		}
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		if said != err.Error() {
			said = err.Error()
			log.Error("metrics and status cannot be served; it is tried again", "address", address, "interval", again, "error", err)
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
