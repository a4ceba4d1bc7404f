// Package sight lets the node's owner look at a running agent: /metrics, /healthz, /readyz and
// /status over HTTP on a loopback address, and the client that `cosentry status` uses.
//
// It shows names of policies, images and pods to anyone on the node, and never a credential.
package sight

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/cosentry/cosentry/agent/reload"
)

// Status is what `cosentry status -o json` prints.
type Status struct {
	Version string `json:"version"`
	Node    string `json:"node"`
	Mode    string `json:"mode"`
	Listen  string `json:"listen"`
	// Runtime is the runtime's socket, RuntimeState the state of the connection to it as gRPC
	// names it (READY, IDLE, CONNECTING, TRANSIENT_FAILURE).
	Runtime      string       `json:"runtime"`
	RuntimeState string       `json:"runtimeState"`
	Started      time.Time    `json:"started"`
	Policies     reload.State `json:"policies"`
	// NoMatch is what happens to an image that no policy matches.
	NoMatch string `json:"noMatch"`
	// CachedVerdicts is the number of verdicts in the cache.
	CachedVerdicts int `json:"cachedVerdicts"`
	// Decisions counts decisions since the start, by action and decision.
	Decisions map[string]map[string]uint64 `json:"decisions"`
	Audit     Audit                        `json:"audit"`
}

// Audit is the state of the audit log.
type Audit struct {
	Dir      string `json:"dir"`
	Sequence uint64 `json:"sequence"`
	Hash     string `json:"hash"`
	Failures uint64 `json:"failures"`
}

// Sources are where the answers come from.
type Sources struct {
	Metrics http.Handler
	// Ready says why the agent is not ready to judge, or nil.
	Ready  func() error
	Status func() Status
}

// Serve answers on address until ctx ends. An address that is taken is tried again: sight is no
// reason for the agent to stop.
func Serve(ctx context.Context, address string, s Sources, log *slog.Logger) error {
	server := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	for ctx.Err() == nil {
		l, err := net.Listen("tcp", address)
		if err == nil {
			err = server.Serve(l)
		}
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		log.Error("metrics and status cannot be served; trying again", "address", address, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second):
		}
	}
	return nil
}

func (s Sources) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.Metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(s.Status())
	})
	return mux
}

// Ask returns the status of the agent that serves on address.
func Ask(ctx context.Context, address string) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/status", nil)
	if err != nil {
		return Status{}, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return Status{}, fmt.Errorf("no agent answers: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return Status{}, fmt.Errorf("asking the agent on %s for its status: %s", address, resp.Status)
	}
	var s Status
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&s); err != nil {
		return Status{}, fmt.Errorf("reading the status of the agent on %s: %w", address, err)
	}
	return s, nil
}
