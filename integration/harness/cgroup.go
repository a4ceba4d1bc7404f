package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	cgroupRoot   = "/sys/fs/cgroup"
	cgroupPrefix = "cosentry-it-"
)

// Cgroup is the parent under which every pod of this run has its cgroups, as
// a name without slashes.
func Cgroup() string { return os.Getenv(cgroupEnv) }

// newCgroupName carries the process ID, by which a later run recognises what
// one that was killed has left.
func newCgroupName() string {
	return fmt.Sprintf("%s%d-%x", cgroupPrefix, os.Getpid(), time.Now().UnixNano())
}

// cgroupDirs finds directories by name in every hierarchy: one for cgroup v2,
// one a controller for v1.
func cgroupDirs(pattern string) []string {
	unified, _ := filepath.Glob(filepath.Join(cgroupRoot, pattern))
	perController, _ := filepath.Glob(filepath.Join(cgroupRoot, "*", pattern))
	return append(unified, perController...)
}

// removeCgroups removes the trees called name. A cgroup stays busy for a
// moment after its last process has gone.
func removeCgroups(name string) {
	for _, dir := range cgroupDirs(name) {
		err := Until(5*time.Second, dir+" to be removed", func() bool {
			removeTree(dir)
			_, err := os.Stat(dir)
			return os.IsNotExist(err)
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, "harness:", err)
		}
	}
}

func removeTree(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, entry := range entries {
		if entry.IsDir() {
			removeTree(filepath.Join(dir, entry.Name()))
		}
	}
	_ = unix.Rmdir(dir) // seen again by the caller if it failed
}

// removeStaleCgroups removes what runs have left that were killed together
// with the process that would have cleaned up after them.
func removeStaleCgroups() {
	for _, dir := range cgroupDirs(cgroupPrefix + "*") {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), cgroupPrefix), "-")
		if n, err := strconv.Atoi(pid); err == nil && unix.Kill(n, 0) == unix.ESRCH {
			removeTree(dir)
		}
	}
}
