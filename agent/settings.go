package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

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

// settings reads the node's settings: those that the agent goes by, so that it can be asked what it does while its file is faulty.
func settings(cmd *cobra.Command) (config.Config, error) {
	path, err := settingsPath(cmd)
	if err != nil {
		return config.Config{}, err
	}
	c, err := config.Load(path)
	if err == nil && path != "" {
		return c, nil
	}
	if kept, keptErr := keptSettings(path); keptErr == nil {
		if err == nil {
			err = noSettings(defaultConfig)
		}
		fmt.Fprintln(cmd.ErrOrStderr(), "the settings are NOT IN FORCE, and so this goes by the copy that holds,", kept.File+":", onOneLine(err))
		return kept.Config, nil
	}
	return c, err
}

// keptSettings is the service's copy of the settings at path.
func keptSettings(path string) (config.Kept, error) {
	if path == "" {
		path = defaultConfig
	}
	state := stateFolder()
	if state == "" {
		state = config.StateDir
	}
	return config.LoadKept(state, absolute(path))
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
line or field. Faulty settings are not in force: an agent goes on with those with which it last started well, and does not start where
there are none. So check a file before you restart it.
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
				fmt.Fprintln(cmd.ErrOrStderr(), whatHolds(path))
				return exitError(exitRefused)
			}
			if err != nil {
				if kept, keptErr := keptSettings(path); keptErr == nil {
					err = fmt.Errorf("%w\n%s", err, holds(kept))
				}
				return err
			}
			if kept, err := keptSettings(path); path == "" && err == nil {
				return fmt.Errorf("%w\n%s", noSettings(defaultConfig), holds(kept))
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

// whatHolds says what an agent does that finds the settings at path faulty.
func whatHolds(path string) string {
	kept, err := keptSettings(path)
	switch {
	case err == nil:
		return holds(kept)
	case errors.Is(err, fs.ErrNotExist):
		return "no agent starts with these settings: there is no copy of older ones from here with which one started well"
	}
	return "no agent starts with these settings, and whether there is a copy of older ones that it can go by is not known: " + onOneLine(err)
}

func holds(kept config.Kept) string {
	return fmt.Sprintf("an agent that starts now goes on with the settings with which it last started well: %s, mode %s, kept at %s; what was changed since then does not hold",
		kept.File, kept.Mode, kept.At.Format(time.RFC3339))
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
