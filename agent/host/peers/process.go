// Package peers tells who is at the other ends of a node's unix sockets: which processes are connected to the runtime, and
// whether kubelet is the one that it says it is.
//
// A process chooses its own name and command line, and anybody's program can be called kubelet. What it does not
// choose is its control group, by which systemd keeps a unit's processes together, and its user. So kubelet is the
// process in kubelet's unit, and a pod that has a systemd, or a process, of that name inside is not.
//
// It reads /proc and asks the kernel for its list of sockets (sock_diag(7)), and changes nothing. It promises no more than
// a look: who is connected for a moment between two looks is not seen.
package peers

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cosentry/cosentry/agent/host/kubelet"
)

// Process is what the kernel says of a process, in the words of systemd where it is a unit's.
type Process struct {
	PID int `json:"pid"`
	// UID is its effective user.
	UID int `json:"uid"`
	// Name is what the process calls itself: for people to read, and nothing to rely on.
	Name string `json:"name"`
	// Exe is the path of its program in its own file system; empty if that may not be read.
	Exe string `json:"exe,omitempty"`
	// Unit is the systemd unit whose control group it is in; empty if it is in none, as in a pod.
	Unit string `json:"unit,omitempty"`
	// Pod says that it runs in a pod.
	Pod bool `json:"pod,omitempty"`
	// Age is how long it has been running.
	Age time.Duration `json:"-"`
}

// ErrGone is the error for a process that has ended, or whose number another has by now.
var ErrGone = errors.New("the process has ended")

// IsKubelet reports whether the process is kubelet for certain: root's, and in kubelet's own unit.
func (p Process) IsKubelet() bool {
	return p.UID == 0 && !p.Pod && slices.Contains(kubelet.Units(), p.Unit)
}

// MayBeKubelet reports whether the process looks like a kubelet, by its unit or, outside of pods, by its program's name.
// Use it where kubelet is what must not be there.
func (p Process) MayBeKubelet() bool {
	program := p.Name
	if p.Exe != "" {
		program = path.Base(strings.TrimSuffix(p.Exe, " (deleted)"))
	}
	return p.IsKubelet() || !p.Pod && program == "kubelet"
}

// String names the process on one line, with what it does not choose itself first.
func (p Process) String() string {
	s := p.Unit
	switch {
	case p.Pod:
		s = "in a pod"
	case s == "":
		s = "in no unit"
	}
	return fmt.Sprintf("%q (process %d of user %d, %s)", p.Name, p.PID, p.UID, s)
}

// Proc is where the processes of a host are told whose root is at hostRoot: the one that is running if that is empty.
func Proc(hostRoot string) string { return filepath.Join("/", hostRoot, "proc") }

// Look tells of a process, as proc, the folder, has it.
func Look(proc string, pid int) (Process, error) {
	dir := filepath.Join(proc, strconv.Itoa(pid))
	p, start, err := glance(dir)
	if err != nil {
		return Process{}, err
	}
	p.PID = pid
	status, err := read(dir, "status")
	if err != nil {
		return Process{}, err
	}
	if p.UID, err = effectiveUser(status); err != nil {
		return Process{}, fmt.Errorf("reading %s/status: %w", dir, err)
	}
	groups, err := read(dir, "cgroup")
	if err != nil {
		return Process{}, err
	}
	p.Unit, p.Pod = unitOf(string(groups))
	p.Exe, _ = os.Readlink(filepath.Join(dir, "exe")) // needs the right to trace the process
	// All of it must be about the one process.
	if _, again, err := glance(dir); err != nil || again != start {
		return Process{}, ErrGone
	}
	return p, nil
}

// LookSince is Look at a process that was there so long ago: one that is younger has only been given its number.
func LookSince(proc string, pid int, ago time.Duration) (Process, error) {
	p, err := Look(proc, pid)
	if err != nil {
		return Process{}, err
	}
	// A second for what the kernel rounds.
	if p.Age+time.Second < ago {
		return Process{}, ErrGone
	}
	return p, nil
}

// ticks is the number of clock ticks in a second of what /proc tells (USER_HZ), which is the same on all machines that Go knows.
const ticks = 100

// glance reads a process's name and when it was started, which tells it from the next of its number.
func glance(dir string) (Process, uint64, error) {
	stat, err := read(dir, "stat")
	if err != nil {
		return Process{}, 0, err
	}
	// pid (name) state …; the name may hold anything, parentheses and line ends as well.
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return Process{}, 0, fmt.Errorf("reading %s/stat: no name in it", dir)
	}
	fields := strings.Fields(string(stat[end+1:]))
	const starttime = 22 - 3 // proc(5) counts from 1, and this begins at the third
	if len(fields) <= starttime {
		return Process{}, 0, fmt.Errorf("reading %s/stat: %d fields", dir, len(fields)+2)
	}
	start, err := strconv.ParseUint(fields[starttime], 10, 64)
	if err != nil {
		return Process{}, 0, fmt.Errorf("reading %s/stat: %w", dir, err)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return Process{}, 0, fmt.Errorf("reading the clock: %w", err)
	}
	age := time.Duration(now.Nano()) - time.Duration(start)*time.Second/ticks
	return Process{Name: string(stat[open+1 : end]), Age: max(age, 0)}, start, nil
}

func effectiveUser(status []byte) (int, error) {
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
			if ids := strings.Fields(rest); len(ids) == 4 {
				return strconv.Atoi(ids[1])
			}
		}
	}
	return 0, errors.New("no Uid in it")
}

// unitOf finds the unit in /proc/PID/cgroup: the first part of the path that is no slice, and that only if all before it are
// slices. What comes after it, or below a folder of another kind, was made by the unit's own processes, and may be
// called as they like.
//
// A pod's process is in a pod in one hierarchy and may be in its runtime's unit in another.
func unitOf(groups string) (unit string, pod bool) {
	if inPod(groups) {
		return "", true
	}
	for _, controller := range []string{"name=systemd", ""} {
		for line := range strings.Lines(groups) {
			if named, group := split(line); named == controller {
				if unit = unitOfPath(group); unit != "" {
					return unit, false
				}
			}
		}
	}
	return "", false
}

// split divides a line of /proc/PID/cgroup, hierarchy:controllers:path. What is no such line has no path.
func split(line string) (controllers, group string) {
	_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
	controllers, group, ok := strings.Cut(rest, ":")
	if !ok {
		return "none", ""
	}
	return controllers, group
}

func unitOfPath(group string) string {
	for part := range parts(group) {
		switch {
		case strings.HasSuffix(part, ".slice"):
		case strings.HasSuffix(part, ".service"), strings.HasSuffix(part, ".scope"):
			return part
		default:
			return ""
		}
	}
	return ""
}

// parts are those of a path. Who looks from a container with a control group namespace of its own sees paths that begin
// there, and first lead up to what is common to both.
func parts(group string) iter.Seq[string] {
	group = strings.Trim(group, "/")
	for group == ".." || strings.HasPrefix(group, "../") {
		group = strings.TrimPrefix(strings.TrimPrefix(group, ".."), "/")
	}
	return strings.SplitSeq(group, "/")
}

// inPod reports whether one of the paths goes through a control group that kubelet made for pods. Runtimes move processes in
// all hierarchies, so any will do.
func inPod(groups string) bool {
	for line := range strings.Lines(groups) {
		_, group := split(line)
		for part := range parts(group) {
			if ofPods(part) {
				return true
			}
		}
	}
	return false
}

// podGroup matches the names that kubelet gives to the control groups of pods: that of all of them, of those of a quality of
// service, and of one, by its cgroupfs driver and by its systemd driver.
var podGroup = regexp.MustCompile(`^((kubelet-)?kubepods(-[\w-]+)?(\.slice)?|pod[0-9a-f]{8}[0-9a-f-]*)$`)

func ofPods(part string) bool { return podGroup.MatchString(part) }

// maxFile bounds a file of /proc, in bytes. The longest that is read has a line for each cgroup hierarchy.
const maxFile = 64 << 10

func read(dir, name string) ([]byte, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err == nil {
		defer f.Close()
		var data []byte
		if data, err = io.ReadAll(io.LimitReader(f, maxFile)); err == nil {
			return data, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil, ErrGone
	}
	return nil, fmt.Errorf("looking at a process: %w", err)
}
