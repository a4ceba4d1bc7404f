package config

import (
	"regexp"
	"time"
)

// subdomain is what Kubernetes takes for the name of a TrustRoot.
var subdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

func (t Trust) validate(fault faulter, path pather) {
	path("trust.dir", t.Dir)
	path("trust.cacheDir", t.CacheDir)
	const low, high = time.Minute, 7 * 24 * time.Hour
	if every := time.Duration(t.Refresh); every < low || every > high {
		fault("trust.refresh", "%s is not between %s and %s", every, low, high)
	}
	if len(t.Roots) > maxRoots {
		fault("trust.roots", "%d files: at most %d are read", len(t.Roots), maxRoots)
	}
	seen := map[string]bool{}
	for _, r := range t.Roots {
		switch {
		case len(r.Name) > 253 || !subdomain.MatchString(r.Name):
			fault("trust.roots", "%.253q is no name that a policy could refer to: small letters, digits, - and . as in a TrustRoot's", r.Name)
		case seen[r.Name]:
			fault("trust.roots", "%q is named twice", r.Name)
		}
		seen[r.Name] = true
		path("trust.roots", r.File)
	}
}
