// Command cosentry stands between kubelet and the container runtime on the CRI socket and
// refuses images that are not signed as the node's policies demand.
//
// This package only wires: each file is one subcommand, and what it does lives in the packages
// that it calls.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes. verify and its kin tell a refusal from a failure to find out.
const (
	exitRefused   = 1
	exitUndecided = 2
)

// exitError carries an exit code up to main. What was to be said has been said.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := rootCommand().ExecuteContext(ctx)
	stop()
	var code exitError
	switch {
	case err == nil:
	case errors.As(err, &code):
		os.Exit(int(code))
	default:
		fmt.Fprintln(os.Stderr, "cosentry:", err)
		os.Exit(exitUndecided)
	}
}

// defaultConfig is where install puts the settings. Commands fall back on the built-in defaults
// only where it does not exist and no other file was named.
const defaultConfig = "/etc/cosentry/config.yaml"

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "cosentry",
		Short: "Let only images run that are signed as this node's policies demand",
		Long: `cosentry stands between kubelet and the container runtime on the CRI socket.
It verifies sigstore/cosign signatures of every image that is pulled, run or
mounted, by the ClusterImagePolicy files of the node, and refuses the rest.`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.PersistentFlags().String("config", "", "settings file (default "+defaultConfig+" if it exists)")
	root.AddCommand(runCommand(), verifyCommand(), policyCommand(), auditCommand(), statusCommand(), versionCommand())
	return root
}
