package main

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/criproxy/critest"
)

func TestStatusOfPeers(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	since := now.Add(-time.Hour)
	kubelet := sight.Peer{PID: 7, Since: since, Name: "kubelet", Unit: "kubelet.service", Kubelet: true}
	for name, tc := range map[string]struct {
		p    sight.Peers
		want string
	}{
		"kubelet and no other": {sight.Peers{Kubelet: true, Clients: []sight.Peer{kubelet, kubelet}},
			"kubelet|\"kubelet\" (process 7 of user 0, kubelet.service), 2 connections since 2026-03-01T11:00:00Z (1h0m0s)\n"},
		"nobody": {sight.Peers{}, "KUBELET|IS NOT CONNECTED to this socket; where it goes instead: cosentry doctor\n"},
		"another that calls itself kubelet": {sight.Peers{Clients: []sight.Peer{{PID: 8, Since: since, Name: "kubelet", Unit: "session-1.scope", Like: true}}},
			"KUBELET|IS NOT CONNECTED to this socket; where it goes instead: cosentry doctor\n" +
				"client|\"kubelet\" (process 8 of user 0, session-1.scope), which looks like kubelet and is not in kubelet's unit, 1 connection since 2026-03-01T11:00:00Z (1h0m0s)\n"},
		"a pod": {sight.Peers{Kubelet: true, Clients: []sight.Peer{kubelet, {PID: 9, Since: since, Name: "kubelet", Pod: true}}},
			"kubelet|\"kubelet\" (process 7 of user 0, kubelet.service), 1 connection since 2026-03-01T11:00:00Z (1h0m0s)\n" +
				"client|\"kubelet\" (process 9 of user 0, in a pod), 1 connection since 2026-03-01T11:00:00Z (1h0m0s)\n"},
		"one that has ended, and one that is not seen": {sight.Peers{Kubelet: true, More: 3, Clients: []sight.Peer{kubelet, {PID: 5, Since: since}, {Since: since}}},
			"kubelet|\"kubelet\" (process 7 of user 0, kubelet.service), 1 connection since 2026-03-01T11:00:00Z (1h0m0s)\n" +
				"client|\"?\" (process 5 of user 0, in no unit) that has ended since, 1 connection since 2026-03-01T11:00:00Z (1h0m0s)\n" +
				"client|a process in another PID namespace, 1 connection since 2026-03-01T11:00:00Z (1h0m0s)\n" +
				"|and 3 connections that are only counted\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, rows(func(row rower) { peerRows(tc.p, now, row) })); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	// A crowd does not push kubelet out.
	crowd := sight.Peers{Kubelet: true}
	for pid := range 100 {
		crowd.Clients = append(crowd.Clients, sight.Peer{PID: 100 + pid, Name: "x", Since: since})
	}
	crowd.Clients = append(crowd.Clients, kubelet)
	if text := rows(func(row rower) { peerRows(crowd, now, row) }); !strings.Contains(text, "kubelet|") || strings.Count(text, "\n") > maxPeerRows+2 {
		t.Errorf("a crowd:\n%s", text)
	}
}

func TestStatusOfLastRefusal(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for want, r := range map[string]*sight.Refusal{
		"last refusal|none\n": nil,
		"last refusal|2026-03-01T12:00:00Z, pull of a/b:1 in shop/web: refused: nobody signed it\n":             {Time: at, Action: "pull", Decision: "deny", Mode: "enforce", Image: "a/b:1", Namespace: "shop", Pod: "web", Reason: "nobody signed it"},
		"last refusal|2026-03-01T12:00:00Z, create of a/b:1: would be refused: no policy matches\n":             {Time: at, Action: "create", Decision: "deny", Mode: "observe", Image: "a/b:1", Reason: "no policy matches"},
		"last refusal|2026-03-01T12:00:00Z, pull of a/b:1: could not be judged: the registry does not answer\n": {Time: at, Action: "pull", Decision: "error", Mode: "enforce", Image: "a/b:1", Reason: "the registry does not answer"},
	} {
		if diff := cmp.Diff(want, rows(func(row rower) { refusalRow(r, row) })); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
}

// The log is what decides: what it says of a record is what its caller hears, and what is remembered changes nothing in it.
func TestRefusalsAreRememberedOnTheirWay(t *testing.T) {
	dir := t.TempDir()
	log, err := audit.Open(audit.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	r := &refusals{to: log}
	for _, rec := range []audit.Record{
		{Action: audit.ActionPull, Decision: audit.DecisionDeny, Image: "first", Mode: "enforce"},
		{Action: audit.ActionPull, Decision: audit.DecisionError, Image: "second", Reason: strings.Repeat("x", 5000)},
		{Action: audit.ActionPull, Decision: audit.DecisionAllow, Image: "third"},
		{Action: audit.ActionPull, Decision: audit.DecisionWarn, Image: "fourth"},
		{Action: audit.ActionAudit, Decision: audit.DecisionError, Image: "the log's own"},
	} {
		if err := r.Append(rec); err != nil {
			t.Fatal(err)
		}
	}
	if last := r.last(); last.Image != "second" || len(last.Reason) > maxRefusal || last.Time.IsZero() {
		t.Errorf("%+v", last)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	// After a restart it is found again, and gives way to what was decided meanwhile.
	again := &refusals{to: log}
	again.recall(context.Background(), dir)
	if last := again.last(); last == nil || last.Image != "second" {
		t.Errorf("after a restart: %+v", last)
	}
	busy := &refusals{to: log}
	busy.remember(audit.Record{Time: time.Now().Add(time.Hour), Image: "live"}, true)
	busy.recall(context.Background(), dir)
	if last := busy.last(); last.Image != "live" {
		t.Errorf("what is new is forgotten for what is old: %+v", last)
	}
}

// A canary is refused because all is well. A pod whose image is named like one is no canary.
func TestACanaryIsNotTheLastRefusal(t *testing.T) {
	r := &refusals{to: nowhere{}}
	rec := audit.Record{Action: audit.ActionPull, Decision: audit.DecisionDeny, Image: "127.0.0.1:40123/cosentry-canary/" + strings.Repeat("a", 32) + "@sha256:" + strings.Repeat("0", 64)}
	if err := r.Append(rec); err != nil || r.last() != nil {
		t.Errorf("a canary is shown as a refusal: %+v, %v", r.last(), err)
	}
	rec.Pod = audit.Pod{Namespace: "shop", Name: "web", UID: "u"}
	if err := r.Append(rec); err != nil || r.last() == nil {
		t.Errorf("a pod's image is hidden by its name: %v", err)
	}
}

type nowhere struct{}

func (nowhere) Append(audit.Record) error { return nil }

// TestPeersOfARunningAgent: this test's process is a client by its number, and is not kubelet whatever it is called.
func TestPeersOfARunningAgent(t *testing.T) {
	p := newProcess(t, "")
	write(t, p.dir+"/policies/a.yaml", static("shut", "**", "fail"))
	critest.Serve(t, p.dir+"/r.sock", critest.NewRuntime(0))
	p.start(t)
	p.eventually(t, "the runtime answers", func() bool { return callVersion(t, p.socket) == nil })
	conn := critest.Dial(t, p.socket)
	conn.Connect()
	var found sight.Peer
	p.eventually(t, "this process is a client", func() bool {
		for _, c := range p.status(t).Peers.Clients {
			if c.PID == os.Getpid() {
				found = c
				return true
			}
		}
		return false
	})
	if s := p.status(t).Peers; s.Kubelet || found.Kubelet || found.UID != os.Getuid() || found.Name == "" {
		t.Errorf("%+v", s)
	}
	if out, _, _ := command(t, "status", "--config", p.dir+"/config.yaml"); !strings.Contains(out, "IS NOT CONNECTED") || !strings.Contains(out, "last refusal") {
		t.Errorf("%s", out)
	}
	p.stop(t)
}
