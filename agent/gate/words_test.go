package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cosentry/cosentry/agent/node"
	"github.com/cosentry/cosentry/verify"
	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/trust"
)

func undecided(err error) error { return &verify.UndecidedError{Err: err, Policy: "p"} }

func TestWhatKubeletReads(t *testing.T) {
	const refused, unavailable = "SignatureValidationFailed: ", "RegistryUnavailable: "
	digested := verify.Verdict{Repository: app, Digest: manifest("x")}
	what := app + "@" + manifest("x").String()[:19] + "… "
	see := "ee: cosentry verify " + app + ":1"
	for name, tc := range map[string]struct {
		v      verify.Verdict
		err    error
		code   codes.Code
		prefix string
		words  []string
	}{
		"a policy refuses": {
			v: verify.Verdict{Repository: app, Digest: manifest("x"), Policies: []verify.PolicyResult{
				{Policy: "a", Mode: "enforce", Reason: "first"}, {Policy: "b", Mode: "warn", Reason: "only warns"},
				{Policy: "c", Mode: "enforce", Passed: true}, {Policy: "d", Mode: "enforce", Reason: "second"},
			}},
			code: codes.Unknown, prefix: refused + what + `is refused by policy "a": first; and by policy "d": second. Sign it, or s` + see,
		},
		"no policy matches": {
			v:    verify.Verdict{Image: app + ":1", Repository: app, Digest: manifest("x"), NoMatch: verify.NoMatchDeny},
			code: codes.Unknown, prefix: refused + what + "is refused: no policy matches " + app + ":1,", words: []string{see},
		},
		"policies are for other pods": {
			v:    verify.Verdict{Image: app + ":1", Repository: app, Digest: manifest("x"), NoMatch: verify.NoMatchDeny, OtherPods: 2},
			code: codes.Unknown, prefix: refused + what + "is refused: no policy matches " + app + ":1 in a pod with these labels,",
		},
		"a key that the node does not hold, which signing cannot mend": {
			v:    verify.Verdict{Repository: app, Digest: manifest("x"), Policies: []verify.PolicyResult{{Policy: "p", Mode: "enforce", Authorities: []verify.AuthorityResult{{Kind: "key", Reference: true}}}}},
			code: codes.Unknown, prefix: refused, words: []string{"Tell the node's owner what is missing: cosentry status", see},
		},
		"a rule that the node does not hold, although it is signed": {
			v:    verify.Verdict{Repository: app, Digest: manifest("x"), Policies: []verify.PolicyResult{{Policy: "p", Mode: "enforce", Reference: true, Authorities: []verify.AuthorityResult{{Kind: "key", Passed: true}}}}},
			code: codes.Unknown, prefix: refused, words: []string{"Tell the node's owner what is missing: cosentry status"},
		},
		"a key management service is away": {
			v: digested, err: undecided(fmt.Errorf("key: %w: connection refused", trust.ErrUnavailable)), code: codes.Unknown, prefix: refused + what + "could not be verified: ",
			words: []string{"connection refused", "kubelet will retry; if it stays, tell the node's owner: cosentry status"},
		},
		"the name cannot be matched": {
			v: digested, err: undecided(fmt.Errorf("%w: x", policy.ErrImageName)), code: codes.Unknown, prefix: refused + what + "is refused: ",
		},
		"not on this node": {
			err: fmt.Errorf("%w: x", node.ErrNotPresent), code: codes.Unknown, prefix: refused + app + ":1 is refused: no such image on this node",
		},
		"no policies on this node": {
			err: undecided(fmt.Errorf("%w: line 3", verify.ErrNoPolicy)), code: codes.Unknown, prefix: refused,
			words: []string{"cannot judge any image", "line 3", "cosentry status"},
		},
		"the registry is away": {
			v: digested, err: undecided(fmt.Errorf("%w: dial", evidence.ErrUnavailable)), code: codes.Unknown, prefix: unavailable + what, words: []string{"dial", "kubelet will retry", see},
		},
		"the registry is away while the tag is resolved": {
			err: &resolveError{fmt.Errorf("%w: dial", evidence.ErrUnavailable)}, code: codes.Unknown, prefix: unavailable + app + ":1 ", words: []string{"dial", see},
		},
		"no policy matches, which signing cannot mend": {
			v: verify.Verdict{Repository: app, Digest: manifest("good"), Image: app + ":1", NoMatch: verify.NoMatchDeny}, code: codes.Unknown, prefix: refused, words: []string{"Ask the node's owner for a policy that matches it", see},
		},
		"a policy that fails every image, which signing cannot mend": {
			v: verify.Verdict{Repository: app, Digest: manifest("good"), Policies: []verify.PolicyResult{{Policy: "shut", Mode: "enforce", Authorities: []verify.AuthorityResult{{Kind: "static"}}}}}, code: codes.Unknown, prefix: refused, words: []string{"Ask the node's owner for a policy that accepts it", see},
		},
		"not on the node": {
			err: fmt.Errorf("%w: x", node.ErrNotPresent), code: codes.Unknown, prefix: refused, words: []string{"Let it be pulled through cosentry first"},
		},
		"a record that was moved by hand": {
			err: fmt.Errorf("%w: x", node.ErrMoved), code: codes.Unknown, prefix: refused, words: []string{"let it be pulled again"},
		},
		"time is up": {
			err: undecided(context.DeadlineExceeded), code: codes.Unknown, prefix: unavailable,
		},
		"no such tag": {
			err: &resolveError{fmt.Errorf("%w: manifest unknown", evidence.ErrNotFound)}, code: codes.NotFound, prefix: app + ":1: ", words: []string{"manifest unknown", "pull secret"},
		},
		"no right to resolve the tag": {
			err: &resolveError{fmt.Errorf("%w: 401", evidence.ErrUnauthorized)}, code: codes.NotFound, prefix: app + ":1: ", words: []string{"401", "pull secret"},
		},
		"no right to read the signatures": {
			v: digested, err: undecided(fmt.Errorf("%w: 401", evidence.ErrUnauthorized)), code: codes.Unknown, prefix: refused + what, words: []string{"401", "credentials that may read the signatures", see},
		},
		"a registry that answers something else": {
			err: &resolveError{evidence.ErrMismatch}, code: codes.Unknown, prefix: refused, words: []string{"could not be verified", see},
		},
		"undecided for another reason": {
			v: digested, err: undecided(errors.New("verification panicked")), code: codes.Unknown, prefix: refused, words: []string{"panicked", see},
		},
		"kubelet gave up": {
			err: undecided(fmt.Errorf("%w: %w", evidence.ErrUnavailable, context.Canceled)), code: codes.Canceled,
		},
		"the runtime is down": {
			err: fmt.Errorf("asking: %w", status.Error(codes.Unavailable, "refused")), code: codes.Unavailable, prefix: app + ":1 could not be judged: ",
		},
		"the runtime is slow": {
			err: fmt.Errorf("asking: %w", status.Error(codes.DeadlineExceeded, "slow")), code: codes.DeadlineExceeded, prefix: app + ":1 could not be judged: ",
		},
		"something else": {
			err: io.ErrUnexpectedEOF, code: codes.Unknown, prefix: app + ":1 could not be judged: ",
		},
		"something else that says it allowed": {
			v: verify.Verdict{Allowed: true}, err: io.ErrUnexpectedEOF, code: codes.Unknown, prefix: app + ":1 could not be judged: ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			wantMessage(t, explain(request{image: app + ":1"}, tc.v, tc.err), tc.code, tc.prefix, tc.words...)
		})
	}
}

// Names are a pod author's, reasons a registry's: neither may forge a line, steer a terminal or
// push the advice out of what is kept.
func TestMessagesAreBoundedPrintableAndKeepTheirAdvice(t *testing.T) {
	foreign := map[string]string{
		"long":               strings.Repeat("x", 9000),
		"several bytes each": strings.Repeat("€", 3000),
		"lines":              strings.Repeat("a\n\r", 3000),
		"terminal":           strings.Repeat("\x1b[2J\a", 3000),
		"bidirectional":      strings.Repeat("\u202e", 3000),
		"not UTF-8":          strings.Repeat("\xff\xc3", 3000),
		"short":              "x\n",
		"empty":              "",
	}
	for name, s := range foreign {
		for what, tc := range map[string]struct {
			v      verify.Verdict
			err    error
			advice string
		}{
			"policies":     {v: verify.Verdict{Repository: s, Digest: manifest("x"), Policies: []verify.PolicyResult{{Policy: s, Mode: "enforce", Reason: s}, {Policy: s, Mode: "enforce", Reason: s}}}, advice: "Sign it, or see: cosentry verify "},
			"no match":     {v: verify.Verdict{Repository: s, Digest: manifest("x"), Image: s, NoMatch: verify.NoMatchDeny}, advice: "Ask the node's owner for a policy that matches it, or see: cosentry verify "},
			"refusal":      {err: refuse(s)},
			"unavailable":  {v: verify.Verdict{Repository: s, Digest: manifest("x")}, err: undecided(fmt.Errorf("%w: %s", evidence.ErrUnavailable, s)), advice: "kubelet will retry; to look closer, see: cosentry verify "},
			"unauthorized": {v: verify.Verdict{Repository: s, Digest: manifest("x")}, err: undecided(fmt.Errorf("%w: %s", evidence.ErrUnauthorized, s)), advice: "see: cosentry verify "},
			"undecided":    {v: verify.Verdict{Repository: s, Digest: manifest("x")}, err: undecided(errors.New(s)), advice: "See: cosentry verify "},
			"no policy":    {err: undecided(fmt.Errorf("%w: %s", verify.ErrNoPolicy, s)), advice: "cosentry status"},
			"not found":    {err: &resolveError{evidence.ErrNotFound}, advice: "pull secret"},
			"runtime":      {err: errors.New(s)},
		} {
			message := status.Convert(explain(request{image: s}, tc.v, tc.err)).Message()
			if len(message) > 1024 || !utf8.ValidString(message) {
				t.Errorf("%s, %s: %d bytes, valid UTF-8: %v", what, name, len(message), utf8.ValidString(message))
			}
			if strings.ContainsFunc(message, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%s, %s: not printable: %q", what, name, message)
			}
			if strings.HasSuffix(tc.advice, "verify ") {
				tc.advice += clip(s, maxForeign)
			}
			if !strings.Contains(message, tc.advice) {
				t.Errorf("%s, %s: the advice %q was cut: %s", what, name, tc.advice, message)
			}
		}
		message := status.Convert(unrecorded(request{image: s}, errors.New(s))).Message()
		if len(message) > 1024 || !strings.HasSuffix(message, "cosentry status") {
			t.Errorf("unrecorded, %s: %d bytes: %s", name, len(message), message)
		}
	}
}

func TestClip(t *testing.T) {
	for _, s := range []string{"", "a", "€", "a€b", "a€€€€", strings.Repeat("€", 100), strings.Repeat("a\n", 100)} {
		for n := 3; n < 40; n++ {
			got := clip(s, n)
			if len(got) > n || !utf8.ValidString(got) {
				t.Errorf("clip(%q, %d) = %q", s, n, got)
			}
			if len(Printable(s)) <= n && got != Printable(s) {
				t.Errorf("clip(%q, %d) = %q, though it fits", s, n, got)
			}
		}
	}
}

func TestNewRefusesWhatIsIncomplete(t *testing.T) {
	w := newWorld()
	whole := Options{Verifier: w, Resolver: w, Images: w, Recorder: w, CreateTimeout: time.Second, PullTimeout: time.Second, Log: slog.New(slog.DiscardHandler)}
	if _, err := New(whole); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Options){
		"verifier":       func(o *Options) { o.Verifier = nil },
		"resolver":       func(o *Options) { o.Resolver = nil },
		"images":         func(o *Options) { o.Images = nil },
		"recorder":       func(o *Options) { o.Recorder = nil },
		"log":            func(o *Options) { o.Log = nil },
		"create timeout": func(o *Options) { o.CreateTimeout = 0 },
		"pull timeout":   func(o *Options) { o.PullTimeout = -1 },
	} {
		o := whole
		spoil(&o)
		if _, err := New(o); err == nil {
			t.Errorf("made without a %s", name)
		}
	}
}
