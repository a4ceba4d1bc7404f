package peers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Client is a process that is connected to a socket.
type Client struct {
	Process
	Connections int `json:"connections"`
}

// Socket is who is at both ends of a listening socket.
type Socket struct {
	// Listeners are the processes that have the listening socket itself: the one that serves it, and systemd where
	// that made it.
	Listeners []Process
	// Clients are those that are connected.
	Clients []Client
	// Unknown is how many connections are held by no process that can be seen.
	Unknown int
	// Partial is why some network namespaces could not be looked into, in which there may be more clients; nil if
	// all were.
	Partial error
}

// Inspect tells who is connected to the socket at path, on the host whose root is at hostRoot (empty: this one).
// It needs root and, to see pods that have the socket mounted, the right to enter their network namespaces: the kernel
// lists a connection where its client is.
//
// A socket is known by its file, so that one of the same path in a container is not taken for it. Where
// the file has no listener, as with file systems that number their files twice, it is known by its path.
func Inspect(ctx context.Context, hostRoot, path string) (Socket, error) {
	f, err := fileAt(hostRoot, path)
	if err != nil {
		return Socket{}, fmt.Errorf("looking at the socket: %w", err)
	}
	proc := Proc(hostRoot)
	processes, err := numbers(proc)
	if err != nil {
		return Socket{}, err
	}
	socks, partial := everywhere(ctx, proc, processes)
	if err := ctx.Err(); err != nil {
		return Socket{}, fmt.Errorf("looking for who is connected to %s: %w", path, err)
	}
	its := func(s sock) bool { return s.file == f }
	listens := func(s sock) bool { return s.listen && its(s) }
	if !slices.ContainsFunc(socks, listens) {
		its = func(s sock) bool { return filepath.Clean(s.name) == filepath.Clean(path) }
		if !slices.ContainsFunc(socks, listens) {
			if partial != nil {
				return Socket{}, fmt.Errorf("looking for who is connected to %s: %w", path, partial)
			}
			return Socket{}, fmt.Errorf("nobody is listening on %s", path)
		}
	}
	listening, connected := map[uint32]bool{}, map[uint32]bool{}
	for _, s := range socks {
		switch {
		case !its(s):
		case s.listen:
			listening[s.inode] = true
			for _, inode := range s.waiting {
				connected[inode] = true
			}
		case s.peer != 0:
			connected[s.peer] = true
		}
	}
	delete(connected, 0)
	found := Socket{Partial: partial}
	found.hold(proc, processes, listening, connected)
	return found, nil
}

// hold finds the processes that have the sockets of given inodes.
func (s *Socket) hold(proc string, processes []int, listening, connected map[uint32]bool) {
	held := map[uint32]bool{}
	for _, pid := range processes {
		listens, connections := false, 0
		for inode := range socketsOf(proc, pid) {
			if listening[inode] {
				listens = true
			}
			if connected[inode] {
				connections++
				held[inode] = true
			}
		}
		if !listens && connections == 0 {
			continue
		}
		p, err := Look(proc, pid)
		if err != nil {
			continue // it has ended meanwhile, and its connections with it
		}
		if listens {
			s.Listeners = append(s.Listeners, p)
		}
		if connections > 0 {
			s.Clients = append(s.Clients, Client{p, connections})
		}
	}
	s.Unknown = len(connected) - len(held)
	slices.SortFunc(s.Clients, func(a, b Client) int { return cmp.Compare(a.PID, b.PID) })
}

// socketsOf are the inodes of the sockets that a process has. One that has ended has none.
func socketsOf(proc string, pid int) map[uint32]bool {
	dir := filepath.Join(proc, strconv.Itoa(pid), "fd")
	d, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	inodes := map[uint32]bool{}
	for _, name := range names {
		target, err := os.Readlink(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		if rest, ok := strings.CutPrefix(target, "socket:["); ok {
			if n, err := strconv.ParseUint(strings.TrimSuffix(rest, "]"), 10, 64); err == nil {
				inodes[uint32(n)] = true
			}
		}
	}
	return inodes
}

// numbers are the processes there are.
func numbers(proc string) ([]int, error) {
	d, err := os.Open(proc)
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	var all []int
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil {
			all = append(all, n)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("listing processes: %s has none; is it the host's /proc?", proc)
	}
	slices.Sort(all)
	return all, nil
}

// everywhere lists the unix sockets of every network namespace in which a process is.
func everywhere(ctx context.Context, proc string, processes []int) ([]sock, error) {
	type answer struct {
		socks []sock
		err   error
	}
	answers := make(chan answer, 1)
	go aside(func() {
		socks, err := roam(ctx, proc, processes)
		answers <- answer{socks, err}
	})
	a := <-answers
	return a.socks, a.err
}

// aside calls f on a thread that ends with it, so that whatever f does to the thread is never met again. The process's first thread is
// not taken: Go cannot end it, and it is whose namespaces /proc/self shows. Left in a pod's, it would have the whole process take that
// pod's listeners for the node's.
func aside(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		f()
		return // locked: the thread ends
	}
	defer runtime.UnlockOSThread()
	done := make(chan struct{})
	go func() { // on another thread: this one is held
		defer close(done)
		aside(f)
	}()
	<-done
}

// roam takes the calling thread through the network namespaces, its own first.
func roam(ctx context.Context, proc string, processes []int) ([]sock, error) {
	all, failed := list()
	here, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return all, errors.Join(failed, fmt.Errorf("looking at network namespaces: %w", err))
	}
	seen := map[string]bool{here: true}
	var missed []error
	for _, pid := range processes {
		path := filepath.Join(proc, strconv.Itoa(pid), "ns", "net")
		name, err := os.Readlink(path)
		if err != nil || seen[name] || ctx.Err() != nil {
			continue // it has ended, or is the kernel's own
		}
		seen[name] = true
		socks, err := visit(path)
		if errors.Is(err, os.ErrNotExist) {
			delete(seen, name) // it has ended; another may be in there
			continue
		}
		if err != nil {
			missed = append(missed, err)
			continue
		}
		all = append(all, socks...)
	}
	if len(missed) > 0 {
		failed = errors.Join(failed, fmt.Errorf("%d network namespaces could not be looked into, of which the first: %w", len(missed), missed[0]))
	}
	return all, failed
}

func visit(path string) ([]sock, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("entering the network namespace of %s: %w", path, err)
	}
	return list()
}
