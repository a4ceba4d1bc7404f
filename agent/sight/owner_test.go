package sight

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/agent/twin"
)

// While a server is down, anyone can listen where it would, and tell that all is well.
func TestAnswerOfAnotherUserIsRefused(t *testing.T) {
	_, address := twin.Start(t, "TestHelperAnswers", twin.Nobody(), "ANSWER_STATUS=1")
	if _, err := (Server{URL: "http://" + address}).Get(t.Context(), "/status", maxStatus); err == nil || !strings.Contains(err.Error(), "user 65534 and not root") {
		t.Errorf("%v; want that user 65534 is not who was asked", err)
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
