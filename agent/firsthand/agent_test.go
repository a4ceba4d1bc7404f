package firsthand

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cosentry/cosentry/agent/host"
	"github.com/cosentry/cosentry/agent/twin"
)

// TestHelperForges is another user's process, which says what would be good to hear, or bad.
func TestHelperForges(t *testing.T) {
	text, forged := os.LookupEnv("FORGED")
	if !forged {
		return
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if os.Getenv("UNREADY") != "" {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
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
	root, err := os.MkdirTemp("", "h") // short: a socket's path may have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	file := filepath.Join(root, host.ConfigFile)
	for _, dir := range []string{filepath.Join(root, "cluster"), filepath.Join(root, "run"), filepath.Dir(file)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	settings = "apiVersion: cosentry.dev/v1alpha1\nkind: NodeConfig\nlisten: /run/cri.sock\nclusterPolicies: {dir: /cluster}\n" + settings
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

// agentOn serves as the agent of a host.
func agentOn(t *testing.T, root string, h http.Handler) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(root, "run", "agent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	server.Start()
	t.Cleanup(server.Close)
}

// Anyone on the node can listen on the agent's loopback address, root of a container in the host's network among them, while the agent
// is down or before it ever was there, and say that it is ready, or that it is not.
func TestAgentIsNotAskedWhereStrangersCanBe(t *testing.T) {
	for name, who := range map[string]*syscall.SysProcAttr{"another user": twin.Nobody(), "root of a container": nil} {
		t.Run(name, func(t *testing.T) {
			_, address := twin.Start(t, "TestHelperForges", who, "FORGED=cosentry_policies 3\n")
			root := hostWith(t, "http: {address: \""+address+"\"}\n")
			text, err := Agent{root}.Metrics(t.Context())
			for what, err := range map[string]error{"metrics": err, "ready": Agent{root}.Ready(t.Context()), "proof": Proofs{Root: root}.Ready(t.Context())} {
				if err == nil || !strings.Contains(err.Error(), "no agent answers") {
					t.Errorf("%s by the word of a stranger: %v", what, err)
				}
			}
			if len(text) > 0 {
				t.Errorf("a stranger's word: %s", text)
			}
			_, address = twin.Start(t, "TestHelperForges", who, "FORGED=", "UNREADY=1")
			root = hostWith(t, "http: {address: \""+address+"\"}\n")
			agentOn(t, root, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("cosentry_policies 4\n")) }))
			if text, err := (Agent{root}).Metrics(t.Context()); err != nil || string(text) != "cosentry_policies 4\n" {
				t.Errorf("%q, %v", text, err)
			}
			if err := (Proofs{Root: root}).Ready(t.Context()); err != nil {
				t.Errorf("a stranger keeps an installation from proving itself: %v", err)
			}
		})
	}
}

// Not even the agent may send supervise elsewhere.
func TestAgentIsNotReadyByARedirect(t *testing.T) {
	root := hostWith(t, "")
	agentOn(t, root, http.RedirectHandler("/elsewhere", http.StatusFound))
	for what, err := range map[string]error{"ready": Agent{root}.Ready(t.Context()), "proof": Proofs{Root: root}.Ready(t.Context())} {
		if err == nil || !strings.Contains(err.Error(), "302") {
			t.Errorf("%s by a redirect: %v", what, err)
		}
	}
}

// Without http.address the agent is asked like any other, and says why it is not ready.
func TestAgentWithoutAnAddressIsAskedAsWell(t *testing.T) {
	root := hostWith(t, "http: {address: \"\"}\n")
	if err := (Proofs{Root: root}).Ready(t.Context()); err == nil {
		t.Error("ready without an agent")
	}
	agentOn(t, root, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" {
			http.Error(w, "no policies are in force", http.StatusServiceUnavailable)
		}
	}))
	if err := (Proofs{Root: root}).Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "no policies") {
		t.Errorf("%v", err)
	}
	if _, err := (Agent{root}).Metrics(t.Context()); err != nil {
		t.Error(err)
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
