package sight

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/agent/twin"
)

// A redirect leads to somebody of whom nothing is known.
func TestNoRedirectIsFollowed(t *testing.T) {
	followed := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if followed = followed || r.URL.Path == "/elsewhere"; followed {
			return
		}
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}))
	defer server.Close()
	var unwilling *StatusError
	if _, err := (Server{URL: server.URL}).Get(t.Context(), "/readyz", 100); !errors.As(err, &unwilling) || !strings.Contains(err.Error(), "302") {
		t.Errorf("got %v, want the redirect", err)
	}
	if followed {
		t.Error("the redirect was followed")
	}
}

// What a proxy says is not what the node says.
func TestNoProxyIsAsked(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	s := Server{URL: server.URL}
	if transport(s.dial).Proxy != nil {
		t.Error("a proxy of the environment is asked")
	}
}

func TestAnswerIsBounded(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 101)) }))
	defer server.Close()
	s := Server{URL: server.URL}
	if _, err := s.Get(t.Context(), "/", 100); err == nil || !strings.Contains(err.Error(), "longer than 100 bytes") {
		t.Errorf("got %v", err)
	}
	if body, err := s.Get(t.Context(), "/", 101); err != nil || len(body) != 101 {
		t.Errorf("%d bytes, %v", len(body), err)
	}
}

// Another user is believed where he is the one who was meant, and nowhere else.
func TestServerOfAKnownUser(t *testing.T) {
	_, address := twin.Start(t, "TestHelperAnswers", twin.Nobody(), "ANSWER_STATUS=1")
	for user, good := range map[int]bool{65534: true, 65532: false, 0: false} {
		if _, err := (Server{URL: "http://" + address, User: user}).Get(t.Context(), "/healthz", 100); (err == nil) != good {
			t.Errorf("asked as user %d's: %v", user, err)
		}
	}
}

// kubelet and sync may serve on all addresses of the node; another user's socket there is not it.
func TestServerOnEveryAddress(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp"} {
		l, err := net.Listen(network, ":0")
		if err != nil {
			t.Fatal(err)
		}
		server := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}}
		server.Start()
		s := Server{URL: "http://127.0.0.1:" + strconv.Itoa(l.Addr().(*net.TCPAddr).Port)}
		if _, err := s.Get(t.Context(), "/", 100); err != nil {
			t.Errorf("%s: %v", network, err)
		}
		server.Close()
	}
	_, address := twin.Start(t, "TestHelperAnswers", twin.Nobody(), "ANSWER_STATUS=every")
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	s := Server{URL: "http://127.0.0.1:" + port}
	if _, err := s.Get(t.Context(), "/healthz", 100); err == nil || !strings.Contains(err.Error(), "user 65534") {
		t.Errorf("another user on every address: %v", err)
	}
}
