package node

import (
	"bufio"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cosentry/cosentry/integration/harness"
	"github.com/cosentry/cosentry/integration/machine"
)

// running is what kubelet, containerd and the journal write by themselves.
var running = []string{
	"/var/lib/kubelet/pods", "/var/lib/kubelet/pki", "/var/lib/kubelet/plugins", "/var/lib/kubelet/plugins_registry",
	"/var/lib/kubelet/device-plugins", "/var/lib/kubelet/pod-resources", "/var/lib/kubelet/checkpoints", "/var/lib/kubelet/image_manager",
	"/var/lib/kubelet/usernamespaces", "/var/lib/kubelet/cpu_manager_state", "/var/lib/kubelet/memory_manager_state", "/var/lib/kubelet/dra_manager_state",
	"/var/lib/kubelet/actuated_pods_state", "/var/lib/kubelet/allocated_pods_state", "/var/lib/kubelet/pod_status_manager_state",
	"/var/lib/containerd", "/var/lib/cni", "/var/lib/systemd", "/var/log/pods", "/var/log/containers", "/var/log/journal", "/var/tmp",
	machine.Manifests, "/run", "/root", "/var/cache",
}

// until is harness.Until with longer pauses: each look asks kubelet, which is
// what the test waits for.
func until(d time.Duration, what string, done func() bool) error {
	var next time.Time
	return harness.Until(d, what, func() bool {
		if time.Now().Before(next) {
			return false
		}
		next = time.Now().Add(50 * time.Millisecond)
		return done()
	})
}

func (s *site) snapshot(t testing.TB) machine.Snapshot {
	t.Helper()
	snapshot, err := s.Snapshot(running...)
	must(t, err)
	return snapshot
}

func (s *site) diff(t testing.TB, before machine.Snapshot) []string {
	t.Helper()
	changes, err := s.Diff(before, s.snapshot(t))
	must(t, err)
	return changes
}

// wantDiff expects no file to differ.
func (s *site) wantDiff(t testing.TB, before machine.Snapshot) {
	t.Helper()
	for _, change := range s.diff(t, before) {
		t.Errorf("changed: %s", change)
	}
}

func (s *site) there(file string) bool {
	_, err := os.Lstat(s.Path(file))
	return !errors.Is(err, fs.ErrNotExist)
}

func itoa(i int) string { return strconv.Itoa(i) }

// ourBinaryIn is the link to the binary that is in force.
func ourBinaryIn(layout machine.Layout) string {
	if layout == machine.GKE {
		return "/home/kubernetes/bin/cosentry"
	}
	return ourBinary
}

// processes are the main processes of the node's units.
func (s *site) processes(t testing.TB) string {
	t.Helper()
	var pids []string
	for _, unit := range []string{"containerd", "cosentry", "kubelet"} {
		pid, err := s.Show(t.Context(), unit+".service", "MainPID")
		must(t, err)
		pids = append(pids, pid)
	}
	return strings.Join(pids, " ")
}

// records are those of the audit log on the machine.
func (s *site) records(t testing.TB) []map[string]any {
	t.Helper()
	files, err := filepath.Glob(s.Path(ourAudit + "/*.jsonl"))
	must(t, err)
	var records []map[string]any
	for _, name := range files {
		file, err := os.Open(name)
		must(t, err)
		lines := bufio.NewScanner(file)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			record := map[string]any{}
			if json.Unmarshal(lines.Bytes(), &record) == nil { // the last may be half written
				records = append(records, record)
			}
		}
		file.Close()
	}
	return records
}

// recorded reports whether there is a record of such a decision about an image.
func (s *site) recorded(t testing.TB, image, decision string) bool {
	t.Helper()
	for _, record := range s.records(t) {
		if record["image"] == image && record["decision"] == decision {
			return true
		}
	}
	return false
}
