package criproxy

import (
	"cmp"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Peer is a client that is connected to the socket now.
//
// What the kernel says of it was true when it connected (SO_PEERCRED, unix(7)): a process can end and hand its
// connection to another, and its number can be given away. Whoever wants to name the process compares its start
// time with Since.
type Peer struct {
	// PID is 0 if the process is in a PID namespace that cannot be seen from here.
	PID int
	UID int
	GID int
	// Since is when the connection was accepted.
	Since time.Time
}

// maxPeers bounds the peers that are told: whoever can connect can do so as often as there are descriptors. Those
// beyond are served like all others, and only counted.
const maxPeers = 256

// Peers are the clients that are connected now, oldest first, at most 256; more is how many there are beyond.
func (p *Proxy) Peers() (known []Peer, more int) { return p.peers.list() }

// peers is who is connected.
type peers struct {
	mu    sync.Mutex
	known map[*peerConn]Peer
	more  int
}

func newPeers() *peers { return &peers{known: map[*peerConn]Peer{}} }

func (ps *peers) list() ([]Peer, int) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	all := make([]Peer, 0, len(ps.known))
	for _, p := range ps.known {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b Peer) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.PID, b.PID)) })
	return all, ps.more
}

// on is l with every connection that it accepts noted until it is closed.
func (ps *peers) on(l net.Listener) net.Listener { return &peerListener{l, ps} }

type peerListener struct {
	net.Listener
	peers *peers
}

func (l *peerListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.peers.add(c), nil
}

// add notes the client at the other end of c. One whose credentials cannot be read is served as well: who it is is for
// people to know, and nothing is permitted by it.
func (ps *peers) add(c net.Conn) net.Conn {
	peer := Peer{Since: time.Now()}
	if cred, err := credentialsOf(c); err == nil {
		peer.PID, peer.UID, peer.GID = int(cred.Pid), int(cred.Uid), int(cred.Gid)
	} else {
		peer.UID, peer.GID = nobody, nobody // not root's 0
	}
	pc := &peerConn{Conn: c, peers: ps}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if len(ps.known) < maxPeers {
		ps.known[pc] = peer
	} else {
		ps.more++
	}
	return pc
}

// nobody is the kernel's overflow user, for a client whose credentials could not be read.
const nobody = 65534

func credentialsOf(c net.Conn) (cred *unix.Ucred, err error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil, syscall.ENOTSOCK
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	if cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil {
		return nil, cerr
	}
	return cred, err
}

// peerConn is a connection that is forgotten when it is closed.
type peerConn struct {
	net.Conn
	peers *peers
	once  sync.Once
}

func (c *peerConn) Close() error {
	c.once.Do(func() {
		c.peers.mu.Lock()
		defer c.peers.mu.Unlock()
		if _, ok := c.peers.known[c]; ok {
			delete(c.peers.known, c)
		} else {
			c.peers.more--
		}
	})
	return c.Conn.Close()
}
