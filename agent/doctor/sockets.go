package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/agent/canary"
	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/host/peers"
	"github.com/cosentry/cosentry/criproxy"
	"github.com/cosentry/cosentry/systemd"
)

// agent asks the agent itself.
func agent(ctx context.Context, n *node) Finding {
	if n.status == nil {
		return fail("systemctl status "+systemd.Service+"; journalctl -u "+systemd.Service+" says why", "the agent does not answer: %v", n.silent)
	}
	s := n.status
	if s.NotReady != "" {
		return fail("see the other findings", "the agent runs and cannot judge: %s", s.NotReady)
	}
	if u, err := n.unit(ctx, systemd.Service); err == nil {
		if other := n.runningBinary(u); other != "" {
			return warn("systemctl restart "+systemd.Service, "the agent runs %s, and %s is installed", other, n.state.Agent.Path)
		}
	}
	if fi, err := n.tree.Stat(n.Settings); err == nil && fi.ModTime().After(s.Started.Add(time.Second)) {
		return warn("cosentry config check; systemctl restart "+systemd.Service, "%s was changed at %s, after the agent started: the change is not in force", n.Settings, fi.ModTime().Format(time.RFC3339))
	}
	if s.Version != n.Version {
		return warn("run the command of the same version as the agent", "the agent is version %s and this command is %s", s.Version, n.Version)
	}
	return good("version %s, up since %s, ready", s.Version, s.Started.Format(time.RFC3339))
}

// version asks a CRI socket, a path of the host's, who answers there.
func (n *node) version(ctx context.Context, path string) (*runtimeapi.VersionResponse, error) {
	here, err := n.tree.Path(strings.TrimPrefix(path, "unix://"))
	if err != nil {
		return nil, err
	}
	conn, err := criproxy.Dial(here)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	v, err := runtimeapi.NewRuntimeServiceClient(conn).Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return nil, fmt.Errorf("calling Version on %s: %s", path, status.Convert(err).Message())
	}
	return v, nil
}

func runtimeAnswers(ctx context.Context, n *node) Finding {
	path := n.config.Runtime.Endpoint
	v, err := n.version(ctx, path)
	if err != nil {
		return fail("see to the container runtime; if it is elsewhere, correct runtime.endpoint in "+n.Settings, "the runtime does not answer: %v", err)
	}
	if open := n.openTo(path); open != "" {
		return fail("chmod o-rwx "+path, "%s is open to %s: who is not root can start what he likes there", path, open)
	}
	return good("%s %s on %s", v.RuntimeName, v.RuntimeVersion, path)
}

// openTo says to whom a socket is open beside root and root's group; "" if to nobody.
func (n *node) openTo(path string) string {
	fi, err := n.tree.Stat(strings.TrimPrefix(path, "unix://"))
	if err != nil {
		return ""
	}
	if fi.Mode().Perm()&0o002 != 0 {
		return "everybody"
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Gid != 0 && fi.Mode().Perm()&0o020 != 0 {
		return fmt.Sprintf("group %d", st.Gid)
	}
	return ""
}

// socket looks at the agent's socket as kubelet sees it: is it there, is it ours, is the runtime behind it.
func socket(ctx context.Context, n *node) Finding {
	path := n.listen()
	fi, err := n.tree.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail("systemctl start "+systemd.Socket+"; if there is no such unit: "+installAgain, "there is no socket %s, and kubelet can start no pod without it", path)
	case err != nil:
		return fail("systemctl start "+systemd.Socket+"; if there is no such unit: "+installAgain, "the socket %s cannot be looked at, and kubelet can start no pod without it: %v", path, why(err))
	case fi.Mode().Type() != fs.ModeSocket:
		return fail("move it away; systemctl restart "+systemd.Socket, "%s is not a socket (%s)", path, fi.Mode().Type())
	case n.openTo(path) != "":
		return fail("systemctl restart "+systemd.Socket, "%s is open to %s", path, n.openTo(path))
	case n.socketErr != nil:
		return fail("systemctl restart "+systemd.Socket, "%v", n.socketErr)
	}
	if other := n.servedBy(); other != "" {
		return fail("find out who put it there; then systemctl restart "+systemd.Socket, "%s is served by %s and not by the agent: nothing that comes there is judged", path, other)
	}
	direct, derr := n.version(ctx, n.config.Runtime.Endpoint)
	through, err := n.version(ctx, path)
	switch {
	case err != nil && derr == nil:
		return fail("systemctl status "+systemd.Service+"; journalctl -u "+systemd.Service+" says why", "the runtime answers and the agent before it does not: %v", err)
	case err != nil:
		return fail("see the finding about the runtime", "%v", err)
	case derr == nil && (direct.RuntimeName != through.RuntimeName || direct.RuntimeVersion != through.RuntimeVersion):
		return fail("correct runtime.endpoint in "+n.Settings, "behind %s is %s %s, and at runtime.endpoint is %s %s", path, through.RuntimeName, through.RuntimeVersion, direct.RuntimeName, direct.RuntimeVersion)
	}
	return good("%s answers for %s %s", path, through.RuntimeName, through.RuntimeVersion)
}

// servedBy names who serves the agent's socket if that is somebody else, as with a link to the runtime's in its place. Where
// the agent is no unit, it is known by its number in the state of things: then who serves both sockets is found out.
func (n *node) servedBy() string {
	for _, p := range n.socket.Listeners {
		for _, r := range n.runtime.Listeners {
			if p.PID == r.PID && p.PID != 1 { // 1 is systemd, which holds every socket that it made
				return "the runtime itself, " + p.String()
			}
		}
	}
	if n.systemd == nil {
		return ""
	}
	for _, p := range n.socket.Listeners {
		if !n.isAgent(p) && p.PID != 1 && p.Unit != "init.scope" {
			return p.String()
		}
	}
	return ""
}

func kubeletConnected(ctx context.Context, n *node) Finding {
	const mend = "see the finding kubelet-endpoint; then " + installAgain
	if n.socketErr != nil {
		return fail("see the finding about the socket", "who is connected to %s cannot be told: %v", n.listen(), n.socketErr)
	}
	u, err := n.kubeletUnit(ctx)
	is := func(p peers.Process) bool { return p.IsKubelet() || err == nil && u.MainPID != 0 && p.PID == u.MainPID }
	through, past := count(n.socket.Clients, is), count(n.runtime.Clients, is)
	if through > 0 {
		if past > cadvisor {
			return warn("see the finding kubelet-endpoint: its imageServiceEndpoint must be the agent's as well", "kubelet is connected to %s, and with %d connections to the runtime's %s: more than its statistics take", n.listen(), past, n.config.Runtime.Endpoint)
		}
		return good("kubelet is connected to %s with %d connections", n.listen(), through)
	}
	switch {
	case past > 0:
		return fail(mend, "KUBELET BYPASSES cosentry: it is connected to the runtime's %s and not to %s, so nothing is judged", n.config.Runtime.Endpoint, n.listen())
	case err != nil:
		if like := first(n.socket.Clients, peers.Process.MayBeKubelet); like != "" {
			return warn("see the finding about units", "%s is connected to %s; that it is kubelet cannot be told without its unit: %v", like, n.listen(), err)
		}
		if like := first(n.runtime.Clients, peers.Process.MayBeKubelet); like != "" {
			return fail(mend, "%s is connected to the runtime's %s and not to %s", like, n.config.Runtime.Endpoint, n.listen())
		}
		return warn("see the finding about units; if a kubelet runs here: "+mend, "no kubelet is connected to %s, and whether one runs cannot be told: %v", n.listen(), err)
	case u.Active != "active":
		return warn("systemctl status "+u.Name, "%s is %s, so it is not connected", u.Name, u.Active)
	}
	return fail(mend, "%s runs and is connected neither to %s nor to the runtime's %s", u.Name, n.listen(), n.config.Runtime.Endpoint)
}

// cadvisor is how many connections kubelet has on the runtime's socket whatever its settings say: the part of it that
// counts what containers use asks containerd's own API.
const cadvisor = 1

func count(clients []peers.Client, is func(peers.Process) bool) (connections int) {
	for _, c := range clients {
		if is(c.Process) {
			connections += c.Connections
		}
	}
	return connections
}

func first(clients []peers.Client, is func(peers.Process) bool) string {
	for _, c := range clients {
		if is(c.Process) {
			return c.String()
		}
	}
	return ""
}

// runtimeClients tells who else is on the runtime's own socket, where nothing is judged.
func runtimeClients(_ context.Context, n *node) Finding {
	path := n.config.Runtime.Endpoint
	if n.runtimeErr != nil {
		return warn("run this as root", "who is connected to the runtime's %s cannot be told: %v", path, n.runtimeErr)
	}
	var others []string
	for _, c := range n.runtime.Clients {
		if n.isAgent(c.Process) || c.IsKubelet() || n.isServer(c.PID) {
			continue
		}
		others = append(others, c.String())
	}
	switch {
	case len(others) > 0:
		return warn("if they do more than read, have them use "+n.listen()+"; what they start there is judged by nobody", "on the runtime's %s, past cosentry: %s", path, strings.Join(others, ", "))
	case n.runtime.Unknown > 0:
		return warn("run this as root on the host, or with its processes to be seen (hostPID)", "%d connections to the runtime's %s belong to processes that cannot be seen", n.runtime.Unknown, path)
	case n.runtime.Partial != nil:
		return warn("run this as root on the host", "nobody else is on the runtime's %s, as far as can be seen: %v", path, n.runtime.Partial)
	}
	return good("nobody but kubelet's statistics and the agent is on the runtime's %s", path)
}

// isServer reports whether a process serves one of the two sockets: an agent that is no unit, or the runtime itself.
func (n *node) isServer(pid int) bool {
	for _, p := range append(n.socket.Listeners[:len(n.socket.Listeners):len(n.socket.Listeners)], n.runtime.Listeners...) {
		if p.PID == pid && pid != 1 {
			return true
		}
	}
	return false
}

// sendCanary has an unsigned image pulled.
func sendCanary(ctx context.Context, n *node) Finding {
	here, err := n.tree.Path(n.listen())
	if err != nil {
		return fail("see the finding about the socket", "no canary can be sent: %v", err)
	}
	records, err := n.tree.Path(n.config.Audit.Dir)
	if err != nil {
		return fail("see the finding about the audit log", "no canary can be sent: %v", err)
	}
	r, err := canary.Pull(ctx, canary.Options{Socket: here, AuditDir: records, Namespace: n.Namespace})
	if err != nil {
		return fail("see the other findings", "%v", err)
	}
	switch r.Outcome {
	case canary.Refused:
		if r.Record == nil {
			return warn("see the finding about the audit log", "an unsigned image: %s", r.Why)
		}
		return good("an unsigned image was refused: %s", r.Why)
	case canary.Recorded:
		if n.faulty == nil && n.config.Mode == config.Enforce && (n.status == nil || n.status.BreakGlass == nil) {
			return fail("systemctl restart "+systemd.Service+", and see the finding about the mode", "the settings say enforce, and an unsigned image was pulled although policy refuses it: %s", r.Why)
		}
		return warn("to have it refused: mode: enforce", "an unsigned image was pulled, as nothing is refused now: %s", r.Why)
	case canary.Allowed:
		return warn("if that is not meant: a policy that matches every image, policies.noMatch: deny, and no static pass", "an unsigned image was pulled because this node's rules allow it: %s", r.Why)
	case canary.Undecided:
		return fail("see the findings about policies, references and registries", "an unsigned image was not judged: %s", r.Why)
	}
	return fail("see the findings socket and audit", "AN UNSIGNED IMAGE WAS PULLED AND NOBODY JUDGED IT: %s", r.Why)
}
