package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// gcPercent is how much garbage may pile up beside what is in use, in percent of it.
	gcPercent = 50
	// giveBackEvery is how often memory that is not in use is given back to the node. What a burst
	// of calls took, the runtime of Go keeps on a quiet node.
	giveBackEvery = time.Minute
)

// spareMemory trades processor time, of which the agent uses little, for memory, which it takes from
// every pod of the node. GOGC has the last word.
func spareMemory() {
	runtime.MemProfileRate = 0 // a profile that nobody can read takes a megabyte
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// giveMemoryBack gives back what is not in use, to begin with and at every interval until ctx ends. The program's own
// pages are part of that: the libraries that policies may need (rules, key management services) touch most of the
// binary as they are initialised, and then hardly ever again.
func giveMemoryBack(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		_ = unmapProgram() // without it the agent is larger, and works
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			debug.FreeOSMemory()
		}
	}
}

// unmapProgram takes the program's text and constants out of this process's memory. The kernel keeps them among its
// cached files as long as there is room, and maps each page again when it is touched.
func unmapProgram() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return err
	}
	for _, m := range constantMappings(bytes.NewReader(smaps), exe) {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("unmapping the program: %w", errno)
		}
	}
	return nil
}

type mapping struct{ start, end uintptr }

// constantMappings lists the mappings of file that can only be read and were never written to, not even before they
// were made so, as a linker may: what was written would be lost. The format is that of proc_pid_smaps(5).
func constantMappings(smaps io.Reader, file string) (all []mapping) {
	var m mapping
	ours := false
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) >= 5 && !strings.HasSuffix(fields[0], ":"):
			_, err := fmt.Sscanf(fields[0], "%x-%x", &m.start, &m.end)
			ours = err == nil && len(fields) == 6 && fields[5] == file && strings.HasPrefix(fields[1], "r-")
		case ours && fields[0] == "Anonymous:":
			ours = fields[1] == "0"
		case ours && fields[0] == "Swap:": // comes after Anonymous; where a page that was written to may be
			if fields[1] == "0" {
				all = append(all, m)
			}
			ours = false
		}
	}
	return all
}
