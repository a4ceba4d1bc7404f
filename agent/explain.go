package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/cosentry/cosentry/agent/gate"
	"github.com/cosentry/cosentry/verify"
)

// explanation is what `verify -o json` and `policy test -o json` print; docs/verify-json.md describes it. Decision is what a
// node in enforce mode would do.
type explanation struct {
	Image    string          `json:"image"`
	Decision string          `json:"decision"` // allow, warn, deny or error
	Note     string          `json:"note,omitempty"`
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

func explained(image string, v verify.Verdict, err error) explanation {
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
	if e.Note != "" {
		fmt.Fprintf(t, "note\t%s\n", gate.Printable(e.Note))
	}
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
