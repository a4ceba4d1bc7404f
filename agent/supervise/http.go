package supervise

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/common/expfmt"

	"github.com/cosentry/cosentry/agent/firsthand"
	"github.com/cosentry/cosentry/agent/host"
)

const (
	// pageAge is for how long a page of metrics is given out again.
	pageAge = time.Second
	// pageTimeout bounds the making of one.
	pageTimeout = 10 * time.Second
)

// page is a page that is made once for all who ask at a time: the agent has few places for connections, and this process
// little memory. Whoever can connect must not use them up.
type page struct {
	render func(ctx context.Context) ([]byte, error)

	turn chan struct{}
	text []byte
	at   time.Time
}

func newPage(render func(ctx context.Context) ([]byte, error)) *page {
	return &page{render: render, turn: make(chan struct{}, 1)}
}

func (p *page) get(ctx context.Context) ([]byte, error) {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-p.turn }()
	if p.text != nil && time.Since(p.at) < pageAge {
		return p.text, nil
	}
	// One who asks and hangs up must not give the others half a page.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pageTimeout)
	defer cancel()
	text, err := p.render(ctx)
	if err != nil {
		return nil, err
	}
	p.text, p.at = text, time.Now()
	return text, nil
}

// Sources are where metrics come from that are not of what a supervisor has seen.
type Sources struct {
	Agent firsthand.Agent
	Sync  firsthand.Sync
	// Version is that of the command that watches the host.
	Version string
	// Log is told why one of them could not be asked.
	Log *slog.Logger
}

// Metrics shows /metrics, and nothing else, to the network.
func Metrics(seen func() host.Seen, from Sources) http.Handler {
	noted := &reasons{log: from.Log}
	p := newPage(func(ctx context.Context) ([]byte, error) { return render(ctx, seen(), from, noted) })
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		text, err := p.get(r.Context())
		if err != nil {
			http.Error(w, "no metrics now", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", string(expfmt.NewFormat(expfmt.TypeTextPlain)))
		_, _ = w.Write(text)
	})
	return mux
}

// Probes says to kubelet, on /healthz, that the supervisor lives and, on /readyz, that its host is guarded as it was installed.
func Probes(s *host.Supervisor, agent firsthand.Agent, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		// A mending may take minutes, and is no reason to be ended.
		if at := s.Seen().At; !at.IsZero() && time.Since(at) > s.RepairTimeout+5*s.Every {
			http.Error(w, "the host was last looked at "+at.UTC().Format(time.RFC3339), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /readyz", &readiness{log: log, why: func(ctx context.Context) string { return notReady(ctx, s.Seen(), agent) }})
	return mux
}

// readiness says yes or no, and why not in the log alone: reasons have paths and errors in them.
type readiness struct {
	log *slog.Logger
	why func(context.Context) string

	mu   sync.Mutex
	said string
}

func (r *readiness) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	why := r.why(req.Context())
	if req.Context().Err() == nil { // or the reason is only that nobody waited
		r.tell(why)
	}
	if why != "" {
		http.Error(w, "not ready; the log says why", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// tell logs each reason once.
func (r *readiness) tell(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case why == r.said:
	case why == "":
		r.log.Info("ready: the host is as it was installed, and the agent is ready")
	default:
		r.log.Warn("not ready", "why", why)
	}
	r.said = why
}
