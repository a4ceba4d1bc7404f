package harness

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// Cosentry is a `cosentry run` process with its own folder.
type Cosentry struct {
	*Process
	Socket    string // the CRI socket that it serves
	PolicyDir string
	AuditDir  string
	// EvidenceDir holds the signatures that were accepted.
	EvidenceDir string
	HTTP        string // address of /metrics, /healthz, /readyz, /status
	// TrustDir holds secrets/ and configmaps/ that policies refer to.
	TrustDir string
	dir      string
	env      []string
	tools    Tools
}

// Settings are the parts of NodeConfig that differ between tests.
type Settings struct {
	Runtime  string            // the runtime's socket
	HostsDir string            // certs.d
	Policies map[string]string // file name to content
	Trust    map[string]string // what policies refer to, by its path under the trust folder
	Mode     string            // empty is enforce
	Env      []string          // added to the process's environment
	// Edit changes the rest of the settings.
	Edit func(config map[string]any)
}

// NewCosentry writes settings and policies under dir, and starts nothing.
func NewCosentry(tools Tools, dir string, s Settings) (*Cosentry, error) {
	c := &Cosentry{
		Socket:      filepath.Join(dir, "containerd.sock"),
		PolicyDir:   filepath.Join(dir, "policies"),
		AuditDir:    filepath.Join(dir, "audit"),
		EvidenceDir: filepath.Join(dir, "evidence"),
		TrustDir:    filepath.Join(dir, "trust"),
		dir:         dir,
		env:         s.Env,
		tools:       tools,
	}
	if err := os.MkdirAll(c.PolicyDir, 0o755); err != nil {
		return nil, fmt.Errorf("preparing cosentry: %w", err)
	}
	for name, text := range s.Policies {
		if err := c.WritePolicy(name, text); err != nil {
			return nil, err
		}
	}
	for name, text := range s.Trust {
		if err := c.WriteTrust(name, text); err != nil {
			return nil, err
		}
	}
	var err error
	if c.HTTP, err = freeAddress(); err != nil {
		return nil, err
	}
	mode := s.Mode
	if mode == "" {
		mode = "enforce"
	}
	config := map[string]any{
		"apiVersion": "cosentry.dev/v1alpha1",
		"kind":       "NodeConfig",
		"mode":       mode,
		"node":       "test-node",
		"listen":     c.Socket,
		"runtime":    map[string]any{"endpoint": s.Runtime},
		"policies":   map[string]any{"dir": c.PolicyDir},
		"namespaces": map[string]any{"file": c.namespaces()},
		"trust":      map[string]any{"dir": c.TrustDir, "cacheDir": filepath.Join(dir, "trustcache"), "updatePublicGood": false},
		"registry":   map[string]any{"hostsDir": s.HostsDir, "dockerConfig": filepath.Join(dir, "docker.json")},
		"evidence":   map[string]any{"dir": c.EvidenceDir},
		"audit":      map[string]any{"dir": c.AuditDir},
		"http":       map[string]any{"address": c.HTTP},
		"log":        map[string]any{"format": "text", "level": "debug"},
	}
	if s.Edit != nil {
		s.Edit(config)
	}
	text, err := yaml.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("writing cosentry's settings: %w", err)
	}
	if err := os.WriteFile(c.Config(), text, 0o600); err != nil {
		return nil, fmt.Errorf("writing cosentry's settings: %w", err)
	}
	return c, nil
}

// Config is the settings file's path.
func (c *Cosentry) Config() string { return filepath.Join(c.dir, "config.yaml") }

// WritePolicy puts a policy file in place. Empty text removes the file.
func (c *Cosentry) WritePolicy(name, text string) error {
	path := filepath.Join(c.PolicyDir, name)
	if text == "" {
		return os.Remove(path)
	}
	return c.write(path, text)
}

// WriteTrust puts a file in place that policies refer to, such as
// secrets/<namespace>/<name>/<key>.
func (c *Cosentry) WriteTrust(name, text string) error {
	return c.write(filepath.Join(c.TrustDir, name), text)
}

// WriteNamespaces puts the file in place that tells the namespaces' labels.
func (c *Cosentry) WriteNamespaces(text string) error { return c.write(c.namespaces(), text) }

func (c *Cosentry) namespaces() string { return filepath.Join(c.dir, "namespaces.yaml") }

// write replaces a file in one step, as an owner's tools would.
func (c *Cosentry) write(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	scratch := filepath.Join(c.dir, filepath.Base(path)+".new")
	if err := os.WriteFile(scratch, []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(scratch, path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// Start starts `cosentry run` and waits until it accepts connections.
func (c *Cosentry) Start() error {
	var err error
	c.Process, err = StartProcess(c.dir, "cosentry", c.tools.Cosentry, c.env, "run", "--config", c.Config())
	if err != nil {
		return err
	}
	return c.WaitReady(15*time.Second, func() bool {
		conn, err := net.Dial("unix", c.Socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// Command runs another subcommand of cosentry with the same settings, and
// returns what it printed and its exit code.
func (c *Cosentry) Command(ctx context.Context, args ...string) (output string, code int, err error) {
	cmd := exec.CommandContext(ctx, c.tools.Cosentry, args...)
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		return "", -1, fmt.Errorf("running cosentry %s: %w", strings.Join(args, " "), err)
	}
	return string(text), cmd.ProcessState.ExitCode(), nil
}

// Get asks the HTTP address for a path.
func (c *Cosentry) Get(path string) (string, int, error) {
	resp, err := http.Get("http://" + c.HTTP + path)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	return string(body), resp.StatusCode, err
}

// Records are the audit log's records, oldest first.
func (c *Cosentry) Records() ([]map[string]any, error) {
	files, err := filepath.Glob(filepath.Join(c.AuditDir, "*.jsonl"))
	if err != nil {
		return nil, err
	}
	var records []map[string]any
	for _, path := range files {
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("reading the audit log: %w", err)
		}
		defer file.Close()
		scanner := bufio.NewScanner(file)
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			record := map[string]any{}
			if err := json.Unmarshal(scanner.Bytes(), &record); err != nil {
				return nil, fmt.Errorf("reading %s: %w", path, err)
			}
			records = append(records, record)
		}
		if err := scanner.Err(); err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
	}
	return records, nil
}

// KeyPolicy is a ClusterImagePolicy that asks for a signature by the key named
// release-key, on images that the glob matches.
func KeyPolicy(name, glob, publicPEM string) string {
	indented := strings.ReplaceAll(strings.TrimSpace(publicPEM), "\n", "\n          ")
	return fmt.Sprintf(`apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata:
  name: %s
spec:
  images:
    - glob: %q
  authorities:
    - name: release-key
      key:
        data: |
          %s
`, name, glob, indented)
}

func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("looking for a free port: %w", err)
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}
