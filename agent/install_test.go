package main

import (
	"net"
	"path/filepath"
	"testing"

	"github.com/cosentry/cosentry/agent/host/peers"
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
	if yes, err := (hostProofs{root: "/"}).Connected(t.Context(), socket, seen.Clients[0].Unit); err != nil || yes {
		t.Errorf("this test is held to be kubelet: %v, %v", yes, err)
	}
}
