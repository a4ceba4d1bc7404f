// Package firsthand finds out on a host how cosentry is there: from the agent, from sync and from kubelet themselves, from the
// kernel, and by trying.
//
// An installation stays or is put back by what is said here, and pods of a rollout are ready by it. It promises:
//
//   - Nobody's word counts for another's. The agent is asked on a socket that is root's alone. While sync or kubelet is down anyone on
//     the node can listen where it would: who listens is looked up before anything is sent, and must be root, this process's own user
//     or, for sync, the user whose folder the cluster's documents are in. Redirects are not followed.
//   - Who is not root on the host decides nothing. Whoever keeps kubelet's word from being heard makes it one that cannot be told, which
//     is neither good news nor bad.
//   - That kubelet uses the agent is what the kernel says of the socket's clients, and that images are judged is seen by having an
//     unsigned one pulled. The agent is not asked about either.
//   - What cannot be found out is an error, and never good news; [host.ErrUntold] of kubelet's health.
//
// It must run in the host's network namespace, with the host's root mounted; settings are read there anew each time. It refuses
// to be led elsewhere by them: paths are the host's, links and all.
package firsthand

import (
	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/host"
	"github.com/cosentry/cosentry/agent/host/files"
)

// maxShown bounds the metrics of the agent and of sync, in bytes. Real ones are under 64 KiB.
const maxShown = 16 << 20

// settings are those that the agent runs with on the host whose root is at root.
func settings(root string) (config.Config, error) {
	tree, err := files.Open(root)
	if err != nil {
		return config.Config{}, err
	}
	defer tree.Close()
	here, err := tree.Path(host.ConfigFile) // its links are the host's
	if err != nil {
		return config.Config{}, err
	}
	return config.Load(here)
}
