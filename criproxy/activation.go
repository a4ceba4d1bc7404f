package criproxy

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
)

// ListenSystemd takes over the socket that systemd made and listens on
// (sd_listen_fds(3)). With a name it takes the one of that FileDescriptorName=
// and closes its copies of others; without, there must be exactly one. Anything
// but a listening unix stream socket is refused: a CRI on a TCP port would be
// the node's root shell for the network.
//
// The socket file is systemd's, and stays when the listener is closed: connections
// queue there until the next start. The environment variables are removed, so
// that it works once, and child processes do not believe that they were meant.
func ListenSystemd(name string) (net.Listener, error) {
	pid := os.Getenv("LISTEN_PID")
	if n := os.Getenv("LISTEN_FDS"); n != "" && pid != strconv.Itoa(os.Getpid()) {
		// A wrapper between systemd and this process, as a rule.
		return nil, fmt.Errorf("LISTEN_FDS=%.20q hands sockets to process %.20q (LISTEN_PID), and this is process %d: start it by exec, or unset LISTEN_FDS", n, pid, os.Getpid())
	}
	files := activation.Files(true)
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	var found []*os.File
	for _, f := range files {
		if name == "" || f.Name() == name {
			found = append(found, f)
		}
	}
	what := "a socket"
	if name != "" {
		what = fmt.Sprintf("a socket named %q", name)
	}
	switch len(found) {
	case 1:
	case 0:
		return nil, fmt.Errorf("systemd handed over %d sockets, and not %s", len(files), what)
	default:
		return nil, fmt.Errorf("systemd handed over %d sockets where one was wanted: %s", len(found), what)
	}
	l, err := listenFile(found[0])
	if err != nil {
		return nil, fmt.Errorf("taking over the socket %q from systemd: %w", found[0].Name(), err)
	}
	return l, nil
}

// listenFile makes a listener of a copy of f.
func listenFile(f *os.File) (net.Listener, error) {
	accepting, err := syscall.GetsockoptInt(int(f.Fd()), syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN)
	if err != nil {
		return nil, os.NewSyscallError("getsockopt", err)
	}
	if accepting == 0 {
		return nil, errors.New("it is not listening; the unit needs ListenStream= and Accept=no")
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("it is a %s socket and not a unix socket", l.Addr().Network())
	}
	ul.SetUnlinkOnClose(false)
	return ul, nil
}
