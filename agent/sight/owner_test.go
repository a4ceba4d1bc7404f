package sight

import (
	"context"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// While the agent is down, anyone can listen where it would, and tell that all is well.
func TestAnswerOfAnotherUserIsRefused(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHelperAnswers$")
	cmd.Env = append(os.Environ(), "ANSWER_STATUS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		_ = cmd.Wait() // it was told to end
	}()
	buf := make([]byte, 64)
	n, err := out.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	address := strings.TrimSpace(string(buf[:n]))
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
	s := nothing
	s.Status = func() Status { return Status{Mode: "enforce"} }
	go func() { _ = newServer(s, slog.New(slog.DiscardHandler)).Serve(l) }()
	_, _ = os.Stdout.WriteString(l.Addr().String() + "\n")
	_, _ = os.Stdin.Read(make([]byte, 1))
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
		if uid, found, err := listenerOf(l.Addr().String()); err != nil || !found || uid != os.Getuid() {
			t.Errorf("%s: user %d, found %v, %v", l.Addr(), uid, found, err)
		}
		l.Close()
		if _, found, err := listenerOf(l.Addr().String()); err != nil || found {
			t.Errorf("%s after its end: found %v, %v", l.Addr(), found, err)
		}
	}
}
