package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/verify/policy"
)

func policyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Work with ClusterImagePolicy files", Example: "  cosentry policy check /etc/cosentry/policies"}
	cmd.AddCommand(policyCheckCommand(), policyTestCommand(), policySignedCommand())
	return cmd
}

func trustFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "trust", "", "folder of secrets/ and configmaps/ that policies refer to (default: trust.dir of the settings)")
}

// policySettings reads settings for commands that must work where no node is: on a laptop, in CI. held is --trust.
func policySettings(cmd *cobra.Command, held string) (config.Config, error) {
	c, err := settings(cmd)
	if err != nil {
		return c, err
	}
	path, err := settingsPath(cmd)
	if err != nil {
		return c, err
	}
	if path == "" {
		elsewhere(&c)
	}
	if held != "" {
		if c.Trust.Dir, err = filepath.Abs(held); err != nil {
			return c, err
		}
	}
	return c, nil
}

// elsewhere fits the built-in defaults, which are a node's, to another machine.
func elsewhere(c *config.Config) {
	missing := func(path string) bool {
		_, err := os.Stat(path)
		return errors.Is(err, fs.ErrNotExist)
	}
	if missing(c.Trust.CacheDir) {
		c.Trust.CacheDir = "" // nothing is left behind
	}
	if missing(c.Registry.DockerConfig) {
		dir := os.Getenv("DOCKER_CONFIG")
		if home, err := os.UserHomeDir(); err == nil && dir == "" {
			dir = filepath.Join(home, ".docker")
		}
		c.Registry.DockerConfig = ""
		if dir != "" {
			c.Registry.DockerConfig = filepath.Join(dir, "config.json")
		}
	}
}

// readPolicies reads files and folders as one set.
func readPolicies(paths []string) (*policy.Set, error) {
	var all []policy.Documents
	var faults []error
	for _, path := range paths {
		found, err := readDocuments(path)
		var wrong policy.Errors
		if errors.As(err, &wrong) {
			faults = append(faults, err) // go on: everything there is to mend is shown at once
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, found)
	}
	set, err := policy.NewSet(all...) // what is sound in itself is compared even if other files are not
	if err != nil {
		faults = append(faults, err)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return set, nil
}

func readDocuments(path string) (policy.Documents, error) {
	info, err := os.Stat(path)
	if err != nil {
		return policy.Documents{}, err
	}
	if !info.IsDir() {
		return policy.LoadFile(path)
	}
	set, err := policy.Load(path)
	if err != nil {
		return policy.Documents{}, err
	}
	return set.Documents(), nil
}
