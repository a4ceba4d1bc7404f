package main

import (
	"github.com/spf13/cobra"
)

// waitCommand is what a pod of a DaemonSet runs once its work is done: it may not end, or it would be started over, and
// the image holds no other program that could wait.
func waitCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "wait",
		Short:   "Do nothing until told to stop",
		Example: "  cosentry wait",
		Args:    cobra.NoArgs,
		Hidden:  true,
		Run:     func(cmd *cobra.Command, _ []string) { <-cmd.Context().Done() },
	}
}
