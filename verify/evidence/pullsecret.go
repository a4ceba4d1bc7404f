package evidence

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cosentry/cosentry/verify/limits"
)

// FromDockerConfig gives the credentials that a pull secret has for a repository, the most specific first: what a
// docker config on the node would have for it, by the same rules. raw is the secret's .dockerconfigjson, or the
// .dockercfg of old, which is the same without the object "auths" around it. A secret without any for the repository
// gives none and no error, as kubelet lets such a one lie.
//
// The errors show nothing of the secret.
func FromDockerConfig(raw []byte, repository string) ([]Credentials, error) {
	repo, err := parseRepository(repository)
	if err != nil {
		return nil, fmt.Errorf("looking for credentials: %w", err)
	}
	entries, err := parsePullSecret(raw)
	if err != nil {
		return nil, fmt.Errorf("reading a pull secret for %s: %w", repo, err)
	}
	found := matching(entries, repo.registry, repo.path)
	// Each is one more request that a registry may refuse.
	if err := limits.Credentials.Check(int64(len(found))); err != nil {
		return nil, fmt.Errorf("reading a pull secret for %s: %w", repo, err)
	}
	return found, nil
}

// parsePullSecret tells the two shapes apart by the member that only one of them has. In the old shape "auths" would
// be the name of a registry, which it can hardly be.
func parsePullSecret(raw []byte) ([]nodeEntry, error) {
	if len(raw) > maxDockerConfig {
		return nil, fmt.Errorf("larger than %d bytes", maxDockerConfig)
	}
	if err := limits.Elements.Check(limits.CountElements(raw)); err != nil {
		return nil, err
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil || members == nil {
		return nil, errors.New("neither a .dockerconfigjson nor a .dockercfg: not an object in JSON")
	}
	if _, ok := members["auths"]; ok {
		return parseDockerConfig(raw)
	}
	auths := map[string]dockerAuth{}
	for server, member := range members {
		var auth dockerAuth
		// Others' settings may stand beside the registries.
		if json.Unmarshal(member, &auth) == nil {
			auths[server] = auth
		}
	}
	return nodeEntries(auths), nil
}
