package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/cosentry/cosentry/agent/config"
	"github.com/cosentry/cosentry/agent/gate"
	"github.com/cosentry/cosentry/verify"
	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
)

func verifyCommand() *cobra.Command {
	var output, policies string
	cmd := &cobra.Command{
		Use:   "verify IMAGE",
		Short: "Judge an image as this node would, and explain",
		Long: `Resolve IMAGE at its registry, fetch its signatures and judge it by the node's policies,
as a pull on this node would be judged with the node's own credentials. Each policy that matches is
listed with each of its authorities. Nothing is pulled and nothing is recorded.
Exit status: 0 allowed, 1 refused, 2 could not tell.`,
		Example: `  cosentry verify registry.example/app:1.2
  cosentry verify --policies ./policies -o json registry.example/app@sha256:9f86d081…`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := settings(cmd)
			if err != nil {
				return err
			}
			if policies != "" {
				c.Policies.Dir = policies
			}
			e := explain(cmd.Context(), c, args[0], progress(cmd.ErrOrStderr()))
			if err := e.print(cmd.OutOrStdout(), output); err != nil {
				return err
			}
			return e.exit()
		},
	}
	cmd.Flags().StringVar(&policies, "policies", "", "folder of ClusterImagePolicy files (default: policies.dir of the settings)")
	outputFlag(cmd, &output)
	return cmd
}

// explanation is what `verify -o json` prints. Decision is what a node in enforce mode would do.
type explanation struct {
	Image    string          `json:"image"`
	Decision string          `json:"decision"` // allow, warn, deny or error
	Error    string          `json:"error,omitempty"`
	Verdict  *verify.Verdict `json:"verdict,omitempty"`
}

func (e explanation) exit() error {
	switch e.Decision {
	case "allow", "warn":
		return nil
	case "deny":
		return exitError(exitRefused)
	default:
		return exitError(exitUndecided)
	}
}

func explain(ctx context.Context, c config.Config, image string, say func(string)) explanation {
	v, err := judge(ctx, c, image, say)
	say("")
	e := explanation{Image: image}
	switch {
	case err != nil && gate.IsRefusal(err):
		e.Decision, e.Error = "deny", err.Error()
	case err != nil:
		e.Decision, e.Error = "error", err.Error()
	case !v.Allowed:
		e.Decision, e.Verdict = "deny", &v
	case v.Warn:
		e.Decision, e.Verdict = "warn", &v
	default:
		e.Decision, e.Verdict = "allow", &v
	}
	return e
}

func judge(ctx context.Context, c config.Config, image string, say func(string)) (verify.Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(c.Verification.PullTimeout))
	defer cancel()
	ref, err := gate.ParseReference(image)
	if err != nil {
		return verify.Verdict{}, err
	}
	set, err := policy.Load(c.Policies.Dir)
	if err != nil {
		return verify.Verdict{}, err
	}
	fetcher, err := newFetcher(c, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return verify.Verdict{}, err
	}
	verifier, err := newVerifier(c, fetcher, nil, nil)
	if err != nil {
		return verify.Verdict{}, err
	}
	verifier.SetPolicies(set, nil)
	d := ref.Digest
	if d == "" {
		say("resolving " + image)
		if d, err = fetcher.Resolve(ctx, ref.Repository, ref.Tag, evidence.Credentials{}); err != nil {
			return verify.Verdict{}, err // it says what was being resolved
		}
	}
	say("fetching signatures of " + d.String())
	return verifier.Verify(ctx, verify.Subject{Image: image, Repository: ref.Repository, Digest: d})
}

func (e explanation) print(w io.Writer, output string) error {
	if output == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(e)
	}
	words := map[string]string{
		"allow": "allowed", "warn": "allowed, with a warning", "deny": "REFUSED", "error": "COULD NOT TELL",
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "image\t%s\n", gate.Printable(e.Image))
	if v := e.Verdict; v != nil {
		fmt.Fprintf(t, "digest\t%s\nsignatures in\t%s\npolicies\trevision %s, %d matching\n", v.Digest, v.Repository, v.Revision, len(v.Policies))
	}
	fmt.Fprintf(t, "verdict\t%s\n", words[e.Decision])
	if e.Error != "" {
		fmt.Fprintf(t, "because\t%s\n", gate.Printable(e.Error))
	}
	if err := t.Flush(); err != nil || e.Verdict == nil {
		return err
	}
	return printPolicies(w, *e.Verdict)
}

func printPolicies(w io.Writer, v verify.Verdict) error {
	if v.NoMatch != "" {
		_, err := fmt.Fprintf(w, "\nno policy matches this image; policies.noMatch is %s\n", v.NoMatch)
		return err
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\nPOLICY\tMODE\tRESULT\tAUTHORITY\tKIND\tRESULT\tWHY")
	result := func(passed bool) string {
		if passed {
			return "pass"
		}
		return "fail"
	}
	for _, p := range v.Policies {
		for i, a := range p.Authorities {
			why := a.Reason
			if a.Passed && a.KeyFingerprint != "" {
				why = a.Form + " signature by " + a.KeyFingerprint
			}
			name, mode, res := p.Policy, p.Mode, result(p.Passed)
			if i > 0 {
				name, mode, res = "", "", ""
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, mode, res, gate.Printable(a.Authority), a.Kind, result(a.Passed), gate.Printable(why))
		}
	}
	return t.Flush()
}

// progress returns a function that shows what is being waited for, on a terminal; an empty
// text ends the show.
func progress(w io.Writer) func(string) {
	f, ok := w.(*os.File)
	if ok {
		info, err := f.Stat()
		ok = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	if !ok {
		return func(string) {}
	}
	return func(text string) {
		if text != "" {
			text += " …"
		}
		fmt.Fprintf(f, "\r\x1b[K%s", text)
	}
}
