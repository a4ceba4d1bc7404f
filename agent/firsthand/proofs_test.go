package firsthand

import (
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/canary"
	"github.com/cosentry/cosentry/agent/config"
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

// kubelet's health decides whether an installation stays: nobody else says that it is well.
func TestKubeletIsNotWellByTheWordOfAStranger(t *testing.T) {
	_, address := twin.Start(t, "TestHelperForges", twin.Nobody(), "FORGED=ok")
	if err := (Proofs{Healthz: "http://" + address + "/healthz"}).Healthy(t.Context()); err == nil || !strings.Contains(err.Error(), "user 65534") {
		t.Errorf("well by the word of user 65534: %v", err)
	}
	_, address = twin.Start(t, "TestHelperForges", nil, "FORGED=ok")
	if err := (Proofs{Healthz: "http://" + address + "/healthz"}).Healthy(t.Context()); err != nil {
		t.Error(err)
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
