package sight

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Server is a server of HTTP on this node's own addresses. While it is down anyone on the node can listen where it would, so
// its word is taken only from the user whose it is: who listens is looked up once the connection stands and before anything
// is sent on it. A redirect is not followed, as it leads to somebody of whom nothing is known, and no proxy is asked.
type Server struct {
	// URL is where it is, as in http://127.0.0.1:9477.
	URL string
	// User is whose it may be, by number. It may always be root's and the caller's.
	User int
	// Every says that it may listen on all addresses of the node at once, as kubelet does where it is told so. The agent never does.
	Every bool
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

// Get gets what the server has at path, of limit bytes at most.
func (s Server) Get(ctx context.Context, path string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+path, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: s.transport(), CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		var stranger *strangerError
		if errors.As(err, &stranger) {
			return nil, stranger
		}
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
		return nil, fmt.Errorf("the answer of %s is longer than %d bytes", s.URL, limit)
	}
	return body, nil
}

// transport is one without a proxy, for one question.
func (s Server) transport() *http.Transport {
	return &http.Transport{DialContext: s.dial, DisableKeepAlives: true}
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
