package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cosentry/cosentry/verify"
	"github.com/cosentry/cosentry/verify/policy"
)

func policyTestCommand() *cobra.Command {
	var output, held, noMatch string
	var policies, clusterPolicies []string
	var clusterHeld string
	var t trial
	var pod podFlags
	cmd := &cobra.Command{
		Use:   "test --policy FILE… --image IMAGE",
		Short: "Judge an image by policy files, online or by saved evidence",
		Long: `Judge IMAGE by policy files as a node would that has them, and explain. No settings file is needed, and
none of the node's own policies are asked, nor those that its cluster has. With --cluster-policy, policies come on top as the
cluster's would: they are asked about what those of --policy let through.

With --evidence, which names a folder that cosentry verify --save has written, no registry and no log is asked, so that
policies can be tested in CI; what was not saved is "could not tell". Then keys of key management services, remote rules and
remote trust roots count only where this machine has fetched them before, or with --online.

With neither --namespace nor --labels the pod is not known, and policies for certain pods apply as well. Whether a namespace
is enforced is a setting of nodes, and is not asked here.
Exit status: 0 allowed, 1 refused, 2 could not tell.`,
		Example: `  cosentry policy test --policy ./policies --image registry.example/app:1.2
  cosentry verify --save ./testdata/app registry.example/app:1.2
  cosentry policy test --policy release.yaml --policy base.yaml --evidence ./testdata/app \
    --image registry.example/app:1.2 --namespace shop --labels app=web`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if t.config, err = policySettings(cmd, held); err != nil {
				return err
			}
			switch verify.NoMatch(noMatch) {
			case verify.NoMatchDeny, verify.NoMatchWarn, verify.NoMatchAllow:
				t.config.Policies.NoMatch = noMatch
			case "":
			default:
				return fmt.Errorf("--no-match %s: not one of deny, warn, allow", noMatch)
			}
			t.pod, t.online = pod.pod(cmd), t.online || t.evidence == ""
			t.load = func() (*policy.Set, error) { return readPolicies(policies) }
			if len(clusterPolicies) > 0 {
				t.added = func(context.Context) (clusterLayer, error) {
					return clusterFiles(t.config, clusterPolicies, clusterHeld)
				}
			}
			t.say = progress(cmd.ErrOrStderr())
			e, err := t.explain(cmd.Context())
			if err != nil {
				return err
			}
			if err := e.print(cmd.OutOrStdout(), output); err != nil {
				return err
			}
			return e.exit()
		},
	}
	cmd.Flags().StringArrayVar(&policies, "policy", nil, "policy file, or folder of them; may be given several times")
	cmd.Flags().StringArrayVar(&clusterPolicies, "cluster-policy", nil, "policy file, or folder of them, as if it came from the cluster: it adds to those of --policy; may be given several times")
	cmd.Flags().StringVar(&clusterHeld, "cluster-trust", "", "folder of secrets/ and configmaps/ that the policies of --cluster-policy refer to (default: none)")
	cmd.Flags().StringVar(&t.image, "image", "", "the image, as a pod would name it")
	cmd.Flags().StringVar(&t.evidence, "evidence", "", "folder of evidence saved by cosentry verify --save")
	cmd.Flags().BoolVar(&t.online, "online", false, "with --evidence: fetch what policies refer to all the same")
	cmd.Flags().StringVar(&noMatch, "no-match", "", "what happens if no policy matches: deny, warn or allow (default: policies.noMatch of the settings)")
	_ = cmd.MarkFlagRequired("policy")
	_ = cmd.MarkFlagRequired("image")
	trustFlag(cmd, &held)
	pod.add(cmd)
	outputFlag(cmd, &output)
	return cmd
}
