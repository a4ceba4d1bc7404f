package trustroot

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trustroot/tuftest"
)

func TestRemoteDoesNotReadWithoutEnd(t *testing.T) {
	for _, endless := range []string{"timestamp.json", "3.snapshot.json", "3.targets.json", "2.root.json"} {
		t.Run(endless, func(t *testing.T) {
			s := serve(t)
			// The metadata itself may say that a file is as long as the server likes.
			if _, role, ok := strings.Cut(strings.TrimSuffix(endless, ".json"), "3."); ok {
				s.Lengths = map[string]int64{role: 1 << 50}
			}
			s.Publish()
			gone := make(chan struct{})
			var once sync.Once
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if strings.TrimPrefix(req.URL.Path, "/") != endless {
					s.ServeHTTP(w, req)
					return
				}
				// It ends when the client has had enough; a client that never has is stopped before it takes all memory.
				block := make([]byte, 64<<10)
				for range 64 << 20 / len(block) {
					if _, err := w.Write(block); err != nil {
						once.Do(func() { close(gone) })
						return
					}
				}
			}))
			t.Cleanup(server.Close)
			remote := NewRemote(policy.TUFRemote{Root: s.at.Root, Mirror: server.URL}, t.TempDir(), RemoteOptions{})
			r, err := remote.Refresh(t.Context())
			refused(t, r, err, "longer than")
			select {
			case <-gone:
			case <-time.After(30 * time.Second):
				t.Error("the client went on reading")
			}
		})
	}
}

func TestRemoteDoesNotFollowRootsWithoutEnd(t *testing.T) {
	s := serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	asked := 0
	s.Rewrite(func(_ string, data []byte) []byte {
		if asked++; asked == 3 {
			cancel()
		}
		s.PublishRoot() // there is always one more
		return data
	})
	r, err := s.Refresh(ctx)
	if refused(t, r, err, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestRemoteStopsWaitingWithItsCaller(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	released := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		cancel()
		<-released
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(released) })
	remote := NewRemote(policy.TUFRemote{Root: tuftest.New(t).Root(), Mirror: server.URL}, t.TempDir(), RemoteOptions{})
	r, err := remote.Refresh(ctx)
	if refused(t, r, err, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A server that is away says nothing about the repository: the words must not send its owner to look at signatures, nor be
// escaped once more by each who hands them on.
func TestRemoteThatIsAwayIsNotCalledARepositoryThatIsWrong(t *testing.T) {
	answering := func(status int, body string) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}))
		t.Cleanup(server.Close)
		return server.URL
	}
	cut := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "{")
	}))
	t.Cleanup(cut.Close)
	proxy, err := url.Parse("http://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	const away, wrong = "could not be reached", "is not accepted"
	for name, c := range map[string]struct {
		mirror       string
		transport    http.RoundTripper
		what, detail string
	}{
		"refused":   {"https://127.0.0.1:1", nil, away, "connection refused"},
		"no name":   {"https://tuf.invalid", nil, away, "tuf.invalid"},
		"proxy":     {"https://tuf.example.com", &http.Transport{Proxy: http.ProxyURL(proxy)}, away, "proxyconnect"},
		"forbidden": {answering(http.StatusForbidden, ""), nil, away, "status 403"},
		"not found": {answering(http.StatusNotFound, ""), nil, away, "timestamp.json\": the server answers with status 404"},
		"in need":   {answering(http.StatusServiceUnavailable, ""), nil, away, "status 503"},
		"cut short": {cut.URL, nil, away, "unexpected EOF"},
		"nonsense":  {answering(http.StatusOK, "{"), nil, wrong, "unexpected end"},
		"too much":  {answering(http.StatusOK, strings.Repeat("[", 9<<20)), nil, wrong, "longer than"},
	} {
		remote := NewRemote(policy.TUFRemote{Root: tuftest.New(t).Root(), Mirror: c.mirror}, t.TempDir(), RemoteOptions{Transport: c.transport})
		r, err := remote.Refresh(t.Context())
		refused(t, r, err, c.detail)
		if said := err.Error(); strings.Contains(said, away) != (c.what == away) || strings.Contains(said, wrong) != (c.what == wrong) || strings.Contains(said, `\\`) || strings.Contains(said, `\"`) && c.what == away {
			t.Errorf("%s: refused with %s", name, said)
		}
	}
}

func TestRemoteTalksHTTPSOnly(t *testing.T) {
	repository := tuftest.WithTrustedRoot(t, trustedRoot(t))
	plain := repository.Serve()
	for _, mirror := range []string{
		"http://tuf.example.com", "ftp://tuf.example.com", "file:///etc", "tuf.example.com", "https://", "", "http://127.0.0.1.example.com", "http://10.0.0.1",
		"https://us\x1ber:secret@host\n",
	} {
		remote := NewRemote(policy.TUFRemote{Root: repository.Root(), Mirror: mirror}, t.TempDir(), RemoteOptions{})
		r, err := remote.Refresh(t.Context())
		refused(t, r, err, "mirror")
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("the refusal shows a password: %v", err)
		}
	}

	secure := httptest.NewUnstartedServer(repository)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes are refused on purpose
	secure.StartTLS()
	t.Cleanup(secure.Close)
	at := policy.TUFRemote{Root: repository.Root(), Mirror: secure.URL}
	r, err := NewRemote(at, t.TempDir(), RemoteOptions{Transport: secure.Client().Transport}).Refresh(t.Context())
	accepted(t, r, err)
	// A server nobody vouches for is not asked.
	r, err = NewRemote(at, t.TempDir(), RemoteOptions{}).Refresh(t.Context())
	refused(t, r, err, "certificate")

	// Neither does a redirect lead to plain http, nor on and on.
	for name, to := range map[string]func(*http.Request) string{
		"led away from https": func(req *http.Request) string { return plain + req.URL.Path },
		"redirects":           func(req *http.Request) string { return req.URL.Path },
	} {
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, to(req), http.StatusFound)
		}))
		t.Cleanup(server.Close)
		at := policy.TUFRemote{Root: repository.Root(), Mirror: server.URL}
		r, err := NewRemote(at, t.TempDir(), RemoteOptions{Transport: server.Client().Transport}).Refresh(t.Context())
		refused(t, r, err, name)
	}
}
