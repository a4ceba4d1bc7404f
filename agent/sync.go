package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/cosentry/cosentry/agent/cluster"
	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/agent/sync"
	"github.com/cosentry/cosentry/verify/policy"
)

func syncCommand() *cobra.Command {
	var dir, listen, health, kubeconfig string
	var giveTo int
	cmd := &cobra.Command{
		Use:   "sync",
		Short: "Bring the cluster's policies to this node",
		Long: `Watch ClusterImagePolicies, TrustRoots, the Secrets and ConfigMaps that these name, and namespaces, and write them to
a folder that the agent reads (clusterPolicies.dir of the settings). What comes from there can only add restrictions to
the node's own policies. The folder only ever changes to what the API server said in as many words and what loads: an
API server that is gone, a kind that was removed or may not be read, and an object that an agent could not load leave it
as it was.

Namespaces are watched where namespaces.enforce is labelled in the settings, or there are none. A kind that the cluster
does not have is looked for again, at first each minute and later each quarter of an hour.

It runs in a pod of the DaemonSet, as the pod's service account, until SIGTERM. Of the settings it goes by
clusterPolicies.publicKey, namespaces.enforce and log.`,
		Example: "  cosentry sync --dir /cluster\n  cosentry sync --kubeconfig ~/.kube/config --dir /tmp/cluster",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("give-to") {
				return giveFolder(cmd.Context(), cmd.ErrOrStderr(), dir, giveTo)
			}
			surviveSignals()
			path, err := settingsPath(cmd)
			if err != nil {
				return err
			}
			c, log, err := settingsForRun(path, os.Stderr)
			if err != nil {
				return err
			}
			keys, err := cluster.ParseKeys(c.ClusterPolicies.PublicKey)
			if err != nil {
				return err
			}
			server, err := apiServer(kubeconfig)
			if err != nil {
				return err
			}
			o := sync.Options{Dir: dir, Signed: keys != nil, Namespaces: wantsNamespaces(path, c), Log: log}
			return bring(cmd.Context(), server, o, addresses{listen, health}, keys)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", cluster.DefaultDir, "folder to write to")
	cmd.Flags().StringVar(&listen, "listen", ":9479", "address of /metrics; empty: none")
	cmd.Flags().StringVar(&health, "health", "127.0.0.1:9481", "loopback address of /healthz; empty: none")
	cmd.Flags().IntVar(&giveTo, "give-to", 0, "make the folder, give it to this user by number, and end")
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "file that says where the API server is (default: the pod's service account)")
	return cmd
}

// loadTime is how long a set may take to load here. It is half of what an agent takes for it, which may be busy.
const loadTime = 30 * time.Second

// apiServer is how the API server is reached.
func apiServer(kubeconfig string) (c *rest.Config, err error) {
	if kubeconfig == "" {
		c, err = rest.InClusterConfig()
	} else {
		c, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	if err != nil {
		return nil, fmt.Errorf("finding the API server (outside of a pod, name a file with --kubeconfig): %w", err)
	}
	return c, nil
}

// addresses are where a command of the pod shows its metrics, to the network, and its health, to kubelet.
type addresses struct{ metrics, health string }

// wantsNamespaces reports whether an agent with the settings at path may go by namespaces' labels. A labelled file that lies elsewhere may
// be a link to the cluster's; without settings nobody knows.
func wantsNamespaces(path string, c config.Config) bool {
	return path == "" || c.Namespaces.Enforce.Mode == config.ScopeLabelled
}

// bring syncs until ctx ends.
func bring(ctx context.Context, c *rest.Config, o sync.Options, show addresses, keys []policy.PublicKey) (err error) {
	if o.API, err = sync.NewAPI(c, "cosentry/"+buildVersion()); err != nil {
		return err
	}
	o.Load = func(folder string) error {
		ctx, cancel := context.WithTimeout(ctx, loadTime)
		defer cancel()
		_, err := cluster.LoadSet(ctx, folder, keys)
		return err
	}
	log := o.Log
	s, err := sync.New(ctx, o)
	if err != nil {
		return err
	}
	log.Info("bringing the cluster's documents", "dir", o.Dir, "namespaces", o.Namespaces, "apiServer", c.Host, "version", buildVersion())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.Run(ctx) })
	if show.metrics != "" {
		group.Go(func() error { return sight.ServePublic(ctx, show.metrics, s.MetricsHandler(), log) })
	}
	if show.health != "" {
		group.Go(func() error { return sight.ServeProbes(ctx, show.health, s.HealthHandler(), log) })
	}
	return group.Wait()
}
