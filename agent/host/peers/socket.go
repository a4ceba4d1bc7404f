package peers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
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
// A socket is known by its file, so that one of the same path in a container is not taken for it.
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
	socks, partial := everywhere(ctx, proc, processes, f)
	if err := ctx.Err(); err != nil {
		return Socket{}, fmt.Errorf("looking for who is connected to %s: %w", path, err)
	}
	listening, connected, err := ends(socks, path, partial)
	if err != nil {
		return Socket{}, err
	}
	found := Socket{Partial: partial}
	found.hold(proc, processes, listening, connected)
	return found, nil
}

// Connected reports whether one of the processes that is wants is connected to the socket at path. It looks at what those hold and at
// where they are, and nowhere else: what pods do costs it nothing, and cannot keep it from an answer.
func Connected(ctx context.Context, hostRoot, path string, is func(Process) bool) (bool, error) {
	f, err := fileAt(hostRoot, path)
	if err != nil {
		return false, fmt.Errorf("looking at the socket: %w", err)
	}
	proc := Proc(hostRoot)
	processes, err := numbers(proc)
	if err != nil {
		return false, err
	}
	processes = slices.DeleteFunc(processes, func(pid int) bool {
		p, err := Look(proc, pid)
		return err != nil || !is(p)
	})
	socks, partial := everywhere(ctx, proc, processes, f)
	if err := errors.Join(partial, ctx.Err()); err != nil {
		return false, fmt.Errorf("looking for who is connected to %s: %w", path, err)
	}
	_, connected, err := ends(socks, path, nil)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(processes, func(pid int) bool {
		for range held(proc, pid, connected) {
			return true
		}
		return false
	}), nil
}

// ends are the inodes of the sockets that listen, and of the clients of those.
func ends(socks []sock, path string, partial error) (listening, connected map[uint32]bool, err error) {
	listening, connected = map[uint32]bool{}, map[uint32]bool{}
	for _, s := range socks {
		switch {
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
	switch {
	case len(listening) > 0:
		return listening, connected, nil
	case partial != nil:
		return nil, nil, fmt.Errorf("looking for who is connected to %s: %w", path, partial)
	}
	return nil, nil, fmt.Errorf("nobody is listening on %s", path)
}

// hold finds the processes that have the sockets of given inodes.
func (s *Socket) hold(proc string, processes []int, listening, connected map[uint32]bool) {
	known := map[uint32]bool{}
	for _, pid := range processes {
		listens, connections := false, 0
		for inode := range held(proc, pid, listening, connected) {
			if listening[inode] {
				listens = true
			}
			if connected[inode] {
				connections++
				known[inode] = true
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
	s.Unknown = len(connected) - len(known)
	slices.SortFunc(s.Clients, func(a, b Client) int { return cmp.Compare(a.PID, b.PID) })
}

// held are those of the inodes that a process has, each once. One that has ended has none. A process may have a million
// descriptors: they are looked at a piece at a time.
func held(proc string, pid int, of ...map[uint32]bool) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		dir := filepath.Join(proc, strconv.Itoa(pid), "fd")
		d, err := os.Open(dir)
		if err != nil {
			return
		}
		defer d.Close()
		found := map[uint32]bool{}
		for {
			names, err := d.Readdirnames(1024)
			for _, name := range names {
				inode, ok := socketAt(filepath.Join(dir, name))
				wanted := func(inodes map[uint32]bool) bool { return inodes[inode] }
				if !ok || found[inode] || !slices.ContainsFunc(of, wanted) {
					continue
				}
				found[inode] = true
				if !yield(inode) {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
}

// socketAt is the inode of the socket that a descriptor in /proc leads to.
func socketAt(path string) (inode uint32, ok bool) {
	target, err := os.Readlink(path)
	if err != nil {
		return 0, false
	}
	rest, ok := strings.CutPrefix(target, "socket:[")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(rest, "]"), 10, 64)
	return uint32(n), err == nil
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

// everywhere lists the unix sockets of a file, of every network namespace in which one of the processes is.
func everywhere(ctx context.Context, proc string, processes []int, f file) ([]sock, error) {
	type answer struct {
		socks []sock
		err   error
	}
	answers := make(chan answer, 1)
	go aside(func() {
		socks, err := roam(ctx, proc, processes, f)
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
func roam(ctx context.Context, proc string, processes []int, f file) ([]sock, error) {
	all, failed := list(ctx, nil, f)
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
		more, err := visit(ctx, path, all, f)
		if errors.Is(err, os.ErrNotExist) {
			delete(seen, name) // it has ended; another may be in there
			continue
		}
		all = more
		if err != nil {
			missed = append(missed, err)
		}
	}
	if len(missed) > 0 {
		failed = errors.Join(failed, fmt.Errorf("%d network namespaces could not be looked into, of which the first: %w", len(missed), missed[0]))
	}
	return all, failed
}

// visit adds the sockets of a namespace to all.
func visit(ctx context.Context, path string, all []sock, f file) ([]sock, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return all, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return all, fmt.Errorf("entering the network namespace of %s: %w", path, err)
	}
	return list(ctx, all, f)
}
