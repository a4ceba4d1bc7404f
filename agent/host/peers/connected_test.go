package peers

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cosentry/cosentry/agent/twin"
)

func TestWhetherOneIsConnected(t *testing.T) {
	_, path := listen(t)
	_, other := listen(t)
	here, pod, elsewhere := connect(t, path, 1, false), connect(t, path, 1, true), connect(t, other, 1, false)
	for pid, want := range map[int]bool{here: true, pod: true, elsewhere: false, os.Getpid(): false, 1: false} {
		is := func(p Process) bool { return p.PID == pid }
		if got, err := Connected(t.Context(), "/", path, is); got != want || err != nil {
			t.Errorf("process %d: %v, %v; want %v", pid, got, err, want)
		}
	}
	if _, err := Connected(t.Context(), "", path+"x", func(Process) bool { return true }); err == nil {
		t.Error("there is no such socket")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := Connected(ctx, "", path, func(p Process) bool { return p.PID == elsewhere }); got || !errors.Is(err, context.Canceled) {
		t.Errorf("a look that was given up says %v, %v", got, err)
	}
}

// A pod can make as many sockets as it likes. Whoever looks for kubelet must not need memory for them: supervise has 256 MiB, and
// looks again and again.
func TestSocketsOfPodsAreNotKept(t *testing.T) {
	_, path := listen(t)
	pid := connect(t, path, 3, true)
	twin.Start(t, "TestHelperHasManySockets", &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}, "MANY_SOCKETS=1")
	processes, err := numbers("/proc")
	if err != nil {
		t.Fatal(err)
	}
	f, err := fileAt("", path)
	if err != nil {
		t.Fatal(err)
	}
	socks, err := everywhere(t.Context(), "/proc", processes, f)
	if err != nil || len(socks) == 0 || len(socks) > 8 {
		t.Errorf("%d sockets are kept, %v", len(socks), err)
	}
	if s, err := Inspect(t.Context(), "", path); err != nil || len(s.Clients) != 1 || s.Clients[0].PID != pid || s.Partial != nil {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestHelperHasManySockets is the pod.
func TestHelperHasManySockets(t *testing.T) {
	if os.Getenv("MANY_SOCKETS") == "" {
		return
	}
	dir, err := os.MkdirTemp("", "pe")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 200 { // each is two
		c, err := net.Dial("unix", filepath.Join(dir, "s"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if c, err = l.Accept(); err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	twin.Tell("there")
}

// What is beyond the bound is told.
func TestConnectionsAreBounded(t *testing.T) {
	_, path := listen(t)
	f, err := fileAt("", path)
	if err != nil {
		t.Fatal(err)
	}
	all, err := list(t.Context(), make([]sock, maxSocks), f)
	if len(all) != maxSocks || !errors.Is(err, errTooMany) {
		t.Errorf("%d sockets, %v", len(all), err)
	}
	if _, _, err := ends(nil, path, errTooMany); err == nil || !strings.Contains(err.Error(), errTooMany.Error()) {
		t.Errorf("%v", err)
	}
}
