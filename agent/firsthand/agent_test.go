package firsthand

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/cosentry/cosentry/agent/host"
	"github.com/cosentry/cosentry/agent/twin"
)

// TestHelperForges is another user's process, which says what would be good to hear.
func TestHelperForges(t *testing.T) {
	text := os.Getenv("FORGED")
	if text == "" {
		return
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" && os.Getenv("REDIRECT") != "" {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
			return
		}
		_, _ = w.Write([]byte(text))
	}))
	defer server.Close()
	twin.Tell(strings.TrimPrefix(server.URL, "http://"))
}

// hostWith is a host's root with these settings and a folder of the cluster's documents.
func hostWith(t *testing.T, settings string) (root string) {
	t.Helper()
	root = t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "cluster"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, host.ConfigFile)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	settings = "apiVersion: cosentry.dev/v1alpha1\nkind: NodeConfig\nclusterPolicies: {dir: /cluster}\n" + settings
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

// While the agent is down anyone on the node can listen where it would, and say that it is ready.
func TestAgentIsNotReadyByTheWordOfAStranger(t *testing.T) {
	_, address := twin.Start(t, "TestHelperForges", twin.Nobody(), "FORGED=cosentry_policies 3\n")
	root := hostWith(t, "http: {address: \""+address+"\"}\n")
	text, err := Agent{root}.Metrics(t.Context())
	for what, err := range map[string]error{"metrics": err, "ready": Agent{root}.Ready(t.Context()), "proof": Proofs{Root: root}.Ready(t.Context())} {
		if err == nil || !strings.Contains(err.Error(), "user 65534") {
			t.Errorf("%s by the word of user 65534: %v", what, err)
		}
	}
	if len(text) > 0 {
		t.Errorf("a stranger's word: %s", text)
	}
	_, address = twin.Start(t, "TestHelperForges", nil, "FORGED=cosentry_policies 3\n")
	root = hostWith(t, "http: {address: \""+address+"\"}\n")
	if text, err := (Agent{root}).Metrics(t.Context()); err != nil || string(text) != "cosentry_policies 3\n" {
		t.Errorf("%q, %v", text, err)
	}
	if err := (Proofs{Root: root}).Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

// Not even the agent's own address may send supervise elsewhere.
func TestAgentIsNotReadyByARedirect(t *testing.T) {
	_, address := twin.Start(t, "TestHelperForges", nil, "FORGED=ok", "REDIRECT=1")
	root := hostWith(t, "http: {address: \""+address+"\"}\n")
	for what, err := range map[string]error{"ready": Agent{root}.Ready(t.Context()), "proof": Proofs{Root: root}.Ready(t.Context())} {
		if err == nil || !strings.Contains(err.Error(), "302") {
			t.Errorf("%s by a redirect: %v", what, err)
		}
	}
}

// Empty is a good setting: an installation does without, and supervise asks on the agent's socket.
func TestAgentWithoutHTTPIsReadyByItsSocket(t *testing.T) {
	root := hostWith(t, "http: {address: \"\"}\nlisten: /run/a.sock\n")
	if _, err := (Agent{root}).Metrics(t.Context()); !errors.Is(err, ErrNoAddress) {
		t.Errorf("metrics: %v", err)
	}
	if err := (Proofs{Root: root}).Ready(t.Context()); err != nil {
		t.Errorf("an installation asks for what was not set up: %v", err)
	}
	if err := (Agent{root}).Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "a.sock") {
		t.Errorf("no socket: %v", err)
	}
	socket := filepath.Join(root, "run", "a.sock")
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	answering := grpc.NewServer()
	go func() { _ = answering.Serve(l) }()
	t.Cleanup(answering.Stop)
	if err := (Agent{root}).Ready(t.Context()); err != nil {
		t.Errorf("it answers on its socket: %v", err)
	}
}

// Who listens on sync's address is believed only if it is whoever may write what the cluster says.
func TestSyncIsTheUserWhoseFolderItIs(t *testing.T) {
	_, address := twin.Start(t, "TestHelperForges", twin.Nobody(), "FORGED=cosentry_sync_broken 1\n")
	root := hostWith(t, "")
	if text, asked, err := (Sync{root, address}).Metrics(t.Context()); !asked || err == nil || len(text) > 0 {
		t.Errorf("by the word of a user whose folder it is not: %q, %v, %v", text, asked, err)
	}
	folder := filepath.Join(root, "cluster")
	if err := os.Chown(folder, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if text, asked, err := (Sync{root, address}).Metrics(t.Context()); !asked || err != nil || string(text) != "cosentry_sync_broken 1\n" {
		t.Errorf("by the word of sync's user: %q, %v, %v", text, asked, err)
	}
	if _, asked, err := (Sync{root, ""}).Metrics(t.Context()); asked || err != nil {
		t.Errorf("it is asked at no address: %v", err)
	}
	if err := os.Remove(folder); err != nil {
		t.Fatal(err)
	}
	if _, asked, err := (Sync{root, address}).Metrics(t.Context()); !asked || err == nil {
		t.Errorf("it is nobody's folder: %v, %v", asked, err)
	}
}
