package peers

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// What sock_diag(7) and linux/unix_diag.h name.
const (
	sockDiagByFamily = 20

	showVFS  = 1 << 1
	showPeer = 1 << 2
	showWait = 1 << 3

	attrVFS  = 1
	attrPeer = 2
	attrWait = 3

	stateListen = 10 // TCP_LISTEN, also of unix sockets

	requestSize = 24 // struct unix_diag_req
	messageSize = 16 // struct unix_diag_msg
)

// sock is a unix socket as the kernel lists it.
type sock struct {
	inode  uint32 // of the socket itself, by which /proc/PID/fd names it
	listen bool
	file   file   // of the path that it, or the listening one it came of, was bound to; zero if it has none
	peer   uint32 // the inode of the socket at the other end
	// waiting are the inodes of the clients of a listening socket that it has not yet accepted. The kernel lists no
	// socket of the listener's for these.
	waiting []uint32
}

// file is a socket's file, as the kernel numbers it.
type file struct{ inode, device uint32 }

// maxSocks bounds the sockets that are kept. A node's socket has some tens of connections, and root alone can make more.
const maxSocks = 1 << 16

// errTooMany is for a namespace of which not all that is wanted was kept.
var errTooMany = fmt.Errorf("more than %d connections to the socket", maxSocks)

// list adds to all what the kernel lists of a file's unix sockets in the network namespace in which the calling thread is. A pod can
// make a million others.
func list(ctx context.Context, all []sock, f file) ([]sock, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return all, fmt.Errorf("asking for unix sockets: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		return all, fmt.Errorf("asking for unix sockets: %w", err)
	}
	if err := unix.Sendto(fd, request(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return all, fmt.Errorf("asking for unix sockets: %w", err)
	}
	buf := make([]byte, 256<<10)
	for ctx.Err() == nil {
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return all, fmt.Errorf("reading the list of unix sockets: %w", err)
		}
		if k, ok := from.(*unix.SockaddrNetlink); !ok || k.Pid != 0 {
			continue // not the kernel
		}
		var some []sock
		done, err := take(buf[:n], &some)
		if err != nil {
			return all, fmt.Errorf("reading the list of unix sockets: %w", err)
		}
		for _, s := range some {
			if s.file != f {
				continue
			}
			if len(all) == maxSocks {
				return all, errTooMany
			}
			all = append(all, s)
		}
		if done {
			return all, nil
		}
	}
	return all, fmt.Errorf("reading the list of unix sockets: %w", ctx.Err())
}

// request asks for all sockets, with their names, files and peers.
func request() []byte {
	b := make([]byte, unix.SizeofNlMsghdr+requestSize)
	h := binary.NativeEndian
	h.PutUint32(b[0:], uint32(len(b)))
	h.PutUint16(b[4:], sockDiagByFamily)
	h.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	r := b[unix.SizeofNlMsghdr:]
	r[0] = unix.AF_UNIX
	h.PutUint32(r[4:], ^uint32(0)) // in every state
	h.PutUint32(r[12:], showVFS|showPeer|showWait)
	return b
}

var errMalformed = errors.New("the kernel's answer is malformed")

// take adds what one packet lists, and says whether it was the last.
func take(b []byte, all *[]sock) (done bool, err error) {
	h := binary.NativeEndian
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(h.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return false, errMalformed
		}
		body := b[unix.SizeofNlMsghdr:size]
		switch h.Uint16(b[4:]) {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if len(body) < 4 {
				return false, errMalformed
			}
			return false, unix.Errno(-int32(h.Uint32(body)))
		case sockDiagByFamily:
			s, err := parse(body)
			if err != nil {
				return false, err
			}
			*all = append(*all, s)
		}
		b = b[min(align(size), len(b)):]
	}
	return false, nil
}

func parse(b []byte) (s sock, err error) {
	if len(b) < messageSize {
		return s, errMalformed
	}
	h := binary.NativeEndian
	s.listen, s.inode = b[2] == stateListen, h.Uint32(b[4:])
	for b = b[messageSize:]; len(b) >= 4; {
		size := int(h.Uint16(b))
		if size < 4 || size > len(b) {
			return s, errMalformed
		}
		value := b[4:size]
		switch kind := h.Uint16(b[2:]); {
		case kind == attrVFS && len(value) >= 8:
			s.file = file{h.Uint32(value), h.Uint32(value[4:])}
		case kind == attrPeer && len(value) >= 4:
			s.peer = h.Uint32(value)
		case kind == attrWait:
			for ; len(value) >= 4; value = value[4:] {
				s.waiting = append(s.waiting, h.Uint32(value))
			}
		}
		b = b[min(align(size), len(b)):]
	}
	return s, nil
}

// align rounds up to where the next message or attribute begins.
func align(n int) int { return (n + 3) &^ 3 }

// fileAt is the file at a path below a host's root, links followed as they are on that host.
func fileAt(hostRoot, path string) (file, error) {
	root, err := unix.Open(rootOf(hostRoot), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return file{}, &os.PathError{Op: "open", Path: rootOf(hostRoot), Err: err}
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return file{}, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return file{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return file{}, &os.PathError{Op: "look at", Path: path, Err: unix.ENOTSOCK}
	}
	// Inside the kernel a device has 12 and 20 bits.
	return file{uint32(st.Ino), unix.Major(st.Dev)<<20 | unix.Minor(st.Dev)}, nil
}

func rootOf(hostRoot string) string {
	if hostRoot == "" {
		return "/"
	}
	return hostRoot
}
