package evidence

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/limits"
)

func TestSeveralErrorsAreOneLineWithoutRepetition(t *testing.T) {
	d := digest.FromString("the image")
	refused := fmt.Errorf("%w: GET r.example/v2/app/manifests/%s.sig", ErrUnauthorized, strings.Replace(d.String(), ":", "-", 1))
	nested := fmt.Errorf("referrer of %s: %w", d, join(ErrMismatch, ErrNotFound, ErrMismatch))
	err := incomplete(d, nil, join(refused, nested), refused, join(refused, &limits.Exceeded{Bound: limits.Payload}), errors.New("two\nlines"))
	text := err.Error()
	if strings.Contains(text, "\n") || strings.Contains(text, d.Encoded()) || strings.Count(text, "sha256:"+d.Encoded()[:12]+"…") != 1 {
		t.Errorf("not one line with the digest shortened: %q", text)
	}
	for _, once := range []error{ErrUnauthorized, ErrMismatch, ErrNotFound} {
		if strings.Count(text, once.Error()) != 1 {
			t.Errorf("%q is not there once: %q", once, text)
		}
		if !errors.Is(err, once) {
			t.Errorf("%v is not found", once)
		}
	}
	var exceeded *limits.Exceeded
	if !errors.As(err, &exceeded) || exceeded.Bound != limits.Payload {
		t.Errorf("the bound is not found in %v", err)
	}
	if errors.Is(err, ErrUnavailable) {
		t.Error("found what is not there")
	}
}

func TestNoErrorsAreNone(t *testing.T) {
	if err := join(nil, nil); err != nil {
		t.Errorf("join: %v", err)
	}
	if err := incomplete(digest.FromString("x"), nil); err != nil {
		t.Errorf("incomplete: %v", err)
	}
	if err := join(nil, ErrNotFound); err != ErrNotFound {
		t.Errorf("one became %v", err)
	}
}

// TestWordsOfManyErrorsAreFew: a registry that lists 128 referrers and has none of them once had 40 KiB kept with each
// verdict. What bound was met is said all the same.
func TestWordsOfManyErrorsAreFew(t *testing.T) {
	d := digest.FromString("the image")
	var all []error
	for i := range 128 {
		all = append(all, fmt.Errorf("%w: GET r.example/v2/app/manifests/%s", ErrNotFound, digest.FromString(fmt.Sprint(i))))
	}
	text := incomplete(d, join(all...)).Error()
	if len(text) > 512 || !strings.Contains(text, ErrNotFound.Error()) || !strings.HasSuffix(text, "… and 125 more") {
		t.Errorf("%d bytes: %s", len(text), text)
	}
	text = incomplete(d, join(all...), &limits.Exceeded{Bound: limits.Signatures}).Error()
	if len(text) > 512 || !strings.Contains(text, limits.Signatures.String()) || !strings.Contains(text, ErrNotFound.Error()) {
		t.Errorf("%d bytes: %s", len(text), text)
	}
	for _, long := range []error{errors.New(strings.Repeat("ü", 1000)), join(errors.New(strings.Repeat("ü", 1000)), ErrNotFound)} {
		if text = incomplete(d, long).Error(); len(text) > 512 || !utf8.ValidString(text) {
			t.Errorf("%d bytes: %q", len(text), text)
		}
	}
}
