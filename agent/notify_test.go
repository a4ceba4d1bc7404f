package main

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cosentry/cosentry/criproxy"
	"github.com/cosentry/cosentry/criproxy/critest"
)

// notified is what a process tells systemd, each message once.
func notified(t *testing.T, p *process, more ...string) <-chan string {
	t.Helper()
	path := p.dir + "/notify"
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p.cmd.Env = append(append(p.cmd.Env, "NOTIFY_SOCKET="+path), more...)
	messages := make(chan string, 100)
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := l.Read(b)
			if err != nil {
				return
			}
			messages <- string(b[:n])
		}
	}()
	return messages
}

// until reads messages up to one that has all words.
func until(t *testing.T, messages <-chan string, words ...string) string {
	t.Helper()
	end := time.After(20 * time.Second)
next:
	for {
		select {
		case m := <-messages:
			for _, w := range words {
				if !strings.Contains("\n"+m, "\n"+w) {
					continue next
				}
			}
			return m
		case <-end:
			t.Fatalf("systemd was never told %q", words)
		}
	}
}

// A runtime that is not there must not have the agent ended: who would then serve the socket?
func TestSystemdIsToldOfTheAgentAndNotOfItsRuntime(t *testing.T) {
	p := newProcess(t, "mode: observe\n")
	messages := notified(t, p, "WATCHDOG_USEC=300000")
	if err := os.Mkdir(p.dir+"/policies", 0o700); err != nil {
		t.Fatal(err)
	}
	p.start(t)
	until(t, messages, "READY=1", "WATCHDOG=1", "STATUS=NOT READY: the runtime cannot be reached")
	until(t, messages, "WATCHDOG=1")
	until(t, messages, "WATCHDOG=1")
	critest.Serve(t, p.dir+"/r.sock", critest.NewRuntime(0))
	until(t, messages, "STATUS=mode observe, 0 policies, runtime READY")
	p.signal(t, syscall.SIGTERM)
	until(t, messages, "STOPPING=1")
	p.endsWell(t)
}

// reporterOn is a reporter for a socket, and what it told.
func reporterOn(socket string) (*reporter, *[]string) {
	var told []string
	return &reporter{
		socket: socket, every: 100 * time.Millisecond, feed: true, status: func() string { return "fine" },
		ping: criproxy.Ping, log: slog.New(slog.DiscardHandler),
		notify: func(state string) error { told = append(told, state); return nil },
	}, &told
}

func TestWatchdogOfAnAgentThatHangsIsNotFed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path) // the kernel takes connections, and nobody looks at them
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r, told := reporterOn(path)
	if r.once(t.Context()); len(*told) > 0 {
		t.Errorf("systemd was told %q", *told)
	}
}

// To start the agent anew would bring no file back, and would cut off the pulls under way each half minute.
func TestAgentIsNotEndedBecauseItsSocketWasRemoved(t *testing.T) {
	r, told := reporterOn(filepath.Join(t.TempDir(), "s"))
	r.once(t.Context())
	if got := strings.Join(*told, ""); !strings.Contains(got, "READY=1\nWATCHDOG=1\nSTATUS=NOT REACHABLE") {
		t.Errorf("systemd was told %q", got)
	}
}
