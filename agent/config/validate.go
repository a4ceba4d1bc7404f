package config

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// fault is an error that yaml collects beside others instead of stopping at it.
func fault(format string, args ...any) error {
	return &yaml.TypeError{Errors: []string{fmt.Sprintf(format, args...)}}
}

// Duration is a time span as Go writes it: "30s", "1h".
type Duration time.Duration

// UnmarshalYAML reads a Duration.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil {
		return fault("line %d: %q is not a duration such as 30s or 1h", n.Line, n.Value)
	}
	*d = Duration(v)
	return nil
}

func (d Duration) String() string { return time.Duration(d).String() }

// Count is a whole number. yaml would cut a fraction off without a word.
type Count int

// UnmarshalYAML reads a Count.
func (c *Count) UnmarshalYAML(n *yaml.Node) error {
	v, err := strconv.ParseInt(n.Value, 10, 32)
	if err != nil {
		return fault("line %d: %q is not a whole number", n.Line, n.Value)
	}
	*c = Count(v)
	return nil
}

// Size is a number of bytes: a plain number, or one with the suffix Ki, Mi or Gi.
type Size int64

var sizeUnits = map[string]int64{"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}

// UnmarshalYAML reads a Size.
func (s *Size) UnmarshalYAML(n *yaml.Node) error {
	num, unit := n.Value, int64(1)
	for suffix, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(n.Value, suffix); ok {
			num, unit = rest, u
		}
	}
	v, err := strconv.ParseInt(num, 10, 64)
	if err != nil || v < 0 || v > (1<<62)/unit {
		return fault("line %d: %q is not a size such as 1048576, 512Ki or 64Mi", n.Line, n.Value)
	}
	*s = Size(v * unit)
	return nil
}

func (s Size) String() string {
	for _, u := range []string{"Gi", "Mi", "Ki"} {
		if s > 0 && int64(s)%sizeUnits[u] == 0 {
			return strconv.FormatInt(int64(s)/sizeUnits[u], 10) + u
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// kubeletTimeout is how long kubelet waits for CreateContainer. A verification that
// outlasts it would be thrown away and begun again.
const kubeletTimeout = 2 * time.Minute

func (c *Config) validate() error {
	var faults []error
	fault := func(field, format string, args ...any) {
		faults = append(faults, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
	oneOf := func(field, value string, allowed ...string) {
		if !slices.Contains(allowed, value) {
			fault(field, "%q is not one of %s", value, strings.Join(allowed, ", "))
		}
	}
	path := func(field, value string) {
		if !filepath.IsAbs(value) {
			fault(field, "%q is not an absolute path", value)
		}
	}
	within := func(field string, value, low, high time.Duration) {
		if value < low || value > high {
			fault(field, "%s is not between %s and %s", value, low, high)
		}
	}

	if c.APIVersion != APIVersion || c.Kind != Kind {
		fault("apiVersion, kind", "want %s, %s; have %q, %q", APIVersion, Kind, c.APIVersion, c.Kind)
	}
	oneOf("mode", string(c.Mode), string(Enforce), string(Observe))
	if c.Node == "" {
		fault("node", "must not be empty")
	}
	path("listen", c.Listen)
	c.Runtime.Endpoint = strings.TrimPrefix(c.Runtime.Endpoint, "unix://")
	path("runtime.endpoint", c.Runtime.Endpoint)
	if filepath.Clean(c.Listen) == filepath.Clean(c.Runtime.Endpoint) {
		fault("listen", "is the runtime's own socket")
	}
	for field, at := range map[string]string{"listen": c.Listen, "runtime.endpoint": c.Runtime.Endpoint} {
		if filepath.Clean(at) == c.AgentSocket() {
			fault(field, "%s is where the agent tells root how things stand; choose another name", at)
		}
	}
	oneOf("runtime.type", c.Runtime.Type, "auto", "containerd", "cri")
	if c.Runtime.Namespace == "" {
		fault("runtime.namespace", "must not be empty")
	}
	oneOf("runtime.unknownMethods", c.Runtime.UnknownMethods, "refuse", "forward")
	path("policies.dir", c.Policies.Dir)
	oneOf("policies.noMatch", c.Policies.NoMatch, "deny", "warn", "allow")
	c.ClusterPolicies.validate(fault, path)
	c.Namespaces.validate(fault, path)
	c.Sandbox.validate(fault)
	c.Trust.validate(fault, path)
	within("verification.createTimeout", time.Duration(c.Verification.CreateTimeout), 100*time.Millisecond, kubeletTimeout-10*time.Second)
	within("verification.pullTimeout", time.Duration(c.Verification.PullTimeout), 100*time.Millisecond, 10*time.Minute)
	if c.Cache.Size < 1 || c.Cache.Size > 1<<20 {
		fault("cache.size", "%d is not between 1 and %d", c.Cache.Size, 1<<20)
	}
	within("cache.allowTTL", time.Duration(c.Cache.AllowTTL), time.Second, 7*24*time.Hour)
	within("cache.denyTTL", time.Duration(c.Cache.DenyTTL), time.Second, time.Hour)
	for _, dir := range filepath.SplitList(c.Registry.HostsDir) {
		path("registry.hostsDir", dir)
	}
	if c.Registry.DockerConfig != "" {
		path("registry.dockerConfig", c.Registry.DockerConfig)
	}
	if c.Evidence.Dir != "" {
		path("evidence.dir", c.Evidence.Dir)
	}
	if c.Evidence.Size < 1 || c.Evidence.Size > 1<<16 {
		fault("evidence.size", "%d is not between 1 and %d", c.Evidence.Size, 1<<16)
	}
	path("audit.dir", c.Audit.Dir)
	if c.Audit.MaxFileSize < 64<<10 {
		fault("audit.maxFileSize", "%s is less than 64Ki", c.Audit.MaxFileSize)
	}
	if c.Audit.MaxFiles < 2 || c.Audit.MaxFiles > 1000 {
		fault("audit.maxFiles", "%d is not between 2 and 1000", c.Audit.MaxFiles)
	}
	if c.HTTP.Address != "" {
		if err := loopback(c.HTTP.Address); err != nil {
			fault("http.address", "%v", err)
		}
	}
	oneOf("log.format", c.Log.Format, "json", "text")
	oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	return errors.Join(faults...)
}

// loopback refuses an address that others than this node could reach: /status names
// policies and images.
func loopback(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%q is not host:port", address)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("%q is not a loopback address", host)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q is not a port", port)
	}
	return nil
}
