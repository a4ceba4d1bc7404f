package evidence

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// severalErrors is what errors.Join makes, but for words that end up in a pod's events and in a line of a log: it is
// one line, of causes that read the same it shows one, and it is short. errors.Is and errors.As find every cause.
type severalErrors struct{ causes []error }

// join is nil if all of errs are, and the one error if there is only one.
func join(errs ...error) error {
	var all severalErrors
	for _, err := range errs {
		if more, ok := err.(*severalErrors); ok {
			all.causes = append(all.causes, more.causes...)
		} else if err != nil {
			all.causes = append(all.causes, err)
		}
	}
	switch len(all.causes) {
	case 0:
		return nil
	case 1:
		return all.causes[0]
	}
	return &all
}

func (s *severalErrors) Unwrap() []error { return s.causes }

// maxSeveral is how long the words of several errors, or of what is incomplete, may be, in bytes. A registry can be the
// cause of hundreds of errors, and their words are kept with each verdict that they shaped.
const maxSeveral = 512

func (s *severalErrors) Error() string {
	const more = len("; … and 0000000 more")
	var words []string
	length := 0
	for i, err := range s.boundsFirst() {
		text := err.Error()
		if slices.Contains(words, text) {
			continue
		}
		if i == 0 {
			text = cut(text, maxSeveral-more)
		}
		if length += len("; ") + len(text); i > 0 && length+more > maxSeveral {
			words = append(words, fmt.Sprintf("… and %d more", len(s.causes)-i))
			break
		}
		words = append(words, text)
	}
	return strings.Join(words, "; ")
}

// boundsFirst orders the causes so that a bound that was met is named, however many others there are.
func (s *severalErrors) boundsFirst() []error {
	var bounds, others []error
	for _, err := range s.causes {
		if isExceeded(err) {
			bounds = append(bounds, err)
		} else {
			others = append(others, err)
		}
	}
	return append(bounds, others...)
}

// cut ends a text that is too long where a character ends.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most-len("…")], "") + "…"
}

// incompleteError is why evidence about a digest may not be all there is. Whoever shows it has named the digest, so it
// is shortened here: each cause names it once or twice more, and there is room for few words.
type incompleteError struct {
	subject digest.Digest
	cause   error
}

// incomplete is nil if all of errs are.
func incomplete(subject digest.Digest, errs ...error) error {
	cause := join(errs...)
	if cause == nil {
		return nil
	}
	return &incompleteError{subject: subject, cause: cause}
}

// shortDigest is how many characters are left of a digest that is shortened.
const shortDigest = 12

func (e *incompleteError) Error() string {
	whole := e.subject.Encoded()
	return cut(strings.NewReplacer("\n", "; ", whole, whole[:shortDigest]+"…").Replace(e.cause.Error()), maxSeveral)
}

func (e *incompleteError) Unwrap() error { return e.cause }
