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
	"strings"
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

// defaultConfig is read where no other settings file is named. Where it does not exist, the built-in
// defaults hold.
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
	root.AddCommand(runCommand(), verifyCommand(), policyCommand(), configCommand(), auditCommand(), statusCommand(), breakGlassCommand(), syncCommand(), reportCommand(), installCommand(), uninstallCommand(), superviseCommand(), waitCommand(), doctorCommand(), versionCommand())
	root.InitDefaultCompletionCmd()
	refuseUnknown(root)
	return root
}

// refuseUnknown has commands that only hold others fail on what they do not hold. cobra would print
// help and succeed: a misspelt `audit verify` in a script would find every log intact.
func refuseUnknown(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		refuseUnknown(c)
	}
	if !cmd.HasParent() || !cmd.HasSubCommands() || cmd.Runnable() {
		return // cobra sees to the root itself
	}
	cmd.Args = cobra.ArbitraryArgs
	cmd.SuggestionsMinimumDistance = 2
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		hint := ""
		if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
			hint = fmt.Sprintf("; did you mean %s?", strings.Join(like, " or "))
		}
		return fmt.Errorf("unknown command %q for %q%s", args[0], cmd.CommandPath(), hint)
	}
}
