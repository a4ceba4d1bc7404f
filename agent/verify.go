package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cosentry/cosentry/agent/namespaces"
	"github.com/cosentry/cosentry/verify/policy"
)

func verifyCommand() *cobra.Command {
	var output, policies string
	var t trial
	var pod podFlags
	cmd := &cobra.Command{
		Use:   "verify IMAGE",
		Short: "Judge an image as this node would, and explain",
		Long: `Resolve IMAGE at its registry, fetch its signatures and judge it by the node's policies,
as a pull on this node would be judged with the node's own credentials: by the node's own policies, and by
those of the cluster, if settings name their folder, where these let it through. Each policy that matches is
listed with each of its authorities: what was found, who signed, and why it failed. Nothing is pulled
and nothing is recorded.

Policies may be for certain pods. With neither --namespace nor --labels the pod is not known, and
those for certain pods apply as well.
Exit status: 0 allowed, 1 refused, 2 could not tell.`,
		Example: `  cosentry verify registry.example/app:1.2
  cosentry verify --namespace shop --labels app=web,tier=front registry.example/app:1.2
  cosentry verify --policies ./policies -o json registry.example/app@sha256:9f86d081…
  cosentry verify --save ./evidence registry.example/app:1.2`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if t.config, err = settings(cmd); err != nil {
				return err
			}
			if policies != "" {
				t.config.Policies.Dir = policies
			}
			t.image, t.pod, t.online = args[0], pod.pod(cmd), true
			t.load = func() (*policy.Set, error) { return policy.Load(t.config.Policies.Dir) }
			t.say = progress(cmd.ErrOrStderr())
			if t.config.ClusterPolicies.Dir != "" {
				t.added = func(ctx context.Context) (clusterLayer, error) { return clusterOnDisk(ctx, t.config) }
			}
			note, err := t.exempt()
			if err != nil {
				return err
			}
			var e explanation
			if note == "" || t.save != "" {
				if e, err = t.explain(cmd.Context()); err != nil {
					return err
				}
			}
			if note != "" {
				e = explanation{Image: t.image, Decision: "allow", Note: note}
			}
			if err := e.print(cmd.OutOrStdout(), output); err != nil {
				return err
			}
			return e.exit()
		},
	}
	cmd.Flags().StringVar(&policies, "policies", "", "folder of policy files (default: policies.dir of the settings)")
	cmd.Flags().StringVar(&t.save, "save", "", "write what was fetched to this folder, which must be empty or not there, as an OCI image layout; see: cosentry policy test --evidence")
	pod.add(cmd)
	outputFlag(cmd, &output)
	return cmd
}

// exempt notes whether the cluster's policies hold in the pod's namespace, and says why nothing is judged in the pod's namespace; empty if it is.
func (t *trial) exempt() (note string, err error) {
	if t.pod == nil {
		return "", nil
	}
	o := namespaceOptions(t.config)
	o.Log = quiet()
	n, err := namespaces.New(o)
	if err != nil {
		return "", err
	}
	if n.Enforced(t.pod.Namespace) {
		t.withoutCluster = t.pod.Namespace != "" && !n.ClusterEnforced(t.pod.Namespace)
		return "", nil
	}
	return fmt.Sprintf("namespace %q is not enforced by this node's settings, so nothing is judged there", t.pod.Namespace), nil
}

// podFlags say for which pod an image is judged.
type podFlags struct {
	namespace string
	labels    map[string]string
}

func (p *podFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.namespace, "namespace", "", "judge for a pod of this namespace")
	cmd.Flags().StringToStringVar(&p.labels, "labels", nil, "judge for a pod with these labels, k=v,…")
}

// pod is nil if nothing was said about it.
func (p *podFlags) pod(cmd *cobra.Command) *policy.Pod {
	if !cmd.Flags().Changed("namespace") && !cmd.Flags().Changed("labels") {
		return nil
	}
	return &policy.Pod{Namespace: p.namespace, Labels: p.labels}
}
