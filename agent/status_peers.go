package main

import (
	"os"
	"time"

	"github.com/cosentry/cosentry/agent/host/peers"
	"github.com/cosentry/cosentry/agent/sight"
)

// peersStatus tells who is connected to the agent's socket. The agent itself is now and then, to see whether it answers.
func (a *agent) peersStatus() sight.Peers {
	all, more := a.proxy.Peers()
	told := sight.Peers{More: more}
	for _, p := range all {
		if p.PID == os.Getpid() {
			continue
		}
		peer := sight.Peer{PID: p.PID, UID: p.UID, Since: p.Since}
		if process, err := peers.LookSince(peers.Proc(""), p.PID, time.Since(p.Since)); err == nil {
			peer.Name, peer.Unit, peer.Pod = process.Name, process.Unit, process.Pod
			// Both who connected and who has the number now.
			peer.Kubelet = p.UID == 0 && process.IsKubelet()
			peer.Like = !peer.Kubelet && process.MayBeKubelet()
		}
		told.Kubelet = told.Kubelet || peer.Kubelet
		told.Clients = append(told.Clients, peer)
	}
	return told
}

// maxPeerRows bounds the rows of clients; -o json has them all.
const maxPeerRows = 8

// peerRows says first whether kubelet comes through this socket, and then who else does, a row for each process.
func peerRows(p sight.Peers, now time.Time, row rower) {
	type key struct {
		pid  int
		name string
	}
	var order []key
	times := map[key]int{}
	first := map[key]sight.Peer{}
	for _, c := range p.Clients {
		k := key{c.PID, c.Name}
		if times[k]++; times[k] == 1 {
			order, first[k] = append(order, k), c
		}
	}
	if !p.Kubelet {
		row("KUBELET", "IS NOT CONNECTED to this socket; where it goes instead: cosentry doctor")
	}
	shown := 0
	for _, k := range order {
		c := first[k]
		if shown++; shown > maxPeerRows && !c.Kubelet {
			continue
		}
		title := "client"
		if c.Kubelet {
			title = "kubelet"
		}
		word := "connections"
		if times[k] == 1 {
			word = "connection"
		}
		row(title, "%s, %d %s since %s (%s)", who(c), times[k], word, c.Since.Format(time.RFC3339), inDays(now.Sub(c.Since)))
	}
	if more := len(order) - maxPeerRows; more > 0 {
		row("", "and about %d more clients; see: cosentry status -o json", more)
	}
	if p.More > 0 {
		row("", "and %d connections that are only counted", p.More)
	}
}

// who names a client.
func who(c sight.Peer) string {
	switch {
	case c.PID == 0:
		return "a process in another PID namespace"
	case c.Name == "":
		return (peers.Process{PID: c.PID, UID: c.UID, Name: "?"}).String() + " that has ended since"
	}
	text := (peers.Process{PID: c.PID, UID: c.UID, Name: c.Name, Unit: c.Unit, Pod: c.Pod}).String()
	if c.Like {
		text += ", which looks like kubelet and is not in kubelet's unit"
	}
	return text
}
