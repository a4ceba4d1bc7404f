package sight

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/agent/twin"
)

// While the agent is down, anyone can listen where it would, and tell that all is well.
func TestAnswerOfAnotherUserIsRefused(t *testing.T) {
	_, address := twin.Start(t, "TestHelperAnswers", twin.Nobody(), "ANSWER_STATUS=1")
	if _, err := Ask(t.Context(), address); err == nil || !strings.Contains(err.Error(), "user 65534 and not root") {
		t.Errorf("%v; want that user 65534 is not the agent", err)
	}
}

// TestHelperAnswers is the other user's process: it says that all is well until its input ends.
func TestHelperAnswers(t *testing.T) {
	if os.Getenv("ANSWER_STATUS") == "" {
		return
	}
	l := listen(t)
	if os.Getenv("ANSWER_STATUS") == "every" {
		var err error
		if l, err = net.Listen("tcp4", ":0"); err != nil {
			t.Fatal(err)
		}
	}
	s := nothing
	s.Status = func() Status { return Status{Mode: "enforce"} }
	go func() { _ = newServer(s, slog.New(slog.DiscardHandler)).Serve(l) }()
	twin.Tell(l.Addr().String())
}

// Who listens on every address listens on the agent's as well while that is down.
func TestAnswerFromEveryAddressIsRefused(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp"} {
		l, err := net.Listen(network, ":0")
		if err != nil {
			t.Fatal(err)
		}
		server := newServer(nothing, slog.New(slog.DiscardHandler))
		go func() { _ = server.Serve(l) }()
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
		if _, err := Ask(t.Context(), address); err == nil || !strings.Contains(err.Error(), "does not listen on that address") {
			t.Errorf("%s: %v", network, err)
		}
		server.Close()
	}
}

func TestListenerIsFoundInBothFamilies(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		tcp := l.Addr().(*net.TCPAddr)
		if users, err := listenersOf(tcp.IP, tcp.Port); err != nil || len(users) != 1 || users[0] != os.Getuid() {
			t.Errorf("%s: users %v, %v", l.Addr(), users, err)
		}
		l.Close()
		if users, err := listenersOf(tcp.IP, tcp.Port); err != nil || len(users) != 0 {
			t.Errorf("%s after its end: users %v, %v", l.Addr(), users, err)
		}
	}
}
