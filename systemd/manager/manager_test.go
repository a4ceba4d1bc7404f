package manager

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What is asked of a systemd that answers is tested on one: integration/node.

func TestVersionsOfDistributions(t *testing.T) {
	for text, want := range map[string]int{
		`"252 (252.38-1~deb12u1)"`: 252, `"v255.4-1ubuntu8"`: 255, `"239"`: 239, `"257~rc1"`: 257,
		`""`: 0, `"unknown"`: 0, `"-1"`: 0, `"0"`: 0, `"99999999999999999999"`: 0,
	} {
		got, err := parseVersion(text)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("%s: %d, %v; want %d", text, got, err, want)
		}
	}
}

// hostWith has a host root with a socket at path, on which answer serves.
func hostWith(t *testing.T, path string, answer func(net.Conn)) string {
	t.Helper()
	root, err := os.MkdirTemp("", "m") // short, for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	path = filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answer(c)
		}
	}()
	return root
}

// silent keeps a connection and says nothing.
func silent(c net.Conn) {
	_, _ = bufio.NewReader(c).WriteTo(new(strings.Builder)) // until the other side leaves
	c.Close()
}

func TestSystemdThatIsSilentIsNotWaitedForWithoutEnd(t *testing.T) {
	for name, answer := range map[string]func(net.Conn){
		"before it knows us": silent,
		"after it knows us": func(c net.Conn) {
			r := bufio.NewReader(c)
			for _, say := range []string{"REJECTED EXTERNAL", "OK 0123456789abcdef0123456789abcdef"} {
				if _, err := r.ReadString('\n'); err != nil {
					break
				}
				if _, err := c.Write([]byte(say + "\r\n")); err != nil {
					break
				}
			}
			silent(c)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := hostWith(t, private, answer)
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			ended := make(chan error, 1)
			go func() {
				_, err := Dial(ctx, root)
				ended <- err
			}()
			select {
			case err := <-ended:
				if err == nil {
					t.Error("a systemd that said nothing is taken for one")
				}
			case <-time.After(callTimeout / 2):
				t.Fatal("it still waits")
			}
		})
	}
}

func TestOtherVoicesOnTheSocketAreNoSystemd(t *testing.T) {
	root := hostWith(t, private, func(c net.Conn) {
		_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", 1<<20) + "\r\n")) // it may leave before
		c.Close()
	})
	if _, err := Dial(t.Context(), root); err == nil || !strings.Contains(err.Error(), "connecting to systemd") {
		t.Errorf("error %v", err)
	}
}

// The environment names buses of whoever started the process. They are not the host's.
func TestHostWithoutSystemd(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/run/dbus/system_bus_socket")
	_, err := Dial(t.Context(), t.TempDir())
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), private) {
		t.Errorf("error %v does not say which socket is missing", err)
	}
}

func TestProblemsAreTold(t *testing.T) {
	u := Unit{Active: "failed", Sub: "failed", Result: "exit-code", ExitStatus: 2, StatusText: "bad\nsettings"}
	if got, want := u.state(), `failed, result exit-code, status 2, it says "bad\nsettings"`; got != want {
		t.Errorf("%s; want %s", got, want)
	}
}
