package sight

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"time"
)

// Agent is the agent as root asks it: on the socket of its own. Nobody else can connect to that or put another in its place, so what
// comes from there is the agent's word. It is asked nowhere else: on an address of the network anyone may sit.
type Agent struct {
	// Socket is where it is, as a path of this process.
	Socket string
}

// Get gets what the agent has at path, of limit bytes at most.
func (a Agent) Get(ctx context.Context, path string, limit int64) ([]byte, error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", a.Socket)
	}
	body, err := fetch(ctx, dial, "http://agent"+path, limit)
	var unwilling *StatusError
	switch {
	case err == nil:
		return body, nil
	case errors.As(err, &unwilling):
		return nil, fmt.Errorf("asking the agent: %w", err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("only root can ask the agent: %w", err)
	}
	return nil, fmt.Errorf("no agent answers on %s; is it running, and with the same listen in its settings? %w", a.Socket, err)
}

// maxStatus is the longest status that is read, in bytes: a thousand policies that refer to a dozen things each, all of
// which fail for long reasons, fit.
const maxStatus = 16 << 20

// Status asks the agent for its status.
func (a Agent) Status(ctx context.Context) (s Status, err error) {
	body, err := a.Get(ctx, "/status", maxStatus)
	if err != nil {
		return Status{}, err
	}
	if err := json.Unmarshal(body, &s); err != nil {
		return Status{}, fmt.Errorf("reading the status of the agent on %s: %w", a.Socket, err)
	}
	return s, nil
}

// Server is a server of HTTP on this node's own addresses that is not the agent. While it is down anyone on the node can listen
// where it would, so its word is taken only from the user whose it is: who listens, on that address or on all of the node's, is looked
// up once the connection stands and before anything is sent on it. A container's root is root by that as well.
type Server struct {
	// URL is where it is, as in http://127.0.0.1:10248.
	URL string
	// User is whose it may be, by number. It may always be root's and the caller's.
	User int
}

// Get gets what the server has at path, of limit bytes at most.
func (s Server) Get(ctx context.Context, path string, limit int64) ([]byte, error) {
	return fetch(ctx, s.dial, s.URL+path, limit)
}

func (s Server) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if err := s.checkOwner(conn.RemoteAddr().String()); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// StatusError is an answer other than 200.
type StatusError struct {
	Status string
	// Text is the beginning of what came with it: foreign text.
	Text string
}

func (e *StatusError) Error() string { return fmt.Sprintf("it says %s: %.300q", e.Status, e.Text) }

// askTimeout bounds a question, with its answer.
const askTimeout = 5 * time.Second

type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// fetch asks one question. A redirect is not followed, as it leads to somebody of whom nothing is known, and no proxy is asked.
func fetch(ctx context.Context, dial dialer, url string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: transport(dial), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode != http.StatusOK:
		return nil, &StatusError{Status: resp.Status, Text: string(bytes.TrimSpace(body[:min(len(body), 300)]))}
	case int64(len(body)) > limit:
		return nil, fmt.Errorf("the answer of %s is longer than %d bytes", url, limit)
	}
	return body, nil
}

// transport is one without a proxy, for one question.
func transport(dial dialer) *http.Transport {
	return &http.Transport{DialContext: dial, DisableKeepAlives: true}
}
