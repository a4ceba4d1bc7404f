package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/cosentry/cosentry/agent/config"
)

// settingsPath is the file that --config names, or the one in its usual place, or "" if there is
// none: then the built-in defaults hold.
func settingsPath(cmd *cobra.Command) (string, error) {
	path, err := cmd.Flags().GetString("config")
	if err != nil || path != "" {
		return path, err
	}
	if _, err := os.Stat(defaultConfig); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return defaultConfig, nil
}

// settings reads the node's settings.
func settings(cmd *cobra.Command) (config.Config, error) {
	path, err := settingsPath(cmd)
	if err != nil {
		return config.Config{}, err
	}
	return config.Load(path)
}

func configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Work with the settings file", Example: "  cosentry config check"}
	cmd.AddCommand(configCheckCommand())
	return cmd
}

func configCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a settings file as strictly as the agent does",
		Long: `Read a settings file exactly as the agent would at its next start, and print every fault with its
line or field. An agent does not start with faulty settings: check a file before you restart it.
Without FILE it is the one that --config names, or the one in its usual place.
Exit status: 0 good, 1 faulty, 2 could not be read.`,
		Example: "  cosentry config check\n  cosentry config check ./config.yaml && cp ./config.yaml " + defaultConfig,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := settingsPath(cmd)
			if len(args) == 1 {
				path, err = args[0], nil
			}
			if err != nil {
				return err
			}
			c, err := config.Load(path)
			var faulty *config.FaultyError
			if errors.As(err, &faulty) {
				fmt.Fprintln(cmd.ErrOrStderr(), err)
				return exitError(exitRefused)
			}
			if err != nil {
				return err
			}
			if path == "" {
				path = "no file at " + defaultConfig + ", so the built-in defaults hold"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: good\nmode %s, socket %s, runtime %s, policies in %s\n",
				path, c.Mode, c.Listen, c.Runtime.Endpoint, c.Policies.Dir)
			return err
		},
	}
}

// newLog returns the agent's own log, on w.
func newLog(c config.Log, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		level = slog.LevelInfo
	}
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "text" {
		return slog.New(slog.NewTextHandler(w, o))
	}
	return slog.New(slog.NewJSONHandler(w, o))
}
