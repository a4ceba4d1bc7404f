package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/gate"
	nsfile "github.com/cosentry/cosentry/agent/namespaces"
	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trust"
)

// policySet loads the node's policies from disk.
func (n *node) policySet() (*policy.Set, error) {
	dir, err := n.tree.Path(n.config.Policies.Dir)
	if err != nil {
		return nil, err
	}
	return policy.Load(dir)
}

func policies(_ context.Context, n *node) Finding {
	dir := n.config.Policies.Dir
	check := "cosentry policy check " + dir
	set, err := n.policySet()
	if err != nil {
		if n.status != nil && n.status.Policies.Revision != "" {
			return fail("mend them: "+check, "the policies on disk cannot be loaded, so those of revision %s stay in force until the agent ends, and then every image is refused: %v", n.status.Policies.Revision, err)
		}
		return fail("mend them: "+check, "the policies cannot be loaded, so every image is refused: %v", err)
	}
	switch {
	case n.status != nil && n.status.Policies.Revision != set.Revision():
		return warn("wait a minute and look again; if it stays: systemctl restart cosentry.service", "revision %s is on disk and %q is in force", set.Revision(), n.status.Policies.Revision)
	case len(set.Policies()) == 0 && n.config.Policies.NoMatch == "allow":
		return fail("write policies, or policies.noMatch: deny", "there are no policies in %s, and policies.noMatch is allow: everything runs", dir)
	case len(set.Policies()) == 0:
		return warn("write policies: docs/policy.md", "there are no policies in %s: policies.noMatch (%s) decides about every image", dir, n.config.Policies.NoMatch)
	case len(set.Warnings()) > 0:
		return warn("see all: "+check, "%d policies, with %d warnings, of which the first: %v", len(set.Policies()), len(set.Warnings()), set.Warnings()[0])
	}
	return good("%d policies, revision %s", len(set.Policies()), set.Revision())
}

// expirySoon is how long before its end something is warned of.
const expirySoon = 7 * 24 * time.Hour

// references looks at keys, secrets, rules and trust roots. The agent is asked if it can be, because it is its view that
// counts; without it they are fetched here.
func references(ctx context.Context, n *node) Finding {
	var all []sight.Trust
	if n.status != nil {
		all = n.status.Trust
	} else {
		set, err := n.policySet()
		if err != nil {
			return fail("see the finding about the policies", "what policies refer to cannot be told: %v", err)
		}
		if all, err = n.Trust(ctx, n.trustBelowRoot(), set); err != nil {
			return warn("see the finding about the agent, which would know", "what policies refer to cannot be told: %v", err)
		}
	}
	now := n.now()
	var bad, soon []string
	for _, t := range all {
		name := t.Kind + " " + t.Name
		switch {
		case !t.Expires.IsZero() && !t.Expires.After(now):
			bad = append(bad, name+" expired at "+t.Expires.Format(time.RFC3339))
		case !t.OK:
			bad = append(bad, name+" cannot be used: "+t.Error)
		case t.Error != "":
			soon = append(soon, name+" can be used and not renewed: "+t.Error)
		case !t.Expires.IsZero() && t.Expires.Before(now.Add(expirySoon)):
			soon = append(soon, name+" expires at "+t.Expires.Format(time.RFC3339))
		case !t.Ends.IsZero() && t.Ends.Before(now.Add(expirySoon)):
			soon = append(soon, name+": what is signed after "+t.Ends.Format(time.RFC3339)+" is not accepted")
		}
	}
	switch {
	case len(bad) > 0:
		return fail("see each: cosentry status; keys of a key management service and remote rules need the network and credentials in the agent's environment", "%d of %d things that policies refer to are not usable: %s", len(bad), len(all), strings.Join(bad, "; "))
	case len(soon) > 0:
		return warn("see each: cosentry status", "%s", strings.Join(soon, "; "))
	}
	kms := 0
	for _, t := range all {
		if t.Kind == trust.KindKMS {
			kms++
		}
	}
	return good("%d things that policies refer to can be used, %d keys of key management services among them", len(all), kms)
}

// trustBelowRoot has the folders where they are to be found from here. Nothing that is fetched is kept.
func (n *node) trustBelowRoot() config.Trust {
	c := n.config.Trust
	for _, p := range []*string{&c.Dir} {
		if here, err := n.tree.Path(*p); err == nil {
			*p = here
		}
	}
	c.Roots = append(config.RootFiles(nil), c.Roots...)
	for i := range c.Roots {
		if here, err := n.tree.Path(c.Roots[i].File); err == nil {
			c.Roots[i].File = here
		}
	}
	c.CacheDir = ""
	return c
}

func namespaces(_ context.Context, n *node) Finding {
	if n.status == nil {
		return warn("see the finding about the agent", "where images are judged is known to the agent alone, which does not answer")
	}
	s := n.status.Namespaces
	switch s.State {
	case nsfile.Missing:
		return warn("write it, or have cosentry sync write it", "there is no file %s, so images are judged in all namespaces", s.File)
	case nsfile.Broken:
		return warn("mend "+s.File, "the namespaces' file cannot be read: %s", s.Fault)
	}
	if len(s.Exempt) > 0 {
		return good("judged in: %s, but for: %s", s.Enforce, strings.Join(s.Exempt, ", "))
	}
	return good("judged in: %s", s.Enforce)
}

// How many of the log's last records are looked through for registries, and how many of those are asked.
const (
	recentRecords = 500
	maxRegistries = 8
)

// registries asks those from which images were wanted of late. That one has no such image, or wants credentials, is an
// answer.
func registries(ctx context.Context, n *node) Finding {
	recent, err := n.recentRepositories(ctx)
	if err != nil {
		return warn("see the finding about the audit log", "which registries this node uses cannot be told: %v", err)
	}
	if len(recent) == 0 {
		return good("no image was asked for yet, so there is no registry to ask")
	}
	asker, err := n.Registries(n.registryBelowRoot())
	if err != nil {
		return fail("mend what registry says in "+n.Settings, "no registry can be asked: %v", err)
	}
	var away []string
	for _, r := range recent {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout/maxRegistries)
		_, err := asker.Resolve(ctx, r.repository, r.tag, evidence.Credentials{})
		cancel()
		if err != nil && !errors.Is(err, evidence.ErrNotFound) && !errors.Is(err, evidence.ErrUnauthorized) {
			away = append(away, fmt.Sprintf("%s: %v", r.registry, err))
		}
	}
	if len(away) > 0 {
		return fail("see to the network, to mirrors in "+n.config.Registry.HostsDir+" and to proxies in the service's environment; images whose verdict is remembered go on", "%d of %d registries do not answer: %s", len(away), len(recent), strings.Join(away, "; "))
	}
	return good("%d registries answer", len(recent))
}

type recentRepository struct{ registry, repository, tag string }

// recentRepositories has one repository for each registry, the newest. Canaries' registries are gone by now.
func (n *node) recentRepositories(ctx context.Context) ([]recentRepository, error) {
	dir, err := n.tree.Path(n.config.Audit.Dir)
	if err != nil {
		return nil, err
	}
	newest := map[string]recentRepository{}
	var order []string
	for entry, err := range audit.Read(ctx, dir, audit.ReadOptions{Last: recentRecords}) {
		var broken *audit.BrokenError
		if errors.As(err, &broken) {
			continue
		}
		if err != nil {
			return nil, err
		}
		ref, err := gate.ParseReference(entry.Image)
		if err != nil || strings.Contains(ref.Repository, "/cosentry-canary/") {
			continue
		}
		host, _, _ := strings.Cut(ref.Repository, "/")
		tag := ref.Tag
		if tag == "" {
			tag = "latest"
		}
		if _, ok := newest[host]; !ok {
			order = append(order, host)
		}
		newest[host] = recentRepository{host, ref.Repository, tag}
	}
	var all []recentRepository
	for _, host := range order[max(0, len(order)-maxRegistries):] {
		all = append(all, newest[host])
	}
	return all, nil
}

// registryBelowRoot has the runtime's folders where they are to be found from here.
func (n *node) registryBelowRoot() config.Config {
	c := n.config
	var dirs []string
	for _, dir := range strings.Split(c.Registry.HostsDir, ":") {
		if here, err := n.tree.Path(dir); dir != "" && err == nil {
			dir = here
		}
		dirs = append(dirs, dir)
	}
	c.Registry.HostsDir = strings.Join(dirs, ":")
	if here, err := n.tree.Path(c.Registry.DockerConfig); c.Registry.DockerConfig != "" && err == nil {
		c.Registry.DockerConfig = here
	}
	return c
}
