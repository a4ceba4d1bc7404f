package gate

import (
	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify"
	"github.com/cosentry/cosentry/verify/evidence"
)

// subject is what is asked about an image of a request. Where the cluster's policies hold is asked of the sandbox's own
// namespace, as in exempt; a request that tells none is under them.
func (g *Gate) subject(r request, ref Reference, d digest.Digest, c evidence.Credentials) verify.Subject {
	namespace := r.sandbox.GetNamespace()
	return verify.Subject{
		Image: r.image, Repository: ref.Repository, Digest: d, Credentials: c, Pod: r.pod,
		WithoutCluster: namespace != "" && !g.o.Namespaces.ClusterEnforced(namespace),
	}
}
