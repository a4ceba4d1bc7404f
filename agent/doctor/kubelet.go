package doctor

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cosentry/cosentry/agent/host/kubelet"
	"github.com/cosentry/cosentry/agent/host/peers"
)

func kubeletUnits() []string { return kubelet.Units() }

// kubeletEndpoint looks where kubelet's settings send it, which counts from its next start on.
func kubeletEndpoint(ctx context.Context, n *node) Finding {
	u, err := n.kubeletUnit(ctx)
	if err != nil {
		return warn("run this as root on the node", "kubelet's unit cannot be looked at: %v", err)
	}
	f := kubelet.Facts{Root: n.Root, Unit: u.Name, Environment: u.Environment}
	for _, file := range u.EnvironmentFiles {
		// One that must be there and is not keeps systemd from starting the unit: that is seen elsewhere.
		f.EnvironmentFiles = append(f.EnvironmentFiles, "-"+strings.TrimPrefix(file, "-"))
	}
	if len(u.ExecStart) > 0 {
		f.Exec = u.ExecStart[len(u.ExecStart)-1]
	}
	if u.MainPID != 0 {
		f.Args = commandLine(peers.Proc(n.Root), u.MainPID)
	}
	layout := kubelet.Auto
	if n.state != nil && n.state.Kubelet.Layout != "" {
		layout = n.state.Kubelet.Layout
	}
	e, err := kubelet.Find(f, layout)
	switch {
	case errors.Is(err, kubelet.ErrByHand):
		return warn("make sure that it is told "+n.listen(), "where kubelet's endpoint is set cannot be told for certain: %v", err)
	case err != nil:
		return warn("make sure that it is told "+n.listen(), "where kubelet's endpoint is set cannot be read: %v", err)
	case !e.Uses(n.listen()):
		return fail(installAgain, "kubelet is told to use %s for containers and %s for images (%s), and not %s: nothing is judged from its next start on", e.Runtime, e.Image, e.Source, n.listen())
	}
	return good("kubelet is told to use %s (%s)", e.Runtime, e.Source)
}

// commandLine is that of a process; nil if it cannot be read.
func commandLine(proc string, pid int) []string {
	data, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "cmdline"))
	if err != nil || len(data) == 0 {
		return nil
	}
	var args []string
	for arg := range bytes.SplitSeq(bytes.TrimSuffix(data, []byte{0}), []byte{0}) {
		args = append(args, string(arg))
	}
	return args
}
