package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cosentry/cosentry/agent/audit"
)

// permissions looks for files by which somebody who is not root could decide what runs: a policy, a setting, the program.
func permissions(_ context.Context, n *node) Finding {
	places := []string{n.Settings, n.config.Policies.Dir, n.config.Trust.Dir, path.Dir(n.listen()), n.config.Audit.Dir}
	if n.state != nil && n.state.Agent.Path != "" {
		places = append(places, n.state.Agent.Path)
	}
	if list, err := n.tree.List(n.config.Policies.Dir); err == nil {
		for _, e := range list {
			places = append(places, path.Join(n.config.Policies.Dir, e.Name()))
		}
	}
	seen := map[string]bool{}
	var open []string
	for _, p := range places {
		// Whoever can write to a folder above can put another in its place.
		for ; p != "" && p != "." && !seen[p]; p = path.Dir(p) {
			seen[p] = true
			if why := n.tree.Writable(p); why != "" {
				open = append(open, p+" "+why)
			}
		}
	}
	if len(open) > 0 {
		return fail("chown root: and chmod go-w what is named", "not root alone can write: %s", strings.Join(open, ", "))
	}
	return good("only root can write settings, policies and program")
}

// clock compares the time with what is known for certain: it is later than this program was built and than the audit log's last
// record. Signatures, certificates and trust roots are judged by it.
func clock(ctx context.Context, n *node) Finding {
	const mend = "set the clock (timedatectl) and have it kept by chrony or systemd-timesyncd"
	now := n.now()
	if built := n.Built; now.Before(built.Add(-time.Hour)) {
		return fail(mend, "it is said to be %s, and this program was built from a commit of %s", now.Format(time.RFC3339), built.Format(time.RFC3339))
	}
	if last := n.lastRecord(ctx); now.Before(last.Add(-time.Minute)) {
		return fail(mend, "it is said to be %s, and the last audit record is of %s", now.Format(time.RFC3339), last.Format(time.RFC3339))
	}
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	switch {
	case err != nil:
		return warn("run this as root on the node", "the kernel cannot be asked for its clock's state: %v", err)
	case state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0:
		return warn(mend, "the kernel says that nobody keeps its clock right; it says %s", now.Format(time.RFC3339))
	}
	return good("%s, kept right", now.Format(time.RFC3339))
}

// lastRecord is when the last audit record was written; zero if there is none.
func (n *node) lastRecord(ctx context.Context) (last time.Time) {
	dir, err := n.tree.Path(n.config.Audit.Dir)
	if err != nil {
		return last
	}
	for entry, err := range audit.Read(ctx, dir, audit.ReadOptions{Last: 1}) {
		if err == nil {
			last = entry.Time
		}
	}
	return last
}

func auditLog(_ context.Context, n *node) Finding {
	if n.status != nil && n.status.Audit.Fault != "" {
		if n.status.Audit.Required {
			return fail("see to "+n.config.Audit.Dir, "records cannot be written, and audit.required is set, so nothing new starts: %s", n.status.Audit.Fault)
		}
		return fail("see to "+n.config.Audit.Dir, "records are not being written, %d wait in memory: %s", n.status.Audit.Queued, n.status.Audit.Fault)
	}
	dir, err := n.tree.Path(n.config.Audit.Dir)
	if err != nil {
		return warn(asRoot, "the audit log in %s cannot be looked at: %v", n.config.Audit.Dir, why(err))
	}
	r, err := audit.VerifyDir(dir)
	var broken *audit.BrokenError
	switch {
	case errors.As(err, &broken):
		return fail("find out who was at it: cosentry audit verify; keep a copy of "+n.config.Audit.Dir, "%v", err)
	case errors.Is(err, fs.ErrNotExist):
		return warn("start a pod, or cosentry doctor --canary, which is recorded, and look again; if it stays: journalctl -u cosentry.service",
			"there is no audit log in %s yet: nothing was decided", n.config.Audit.Dir)
	case err != nil:
		return warn("run this as root", "%v", err)
	case r.Lost > 0:
		return warn("the agent's own log has them: journalctl -u cosentry.service", "%d records could not be written", r.Lost)
	case n.status != nil && n.status.Audit.Sequence > r.Head.Seq:
		return fail("find out who was at it: cosentry audit verify", "the agent has written %d records and the log ends at %d", n.status.Audit.Sequence, r.Head.Seq)
	}
	return good("%d records, chain whole, head %s", r.Records, r.Head)
}

// minRoom is how many bytes must be left where the agent writes.
const minRoom = 64 << 20

func disk(_ context.Context, n *node) Finding {
	var short []string
	for _, dir := range []string{n.config.Audit.Dir, n.config.Evidence.Dir, n.config.Trust.CacheDir} {
		here, err := n.tree.Path(dir)
		var st unix.Statfs_t
		if dir == "" || err != nil || unix.Statfs(here, &st) != nil {
			continue
		}
		if free := int64(st.Bavail) * st.Bsize; free < minRoom {
			short = append(short, fmt.Sprintf("%s has %d MiB left", dir, free>>20))
		} else if st.Files > 0 && st.Ffree < 100 {
			short = append(short, fmt.Sprintf("%s has %d files left", dir, st.Ffree))
		} else if st.Flags&unix.ST_RDONLY != 0 {
			short = append(short, dir+" is read-only")
		}
	}
	if len(short) > 0 {
		return warn("make room", "%s", strings.Join(short, ", "))
	}
	return good("there is room where the agent writes")
}
