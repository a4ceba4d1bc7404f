package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/firsthand"
	"github.com/cosentry/cosentry/agent/host"
	"github.com/cosentry/cosentry/agent/host/kubelet"
	"github.com/cosentry/cosentry/systemd/manager"
)

// hostFlags are those of every command that works on a host.
type hostFlags struct {
	root, runtime, kubelet   string
	mode, settings, policies string
	healthz                  string
	weaken, again            bool
	replace                  bool
	binary                   string        // of install alone
	timeout                  time.Duration // of install and uninstall
}

func (f *hostFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.root, "host-root", "/", "where the host's root is mounted")
	cmd.Flags().StringVar(&f.kubelet, "kubelet", kubelet.Auto, "how this host's kubelet is told its runtime: auto, kubeadm, kind, gke, k3s, rke2, eks, config-dir or the absolute path of the file")
	cmd.Flags().StringVar(&f.healthz, "kubelet-healthz", "http://127.0.0.1:10248/healthz", "where kubelet says that it is well")
	f.runtime, f.mode = "auto", string(config.Observe)
}

// addInstall adds the flags of commands that install.
func (f *hostFlags) addInstall(cmd *cobra.Command) {
	f.add(cmd)
	cmd.Flags().StringVar(&f.runtime, "runtime", "auto", "the runtime: auto, containerd or crio")
	cmd.Flags().StringVar(&f.mode, "mode", string(config.Observe), "mode of settings that are made new: observe or enforce")
	cmd.Flags().StringVar(&f.settings, "settings", "", "settings file for a host that has none, or has an earlier one that nobody changed")
	cmd.Flags().StringVar(&f.policies, "policies", "", "folder of policies for a host's first installation; later, what differs from the node's own is named and not taken")
	cmd.MarkFlagsMutuallyExclusive("mode", "settings")
}

func installCommand() *cobra.Command {
	var f hostFlags
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Put cosentry between this host's kubelet and its runtime",
		Long: `Put this binary, its settings and its units on the host, start the agent, prove that it answers for
the runtime and meets an unsigned image, point kubelet at it, and prove that kubelet is well and uses it.
What fails is put back. What is as it should be is left alone, so it can be done again at any time; with another
binary it is an upgrade, which restarts the agent and keeps its socket. Settings and policies of the owner's are
never overwritten; new settings say mode observe, which refuses nothing. Once a node enforces, --settings can
make it stricter and not looser: what would loosen it is named, and left out as a whole. --policies are taken at a
node's first installation; later they are compared with the node's own, and what differs is named. For other
policies, change the files on the node, or give --replace-policies there.
With --binary that binary is asked for its version and whether it would start with the settings, first of all.
An upgrade that did not prove itself is not tried again for a while, unless --again is given. Where a person
took cosentry off the node, a container (--host-root) says so and installs nothing: supervise shows that node as
removed. Run by a person on the node it is installed again.
Exit status: 0 installed, or left alone because a person took it off; 2 not installed.`,
		Example: "  cosentry install --dry-run\n  cosentry install\n  cosentry install --host-root /host --settings /config/config.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.on(cmd, func(ctx context.Context, h *host.Host) error {
				if dryRun {
					p, err := h.Plan(ctx)
					if err != nil {
						return err
					}
					return p.Print(cmd.OutOrStdout())
				}
				err := h.Install(ctx)
				if errors.Is(err, host.ErrTakenOff) {
					_, err = fmt.Fprintf(cmd.OutOrStdout(), "NOT INSTALLED: %v\n", err)
				}
				return err
			})
		},
	}
	f.addInstall(cmd)
	cmd.Flags().BoolVar(&f.weaken, "weaken", false, "take --settings also where they loosen what this node enforces; on the node itself only")
	cmd.Flags().BoolVar(&f.replace, "replace-policies", false, "make the node's policies those of --policies and no others; on the node itself only")
	cmd.Flags().BoolVar(&f.again, "again", false, "try an upgrade again that did not prove itself a short time ago")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be done, with the diff of every file, and do nothing")
	cmd.Flags().StringVar(&f.binary, "binary", "", "install this file instead of the binary that runs")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 8*time.Minute, "give up after this, and put back what was changed")
	return cmd
}

// on opens the host of the flags and has do work on it, until --timeout is over.
func (f *hostFlags) on(cmd *cobra.Command, do func(ctx context.Context, h *host.Host) error) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
	defer cancel()
	o, err := f.options(ctx, cmd.OutOrStdout())
	if err != nil {
		return err
	}
	if f.binary != "" {
		if o.Binary, o.Version, err = another(ctx, f.binary); err != nil {
			return err
		}
		o.Check = anotherChecks(ctx, o.Binary)
	}
	h, err := host.New(o)
	if err != nil {
		return err
	}
	defer h.Close()
	return do(ctx, h)
}

// options are those that the flags ask for, with this host's systemd and proofs on it.
func (f *hostFlags) options(ctx context.Context, out io.Writer) (host.Options, error) {
	for _, c := range []struct {
		flag, value string
		allowed     []string
	}{
		{"runtime", f.runtime, []string{"auto", "containerd", "crio"}},
		{"mode", f.mode, []string{string(config.Observe), string(config.Enforce)}},
	} {
		if !strings.Contains(" "+strings.Join(c.allowed, " ")+" ", " "+c.value+" ") {
			return host.Options{}, fmt.Errorf("--%s %s: not one of %s", c.flag, c.value, strings.Join(c.allowed, ", "))
		}
	}
	root, err := filepath.Abs(f.root)
	if err != nil {
		return host.Options{}, err
	}
	switch {
	case f.weaken && f.settings == "":
		return host.Options{}, errors.New("--weaken is about the settings of --settings, which is not given")
	case f.weaken && root != "/":
		return host.Options{}, errors.New("--weaken is for the owner of a node, on the node itself: not with --host-root")
	case f.replace && f.policies == "":
		return host.Options{}, errors.New("--replace-policies is about the policies of --policies, which is not given")
	case f.replace && root != "/":
		return host.Options{}, errors.New("--replace-policies is for the owner of a node, on the node itself: not with --host-root")
	case f.replace:
		if _, err := readPolicies([]string{f.policies}); err != nil {
			return host.Options{}, fmt.Errorf("the node would have no policies that can be used: %w", err)
		}
	}
	sd, err := manager.Dial(ctx, root)
	if err != nil {
		return host.Options{}, fmt.Errorf("%w; in a container, mount the host's root and name it with --host-root", err)
	}
	return host.Options{
		Root: root, Runtime: f.runtime, Kubelet: f.kubelet, Mode: f.mode,
		Binary: "/proc/self/exe", Version: buildVersion(), Settings: f.settings, Weaken: f.weaken,
		Policies: f.policies, ReplacePolicies: f.replace,
		Person: root == "/", Again: f.again,
		Systemd: sd, Proofs: firsthand.Proofs{Root: root, Healthz: f.healthz}, Out: out,
	}, nil
}
