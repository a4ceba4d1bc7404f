package supervise

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/common/expfmt"

	"github.com/cosentry/cosentry/agent/firsthand"
	"github.com/cosentry/cosentry/agent/host"
)

const (
	// pageAge is for how long a page is given out again.
	pageAge = time.Second
	// askTimeout bounds what the agent and sync are asked. kubelet waits 5 s for a probe, and the reason for its failing is to be known
	// by then.
	askTimeout = 3 * time.Second
	// pageTimeout bounds the making of a page. Two of them, one that is waited for and one that is made, fit in what sight gives an answer.
	pageTimeout = 4 * time.Second
)

// page is what is made once for all who ask at a time: the agent has few places for connections, and this process
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
	begun := time.Now()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		at, what := s.Seen().At, "the host was last looked at "
		if at.IsZero() {
			at, what = begun, "the host was not looked at since "
		}
		// A mending may take minutes, and is no reason to be ended.
		if time.Since(at) > s.RepairTimeout+5*s.Every {
			http.Error(w, what+at.UTC().Format(time.RFC3339), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /readyz", newReadiness(log, func(ctx context.Context) string { return notReady(ctx, s.Seen(), agent) }))
	return mux
}

// readiness says yes or no, and why not in the log alone: reasons have paths and errors in them. Who hangs up before it is known does
// not keep it from the log, and however many ask, the agent is asked once.
type readiness struct{ *page }

func newReadiness(log *slog.Logger, why func(context.Context) string) readiness {
	said := "" // one page is made at a time
	return readiness{newPage(func(ctx context.Context) ([]byte, error) {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		now := why(ctx)
		switch {
		case now == said:
		case now == "":
			log.Info("ready: the host is as it was installed, and the agent is ready")
		default:
			log.Warn("not ready", "why", now)
		}
		said = now
		return []byte(now), nil
	})}
}

func (r readiness) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if why, err := r.get(req.Context()); err != nil || len(why) > 0 {
		http.Error(w, "not ready; the log says why", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}
