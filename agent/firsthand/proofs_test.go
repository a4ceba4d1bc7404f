package firsthand

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/canary"
	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/host"
	"github.com/cosentry/cosentry/agent/host/peers"
	"github.com/cosentry/cosentry/agent/twin"
)

// TestOnlyKubeletCountsAsKubelet: another process, such as one in the control group of kubelet's unit, proves nothing by being connected.
func TestOnlyKubeletCountsAsKubelet(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	seen, err := peers.Inspect(t.Context(), "/", socket)
	if err != nil || len(seen.Clients) == 0 {
		t.Fatalf("clients %v, %v", seen.Clients, err)
	}
	if yes, err := (Proofs{Root: "/"}).Connected(t.Context(), socket, seen.Clients[0].Unit); err != nil || yes {
		t.Errorf("this test is held to be kubelet: %v, %v", yes, err)
	}
}

// Anyone can take kubelet's address while it is down. Nobody but root says that it is well, or that it is not; with anybody else there,
// or nobody, it cannot be told.
func TestKubeletsHealthIsTheWordOfRootAlone(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := free.Addr().String()
	free.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	_, praising := twin.Start(t, "TestHelperForges", twin.Nobody(), "FORGED=ok")
	_, slandering := twin.Start(t, "TestHelperForges", twin.Nobody(), "FORGED=", "UNREADY=1")
	_, well := twin.Start(t, "TestHelperForges", nil, "FORGED=ok")
	_, unwell := twin.Start(t, "TestHelperForges", nil, "FORGED=", "UNREADY=1")
	for name, c := range map[string]struct{ address, want string }{
		"a stranger who praises":  {praising, "user 65534"},
		"a stranger who slanders": {slandering, "user 65534"},
		"nobody":                  {nobody, "connection refused"},
		"one who is silent":       {silent.Addr().String(), "deadline exceeded"},
	} {
		ctx, cancel := t.Context(), context.CancelFunc(func() {})
		if c.address == silent.Addr().String() {
			ctx, cancel = context.WithTimeout(ctx, 300*time.Millisecond) // nobody wants to wait for the real one
		}
		if err := (Proofs{Healthz: "http://" + c.address + "/healthz"}).Healthy(ctx); !errors.Is(err, host.ErrUntold) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	if err := (Proofs{Healthz: "http://" + well + "/healthz"}).Healthy(t.Context()); err != nil {
		t.Error(err)
	}
	if err := (Proofs{Healthz: "http://" + unwell + "/healthz"}).Healthy(t.Context()); err == nil || errors.Is(err, host.ErrUntold) || !strings.Contains(err.Error(), "not well") {
		t.Errorf("root says that it is not well: %v", err)
	}
}

// An installation stays only where an unsigned image came before the agent, and was let through for no other reason than that the node
// is told to.
func TestUnsignedImageIsLetThroughOnlyWhereTheNodeIsToldTo(t *testing.T) {
	record := func(mode string) *audit.Record { return &audit.Record{Mode: mode} }
	for name, c := range map[string]struct {
		result canary.Result
		mode   config.Mode
		want   string // of the error; empty: it is proved
	}{
		"refused":                            {canary.Result{Outcome: canary.Refused, Answer: "refused"}, config.Enforce, ""},
		"observed":                           {canary.Result{Outcome: canary.Recorded, Record: record(audit.ModeObserve)}, config.Observe, ""},
		"root opened the node for a while":   {canary.Result{Outcome: canary.Recorded, Record: record(audit.ModeBreakGlass)}, config.Enforce, ""},
		"the node's own rules allow it":      {canary.Result{Outcome: canary.Allowed, Record: record(audit.ModeEnforce)}, config.Enforce, ""},
		"undecided and kept out":             {canary.Result{Outcome: canary.Undecided, Answer: "unavailable"}, config.Enforce, ""},
		"undecided, and observed":            {canary.Result{Outcome: canary.Undecided}, config.Observe, ""},
		"observed where enforce was wanted":  {canary.Result{Outcome: canary.Recorded, Record: record(audit.ModeObserve)}, config.Enforce, "the settings say enforce"},
		"undecided and let through":          {canary.Result{Outcome: canary.Undecided}, config.Enforce, "could not be judged"},
		"past the agent":                     {canary.Result{Outcome: canary.Unseen}, config.Enforce, "did not see it"},
		"past the agent of an observed node": {canary.Result{Outcome: canary.Unseen}, config.Observe, "did not see it"},
		"nothing is known":                   {canary.Result{}, config.Observe, "did not see it"},
	} {
		t.Run(name, func(t *testing.T) {
			err := judged(c.result, c.mode)
			if c.want == "" && err != nil {
				t.Error(err)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v; want %q", err, c.want)
			}
		})
	}
}

// Settings that cannot be read prove nothing, and least of all that there is no agent to ask.
func TestNothingIsProvedWithoutSettings(t *testing.T) {
	p := Proofs{Root: t.TempDir()}
	if err := p.Ready(t.Context()); err == nil {
		t.Error("ready without settings")
	}
	if err := p.Canary(t.Context(), filepath.Join(p.Root, "s")); err == nil {
		t.Error("images are judged without settings")
	}
}
