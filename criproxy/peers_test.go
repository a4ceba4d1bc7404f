package criproxy_test

import (
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/cosentry/cosentry/criproxy"
	"github.com/cosentry/cosentry/criproxy/critest"
)

func TestPeersAreWhoIsConnectedNow(t *testing.T) {
	before := time.Now()
	_, conn, n := start(t, critest.NewRuntime(0), criproxy.Options{})
	if all, more := n.proxy.Peers(); len(all) != 0 || more != 0 {
		t.Fatalf("before anybody came: %v and %d", all, more)
	}
	if err := version(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	all, more := n.proxy.Peers()
	if len(all) != 1 || more != 0 {
		t.Fatalf("one client: %v and %d", all, more)
	}
	if p := all[0]; p.PID != os.Getpid() || p.UID != os.Getuid() || p.GID != os.Getgid() || p.Since.Before(before) || p.Since.After(time.Now()) {
		t.Errorf("this process, %d of user %d, is told as %+v", os.Getpid(), os.Getuid(), p)
	}
	conn.Close()
	eventually(t, "the client is forgotten", func() bool { all, _ := n.proxy.Peers(); return len(all) == 0 })
}

// Another process is told by its own number, and not by what it calls itself.
func TestPeerIsTheProcessThatConnected(t *testing.T) {
	_, _, n := start(t, critest.NewRuntime(0), criproxy.Options{})
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelperConnects$")
	cmd.Args[0] = "/usr/bin/kubelet"
	cmd.Env = append(os.Environ(), "CONNECT_TO="+n.proxyPath)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the process is a peer", func() bool {
		all, _ := n.proxy.Peers()
		return len(all) == 1 && all[0].PID == cmd.Process.Pid
	})
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	eventually(t, "it is forgotten when it has ended", func() bool { all, _ := n.proxy.Peers(); return len(all) == 0 })
}

// TestHelperConnects is the other process: it holds a connection until its input ends.
func TestHelperConnects(t *testing.T) {
	path := os.Getenv("CONNECT_TO")
	if path == "" {
		return
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = os.Stdin.Read(make([]byte, 1))
}

// Whoever can connect can do so without end: the list stays short, and all are served and counted.
func TestPeersAreBounded(t *testing.T) {
	_, _, n := start(t, critest.NewRuntime(0), criproxy.Options{})
	var conns []net.Conn
	for range 300 {
		c, err := net.Dial("unix", n.proxyPath)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	eventually(t, "all are counted", func() bool { all, more := n.proxy.Peers(); return len(all) == 256 && more == 44 })
	for _, c := range conns {
		c.Close()
	}
	eventually(t, "none is left", func() bool { all, more := n.proxy.Peers(); return len(all) == 0 && more == 0 })
}
