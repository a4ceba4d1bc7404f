package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/cosentry/cosentry/agent/host"
)

func uninstallCommand() *cobra.Command {
	var f hostFlags
	var purge bool
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Give this host's kubelet its runtime back and remove cosentry",
		Long: `Point kubelet at the runtime itself and prove that it is well there, then stop the agent and remove its
units and its binary, and of what it kept in /var/lib/cosentry the signatures, the trust roots it had fetched, the
cluster's policies and the state of installations. The owner's settings, policies and secrets in /etc/cosentry and the audit
log in /var/log/cosentry stay unless --purge is given. On a host that loses /etc when it boots, the copy of the former
stays as well, in /var/lib/cosentry/install/etc, and the next installation puts it back. It can be done again, and after an
installation that was stopped halfway. A full or read-only disk does not keep kubelet from going back. Run on the node itself it leaves ` + host.OffFile + `,
which keeps the node's pod from installing it again; with --purge it leaves nothing, and a pod that starts anew installs it.
Exit status: 0 uninstalled, 2 not uninstalled.`,
		Example: "  cosentry uninstall\n  cosentry uninstall --host-root /host --purge",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.on(cmd, func(ctx context.Context, h *host.Host) error { return h.Uninstall(ctx, purge) })
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&purge, "purge", false, "remove the settings, the policies, the secrets, every copy of them and the audit log as well")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 5*time.Minute, "give up after this; what is left to do can be done again")
	return cmd
}
