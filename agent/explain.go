package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/cosentry/cosentry/agent/gate"
	"github.com/cosentry/cosentry/verify"
	"github.com/cosentry/cosentry/verify/sigstore"
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
	var undecided *verify.UndecidedError
	switch {
	case err != nil && gate.IsRefusal(err):
		e.Decision, e.Error = "deny", err.Error()
	case errors.As(err, &undecided):
		e.Decision, e.Error, e.Verdict = "error", err.Error(), undecided.Verdict
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
		what := "no policy matches this image"
		if v.OtherPods > 0 {
			what = fmt.Sprintf("%d policies name this image, and none is for this pod's labels", v.OtherPods)
		}
		if _, err := fmt.Fprintf(w, "\n%s; policies.noMatch is %s\n", what, v.NoMatch); err != nil || len(v.Policies) == 0 {
			return err
		}
	}
	return errors.Join(printAuthorities(w, v), printRules(w, v), printSigners(w, v), printAttestations(w, v))
}

// called tells policies of one name in the two layers apart.
func called(p verify.PolicyResult) string {
	if p.Layer == verify.ClusterLayer {
		return "cluster: " + p.Policy
	}
	return p.Policy
}

func result(passed, undecided bool) string {
	switch {
	case passed:
		return "pass"
	case undecided:
		return "unknown"
	}
	return "FAIL"
}

func printAuthorities(w io.Writer, v verify.Verdict) error {
	t := table(w, "POLICY", "MODE", "RESULT", "AUTHORITY", "KIND", "RESULT", "FOUND", "WHY")
	for _, p := range v.Policies {
		for i, a := range p.Authorities {
			name, mode, res := called(p), p.Mode, result(p.Passed, p.Undecided)
			if i > 0 {
				name, mode, res = "", "", ""
			}
			t.row(name, mode, res, a.Authority, a.Kind, result(a.Passed, a.Undecided), strconv.Itoa(a.Found), why(a))
		}
	}
	return t.flush()
}

// why says in one line why an authority is of its opinion.
func why(a verify.AuthorityResult) string {
	if !a.Passed || len(a.Signers) == 0 {
		return a.Reason
	}
	words := a.Form + " signature by " + by(a.Signers[0])
	if len(a.Attestations) > 0 {
		words = fmt.Sprintf("%d attestations by %s", len(a.Attestations), by(a.Signers[0]))
	}
	if n := len(a.Signers) - 1; n > 0 {
		words += fmt.Sprintf(" and %d more", n)
	}
	return words
}

// by names a signer as briefly as it can be done.
func by(s sigstore.Signer) string {
	if s.Subject != "" {
		return s.Subject
	}
	return s.KeyFingerprint
}

// printRules tells of what rules said: those of policies whose authorities were content, and warnings of any.
func printRules(w io.Writer, v verify.Verdict) error {
	failed := table(w, "POLICY", "WHY IT FAILED ALTHOUGH AN AUTHORITY PASSED")
	warned := table(w, "POLICY", "WARNING")
	for _, p := range v.Policies {
		if _, ok := p.Authority(); ok && !p.Passed {
			failed.row(called(p), p.Reason)
		}
		if p.Warning != "" {
			warned.row(called(p), p.Warning)
		}
		for _, a := range p.Authorities {
			for _, att := range a.Attestations {
				if att.Warning != "" {
					warned.row(called(p), fmt.Sprintf("attestation %q: %s", att.Name, att.Warning))
				}
			}
		}
	}
	return errors.Join(failed.flush(), warned.flush())
}

// printSigners tells who signed what was accepted.
func printSigners(w io.Writer, v verify.Verdict) error {
	t := table(w, "POLICY", "AUTHORITY", "SIGNED BY", "ISSUER", "FORM", "LOG INDEX", "LOG TIME", "TIMESTAMP")
	clock := func(at *time.Time) string {
		if at == nil {
			return ""
		}
		return at.UTC().Format(time.RFC3339)
	}
	for _, p := range v.Policies {
		for _, a := range p.Authorities {
			for _, s := range a.Signers {
				index := ""
				if s.LogIndex != nil {
					index = strconv.FormatInt(*s.LogIndex, 10)
				}
				t.row(called(p), a.Authority, by(s), s.Issuer, s.Form, index, clock(s.LogTime), clock(s.Timestamp))
			}
		}
	}
	return t.flush()
}

// printAttestations tells what became of the attestations that were asked for.
func printAttestations(w io.Writer, v verify.Verdict) error {
	t := table(w, "POLICY", "AUTHORITY", "ATTESTATION", "TYPE", "RESULT", "WHY")
	for _, p := range v.Policies {
		for _, a := range p.Authorities {
			for _, att := range a.Attestations {
				t.row(called(p), a.Authority, att.Name, att.PredicateType, result(att.Passed, false), att.Reason)
			}
		}
	}
	return t.flush()
}

// sheet is a table that is not printed if it has no rows. What is in it may be a stranger's words.
type sheet struct {
	*tabwriter.Writer
	heads []string
	some  bool
}

func table(w io.Writer, heads ...string) *sheet {
	return &sheet{Writer: tabwriter.NewWriter(w, 0, 8, 2, ' ', 0), heads: heads}
}

func (s *sheet) row(cells ...string) {
	if !s.some {
		s.some = true
		fmt.Fprintln(s, "\n"+strings.Join(s.heads, "\t"))
	}
	for i, c := range cells {
		if cells[i] = gate.Printable(c); c == "" && i > 2 {
			cells[i] = "-"
		}
	}
	fmt.Fprintln(s, strings.Join(cells, "\t"))
}

func (s *sheet) flush() error { return s.Flush() }

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
