package evidence

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxDockerConfig bounds the node's docker config: it is the owner's own file, and still no reason to read a
// device or a log by mistake.
const maxDockerConfig = 1 << 20

// nodeCredentials are those of the node's docker config, by kubelet's rules for which of them are for which image.
// Credential helpers and the keychains of clouds are not supported: they are code that runs, and one of them has
// sent tokens to look-alike hosts.
type nodeCredentials struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	size    int64
	changed time.Time
	entries []nodeEntry
	trouble trouble
}

func newNodeCredentials(path string, log *slog.Logger) *nodeCredentials {
	return &nodeCredentials{path: path, log: log, trouble: trouble{now: time.Now}}
}

// nodeEntry is one entry of auths.
type nodeEntry struct {
	host, path  string
	credentials Credentials
}

// lookup gives the credentials for a repository, the most specific entry first.
func (n *nodeCredentials) lookup(host, repository string) []Credentials {
	return matching(n.current(), host, repository)
}

func matching(entries []nodeEntry, host, repository string) []Credentials {
	var out []Credentials
	for _, e := range entries {
		if e.matches(host, "/"+repository) {
			out = append(out, e.credentials)
		}
	}
	return out
}

// current reads the file again when it has changed. A file that cannot be read keeps what was read last: without
// credentials less is found, and so never more allowed.
func (n *nodeCredentials) current() []nodeEntry {
	if n.path == "" {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	switch err := n.refresh(); {
	case err != nil && n.trouble.begins():
		n.log.Warn("the node's docker config cannot be read; the last good one stays in use", "path", n.path, "error", clean(err))
	case err == nil && n.trouble.ends():
		n.log.Info("the node's docker config can be read again, or is gone", "path", n.path)
	}
	return n.entries
}

func (n *nodeCredentials) refresh() error {
	info, err := os.Stat(n.path)
	if errors.Is(err, os.ErrNotExist) {
		n.entries, n.size, n.changed = nil, 0, time.Time{}
		return nil
	}
	if err != nil || info.Size() == n.size && info.ModTime().Equal(n.changed) {
		return err
	}
	entries, err := readDockerConfig(n.path)
	if err != nil {
		return err
	}
	n.entries, n.size, n.changed = entries, info.Size(), info.ModTime()
	return nil
}

func readDockerConfig(name string) ([]nodeEntry, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxDockerConfig+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxDockerConfig {
		return nil, fmt.Errorf("larger than %d bytes", maxDockerConfig)
	}
	return parseDockerConfig(raw)
}

// dockerAuth is what a docker config says about one registry.
type dockerAuth struct {
	Auth          string `json:"auth"`
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// parseDockerConfig reads the auths of a docker config. Its errors show nothing of the file.
func parseDockerConfig(raw []byte) ([]nodeEntry, error) {
	var file struct {
		Auths map[string]dockerAuth `json:"auths"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		return nil, errors.New("not a docker config in JSON")
	}
	return nodeEntries(file.Auths), nil
}

// nodeEntries puts the most specific first.
func nodeEntries(auths map[string]dockerAuth) []nodeEntry {
	var entries []nodeEntry
	for server, auth := range auths {
		c := Credentials{Username: auth.Username, Password: auth.Password, IdentityToken: auth.IdentityToken, RegistryToken: auth.RegistryToken}
		if username, password := splitAuth(auth.Auth); username != "" || password != "" {
			c.Username, c.Password = username, password
		}
		if c.IdentityToken != "" {
			// docker writes a placeholder for the user beside an identity token.
			c.Username, c.Password = "", ""
		}
		if e, ok := newNodeEntry(server, c); ok && !c.IsZero() {
			entries = append(entries, e)
		}
	}
	// The longest first; then by name, so that two reads of one file give one order.
	slices.SortFunc(entries, func(a, b nodeEntry) int {
		x, y := a.host+a.path, b.host+b.path
		if len(x) != len(y) {
			return len(y) - len(x)
		}
		return strings.Compare(x, y)
	})
	return entries
}

func newNodeEntry(server string, c Credentials) (nodeEntry, bool) {
	if !strings.HasPrefix(server, "https://") && !strings.HasPrefix(server, "http://") {
		server = "https://" + server
	}
	u, err := url.Parse(server)
	if err != nil || u.Host == "" {
		return nodeEntry{}, false
	}
	p := u.Path
	for _, version := range []string{"/v1", "/v2"} {
		if p == version || strings.HasPrefix(p, version+"/") {
			p = strings.TrimPrefix(p, version)
		}
	}
	return nodeEntry{host: hubName(u.Host), path: strings.TrimSuffix(p, "/"), credentials: c}, true
}

// hubName gives docker hub one name, as it has several.
func hubName(host string) string {
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		return "docker.io"
	}
	return host
}

// matches is kubelet's rule: the same port, the same number of names in the host with a * matching within one of
// them, and a prefix of the path. Unlike kubelet's, the prefix ends where a name of the path does: what is for
// /team is not for /team-of-others.
func (e nodeEntry) matches(host, repository string) bool {
	wantName, wantPort, _ := strings.Cut(e.host, ":")
	name, port, _ := strings.Cut(hubName(host), ":")
	if wantPort != port {
		return false
	}
	want, have := strings.Split(wantName, "."), strings.Split(name, ".")
	if len(want) != len(have) {
		return false
	}
	for i := range want {
		if ok, err := path.Match(want[i], have[i]); err != nil || !ok {
			return false
		}
	}
	return e.path == "" || repository == e.path || strings.HasPrefix(repository, e.path+"/")
}
