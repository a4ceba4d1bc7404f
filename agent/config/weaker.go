package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Difference is a setting of which two settings files have different values, in words for a person.
type Difference struct{ Setting, Have, Want string }

func (d Difference) String() string {
	return fmt.Sprintf("%s: %s here, %s offered", d.Setting, d.Have, d.Want)
}

// Weaker names the settings by which want may let something through that have refuses, may trust what have does not, or may keep less
// of a record: what a node that enforces does not take from a cluster. It is not a judgement of the whole: one setting that
// is stricter makes up for none that is weaker. Where have only observes, nothing is refused now, and nothing is weaker.
//
// A setting that nobody decided about is weaker whenever it changes.
func Weaker(have, want Config) (all []Difference) {
	if have.Mode == Observe {
		return nil
	}
	decided, offered := weaker(have, want), maps.Collect(settings(want))
	for name, value := range settings(have) {
		yes, ok := decided[name]
		if !ok {
			yes = !reflect.DeepEqual(value, offered[name])
		}
		if yes {
			all = append(all, Difference{name, shown(value), shown(offered[name])})
		}
	}
	return all
}

// weaker decides for each setting. Paths are compared as paths: what lies in another folder was put there by somebody else.
func weaker(have, want Config) map[string]bool {
	moved := func(from, to string) bool { return clean(from) != clean(to) }
	// leftOut says that some lacks what of has.
	leftOut := func(some, of []string) bool {
		return slices.ContainsFunc(of, func(s string) bool { return !slices.Contains(some, s) })
	}
	labelled := want.Namespaces.Enforce.Mode == ScopeLabelled
	return map[string]bool{
		// They say what the file is, and there is one value of each.
		"apiVersion": false, "kind": false,
		"mode": want.Mode != have.Mode,
		// A name in records.
		"node": false,
		// kubelet's way, and what is behind it.
		"listen":                 moved(have.Listen, want.Listen),
		"runtime.endpoint":       moved(have.Runtime.Endpoint, want.Runtime.Endpoint),
		"runtime.type":           want.Runtime.Type != have.Runtime.Type,
		"runtime.namespace":      want.Runtime.Namespace != have.Runtime.Namespace,
		"runtime.unknownMethods": want.Runtime.UnknownMethods != have.Runtime.UnknownMethods && want.Runtime.UnknownMethods != "refuse",
		"policies.dir":           moved(have.Policies.Dir, want.Policies.Dir),
		"policies.noMatch":       openness(want.Policies.NoMatch) > openness(have.Policies.NoMatch),
		// Another folder may be an empty one. A folder where none was only adds.
		"clusterPolicies.dir": have.ClusterPolicies.Dir != "" && moved(have.ClusterPolicies.Dir, want.ClusterPolicies.Dir),
		// A key where none was: documents that nobody signed end, which whoever owns the cluster could have by deleting them. The
		// node's own policies stay.
		"clusterPolicies.publicKey": have.ClusterPolicies.PublicKey != "" &&
			strings.TrimSpace(have.ClusterPolicies.PublicKey) != strings.TrimSpace(want.ClusterPolicies.PublicKey),
		"namespaces.enforce": narrower(have.Namespaces.Enforce, want.Namespaces.Enforce),
		"namespaces.exempt":  leftOut(have.Namespaces.Exempt, want.Namespaces.Exempt),
		// Read for labels and for nothing else.
		"namespaces.file": labelled && moved(have.Namespaces.File, want.Namespaces.File),
		// Which image is asked about matters where its refusal does. Where it was not refused, it only starts to be.
		"sandbox.image":          have.Sandbox.Refuse && want.Sandbox.Image != have.Sandbox.Image,
		"sandbox.refuse":         have.Sandbox.Refuse && !want.Sandbox.Refuse,
		"trust.dir":              moved(have.Trust.Dir, want.Trust.Dir),
		"trust.cacheDir":         moved(have.Trust.CacheDir, want.Trust.CacheDir),
		"trust.refresh":          want.Trust.Refresh > have.Trust.Refresh, // so long a key that was taken back counts
		"trust.updatePublicGood": want.Trust.UpdatePublicGood != have.Trust.UpdatePublicGood,
		// Also without one of them: a document of the same name, which counts for nothing beside it, would begin to count.
		"trust.roots": leftOut(rootsAsText(have.Trust.Roots), rootsAsText(want.Trust.Roots)) ||
			leftOut(rootsAsText(want.Trust.Roots), rootsAsText(have.Trust.Roots)),
		// Who runs out of time is refused.
		"verification.createTimeout": false, "verification.pullTimeout": false,
		"cache.size": false,
		// So long a verdict counts whose signature was taken back; a warning, which lets through, as long as a refusal.
		"cache.allowTTL": want.Cache.AllowTTL > have.Cache.AllowTTL,
		"cache.denyTTL":  want.Cache.DenyTTL > have.Cache.DenyTTL,
		// They say which server is believed about a tag, and who is shown credentials.
		"registry.hostsDir":     want.Registry.HostsDir != have.Registry.HostsDir,
		"registry.dockerConfig": moved(have.Registry.DockerConfig, want.Registry.DockerConfig),
		// Kept signatures count while a registry is away: another folder may hold some that were deleted from it.
		"evidence.dir":  want.Evidence.Dir != "" && moved(have.Evidence.Dir, want.Evidence.Dir),
		"evidence.size": false,
		// The record of what was let through, and how far back it reaches.
		"audit.dir":         moved(have.Audit.Dir, want.Audit.Dir),
		"audit.maxFileSize": want.Audit.MaxFileSize < have.Audit.MaxFileSize,
		"audit.maxFiles":    want.Audit.MaxFiles < have.Audit.MaxFiles,
		"audit.required":    have.Audit.Required && !want.Audit.Required,
		// Loopback alone; what root asks is asked elsewhere.
		"http.address": false,
		// The agent's own log is not the record.
		"log.format": false, "log.level": false,
	}
}

func clean(p string) string {
	if p == "" {
		return ""
	}
	return filepath.Clean(p)
}

// openness orders the values of policies.noMatch; one that is not known is the most open.
func openness(noMatch string) int {
	i := slices.Index([]string{"deny", "warn", "allow"}, noMatch)
	if i < 0 {
		return 3
	}
	return i
}

// narrower reports whether want may leave a namespace alone that have judges. Labels are what the cluster says today: they are
// the same as labels only, and all namespaces are more than any others.
func narrower(have, want Scope) bool {
	switch {
	case want.Mode == ScopeAll:
		return false
	case have.Mode != "" || want.Mode != "":
		return have.Mode != want.Mode
	}
	return slices.ContainsFunc(have.Globs, func(g string) bool { return !want.Globs.has(g) })
}

func rootsAsText(roots RootFiles) (all []string) {
	for _, r := range roots {
		all = append(all, r.Name+" in "+clean(r.File))
	}
	return all
}

// maxShown bounds a value in a message, in bytes.
const maxShown = 160

// shown is a value for a message. Strangers may have written it.
func shown(value any) string {
	text := fmt.Sprint(value)
	if roots, ok := value.(RootFiles); ok && len(roots) > 0 {
		text = strings.Join(rootsAsText(roots), ", ")
	}
	if text == "" {
		return "none"
	}
	if quoted := strconv.Quote(text); quoted != `"`+text+`"` {
		text = quoted
	}
	if len(text) > maxShown {
		text = strings.ToValidUTF8(text[:maxShown], "") + "…"
	}
	return text
}
