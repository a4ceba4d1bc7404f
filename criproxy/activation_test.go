package criproxy_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/criproxy"
)

// TestMain plays the service that systemd starts, where a test asks for that.
func TestMain(m *testing.M) {
	if name, ok := os.LookupEnv("TEST_LISTEN_SYSTEMD"); ok {
		activated(name)
		return
	}
	os.Exit(m.Run())
}

// activated takes the socket over, serves one connection, and closes.
func activated(name string) {
	l, err := criproxy.ListenSystemd(name)
	if err != nil {
		fmt.Print("error: ", err)
		return
	}
	if os.Getenv("LISTEN_FDS") != "" {
		fmt.Print("LISTEN_FDS is still set; ")
	}
	c, err := l.Accept()
	if err != nil {
		fmt.Print("error: ", err)
		return
	}
	fmt.Fprint(c, "hello")
	c.Close()
	if err := l.Close(); err != nil {
		fmt.Print("error: ", err)
		return
	}
	fmt.Print("served ", l.Addr())
}

// activate runs this test's program as systemd would, with the given sockets,
// and returns what it printed. The shell sets LISTEN_PID, which is not known
// before the process is there.
func activate(t *testing.T, name, fdNames string, files ...*os.File) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `LISTEN_PID=$$ exec "$0"`, os.Args[0])
	cmd.Env = append(os.Environ(), "TEST_LISTEN_SYSTEMD="+name, fmt.Sprintf("LISTEN_FDS=%d", len(files)), "LISTEN_FDNAMES="+fdNames,
		"GORACE=atexit_sleep_ms=0") // the race detector would wait a second for each
	cmd.ExtraFiles = files
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// handOver makes a listening socket and the file that is passed on.
func handOver(t *testing.T, network, addr string) *os.File {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	f, err := l.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestListenSystemd(t *testing.T) {
	for _, tc := range []struct {
		what, name, fdNames string
		others              int // sockets before the right one
	}{
		{"the only one", "", "whatever", 0},
		{"by name", "cri.socket", "metrics.socket:cri.socket", 1},
	} {
		t.Run(tc.what, func(t *testing.T) {
			dir := tempDir(t)
			path := filepath.Join(dir, "cri.sock")
			var files []*os.File
			for i := range tc.others {
				files = append(files, handOver(t, "unix", filepath.Join(dir, fmt.Sprint(i))))
			}
			files = append(files, handOver(t, "unix", path))
			// The connection waits in the queue until the service has started.
			c, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if got, want := activate(t, tc.name, tc.fdNames, files...), "served "+path; got != want {
				t.Errorf("%q, want %q", got, want)
			}
			hello := make([]byte, 5)
			if _, err := c.Read(hello); err != nil || string(hello) != "hello" {
				t.Errorf("read %q, %v", hello, err)
			}
			if _, err := os.Lstat(path); err != nil {
				t.Errorf("systemd's socket file is gone: %v", err)
			}
		})
	}
}

func TestListenSystemdRefuses(t *testing.T) {
	dir := tempDir(t)
	a, b := handOver(t, "unix", filepath.Join(dir, "a")), handOver(t, "unix", filepath.Join(dir, "b"))
	tcp := handOver(t, "tcp", "127.0.0.1:0")
	client, err := net.Dial("unix", filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	connected, err := client.(*net.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer connected.Close()
	file, err := os.CreateTemp(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, tc := range []struct {
		what, name, fdNames, words string
		files                      []*os.File
	}{
		{"none", "", "", "0 sockets", nil},
		{"several without a name", "", "a:b", "2 sockets where one was wanted", []*os.File{a, b}},
		{"several of one name", "a", "a:a", `a socket named "a"`, []*os.File{a, b}},
		{"another name", "cri", "a:b", `not a socket named "cri"`, []*os.File{a, b}},
		{"a TCP port", "", "", "a tcp socket and not a unix socket", []*os.File{tcp}},
		{"a connection", "", "", "not listening", []*os.File{connected}},
		{"a file", "", "", "getsockopt", []*os.File{file}},
	} {
		t.Run(tc.what, func(t *testing.T) {
			got := activate(t, tc.name, tc.fdNames, tc.files...)
			if !strings.HasPrefix(got, "error: ") || !strings.Contains(got, tc.words) {
				t.Errorf("%q, want an error with %q", got, tc.words)
			}
		})
	}
	t.Run("meant for another process", func(t *testing.T) {
		t.Setenv("LISTEN_PID", "1")
		t.Setenv("LISTEN_FDS", "1")
		if l, err := criproxy.ListenSystemd(""); err == nil {
			l.Close()
			t.Error("it was taken over")
		}
	})
}

// systemd's sockets are for the process that it started, and a child of that is not it.
func TestListenSystemdForAnotherProcess(t *testing.T) {
	t.Setenv("LISTEN_PID", "1")
	t.Setenv("LISTEN_FDS", "1")
	l, err := criproxy.ListenSystemd("")
	if err == nil {
		l.Close()
		t.Fatal("it took a socket of another process")
	}
	for _, word := range []string{"LISTEN_FDS", "LISTEN_PID", `"1"`, fmt.Sprint(os.Getpid())} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %s", err, word)
		}
	}
}
