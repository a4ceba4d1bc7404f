// Package config reads the node's settings: one YAML document of kind NodeConfig,
// apiVersion cosentry.dev/v1alpha1.
//
// Reading is strict. An unknown or repeated key, a value of the wrong type and a
// value out of bounds are errors that name the line or the field; nothing is ignored,
// because a setting that silently does nothing is the worst kind of lock. Every
// setting has a default, and the defaults work on a node that runs containerd.
// docs/settings.md lists them all; a test keeps it true.
package config

import (
	"os"
	"path/filepath"
	"time"
)

// What a settings document says of itself.
const (
	APIVersion = "cosentry.dev/v1alpha1"
	Kind       = "NodeConfig"
)

// Config is a node's settings.
type Config struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`

	Mode            Mode            `yaml:"mode"`
	Node            string          `yaml:"node"`
	Listen          string          `yaml:"listen"`
	Runtime         Runtime         `yaml:"runtime"`
	Policies        Policies        `yaml:"policies"`
	ClusterPolicies ClusterPolicies `yaml:"clusterPolicies"`
	Namespaces      Namespaces      `yaml:"namespaces"`
	Sandbox         Sandbox         `yaml:"sandbox"`
	Trust           Trust           `yaml:"trust"`
	Verification    Verification    `yaml:"verification"`
	Cache           Cache           `yaml:"cache"`
	Registry        Registry        `yaml:"registry"`
	Evidence        Evidence        `yaml:"evidence"`
	Audit           Audit           `yaml:"audit"`
	HTTP            HTTP            `yaml:"http"`
	Log             Log             `yaml:"log"`
}

// Mode says what a refusal does.
type Mode string

// The modes of a node.
const (
	// Enforce refuses what policy refuses.
	Enforce Mode = "enforce"
	// Observe records what would have been refused and lets it through.
	Observe Mode = "observe"
)

// Runtime is where calls are forwarded to.
type Runtime struct {
	Endpoint string `yaml:"endpoint"`
	// Type is auto, containerd or cri.
	Type string `yaml:"type"`
	// Namespace is the containerd namespace of CRI's images.
	Namespace string `yaml:"namespace"`
	// UnknownMethods is refuse or forward.
	UnknownMethods string `yaml:"unknownMethods"`
}

// Policies is where ClusterImagePolicy documents are and what happens to images that
// none of them matches.
type Policies struct {
	Dir     string `yaml:"dir"`
	NoMatch string `yaml:"noMatch"`
}

// Namespaces says for which namespaces' pods images are judged.
type Namespaces struct {
	Enforce Scope `yaml:"enforce"`
	// Exempt wins over Enforce.
	Exempt Globs `yaml:"exempt"`
	// File tells the namespaces' labels, for Enforce labelled.
	File string `yaml:"file"`
}

// Trust is where what policies refer to is held and kept: secrets, ConfigMaps, keys of key management
// services, remote rules and trust roots.
type Trust struct {
	// Dir holds secrets/ and configmaps/, CacheDir what was fetched.
	Dir      string `yaml:"dir"`
	CacheDir string `yaml:"cacheDir"`
	// Refresh is how often what is fetched is fetched again.
	Refresh Duration `yaml:"refresh"`
	// UpdatePublicGood refreshes the built-in trust root of sigstore's public-good instance.
	UpdatePublicGood bool `yaml:"updatePublicGood"`
	// Roots are plain trusted_root.json files, which policies name like TrustRoots.
	Roots RootFiles `yaml:"roots"`
}

// RootFile is a trusted_root.json file and the name by which policies refer to it.
type RootFile struct {
	Name string `yaml:"name"`
	File string `yaml:"file"`
}

// Verification bounds the time a decision may take: CreateTimeout that on all images of one
// CreateContainer together, below kubelet's own limit of 2 minutes; PullTimeout that on a
// PullImage, for which kubelet has none.
type Verification struct {
	CreateTimeout Duration `yaml:"createTimeout"`
	PullTimeout   Duration `yaml:"pullTimeout"`
}

// Cache bounds the verdict cache.
type Cache struct {
	Size     Count    `yaml:"size"`
	AllowTTL Duration `yaml:"allowTTL"`
	DenyTTL  Duration `yaml:"denyTTL"`
}

// Registry is how evidence is fetched: the runtime's hosts.toml folders and the
// node's own credentials.
type Registry struct {
	HostsDir     string `yaml:"hostsDir"`
	DockerConfig string `yaml:"dockerConfig"`
}

// Evidence is where signatures are kept for the hours in which a registry is away.
type Evidence struct {
	Dir  string `yaml:"dir"`
	Size Count  `yaml:"size"`
}

// Audit is where decisions are recorded.
type Audit struct {
	Dir         string `yaml:"dir"`
	MaxFileSize Size   `yaml:"maxFileSize"`
	MaxFiles    Count  `yaml:"maxFiles"`
	Required    bool   `yaml:"required"`
}

// HTTP is the address of /metrics, /healthz, /readyz and /status.
type HTTP struct {
	Address string `yaml:"address"`
}

// Log is the form and amount of the agent's own log, on standard error.
type Log struct {
	Format string `yaml:"format"`
	Level  string `yaml:"level"`
}

// AgentSocket is where root asks the agent how things stand: beside the socket that it serves to kubelet.
func (c Config) AgentSocket() string { return filepath.Join(filepath.Dir(c.Listen), "agent.sock") }

// Default returns the settings of a node whose owner set nothing.
func Default() Config {
	node, err := os.Hostname()
	if err != nil {
		node = "localhost"
	}
	return Config{
		APIVersion: APIVersion,
		Kind:       Kind,
		Mode:       Enforce,
		Node:       node,
		Listen:     "/run/cosentry/containerd.sock",
		Runtime: Runtime{
			Endpoint:       "/run/containerd/containerd.sock",
			Type:           "auto",
			Namespace:      "k8s.io",
			UnknownMethods: "refuse",
		},
		Policies:     Policies{Dir: "/etc/cosentry/policies", NoMatch: "deny"},
		Namespaces:   Namespaces{Enforce: Scope{Mode: ScopeAll}, File: "/etc/cosentry/namespaces.yaml"},
		Trust:        Trust{Dir: "/etc/cosentry", CacheDir: "/var/lib/cosentry/trust", Refresh: Duration(24 * time.Hour), UpdatePublicGood: true},
		Verification: Verification{CreateTimeout: Duration(30 * time.Second), PullTimeout: Duration(60 * time.Second)},
		Cache:        Cache{Size: 4096, AllowTTL: Duration(time.Hour), DenyTTL: Duration(30 * time.Second)},
		Registry:     Registry{HostsDir: "/etc/containerd/certs.d", DockerConfig: "/var/lib/kubelet/config.json"},
		Evidence:     Evidence{Dir: "/var/lib/cosentry/evidence", Size: 1024},
		Audit:        Audit{Dir: "/var/log/cosentry", MaxFileSize: 64 << 20, MaxFiles: 8},
		HTTP:         HTTP{Address: "127.0.0.1:9477"},
		Log:          Log{Format: "json", Level: "info"},
	}
}
