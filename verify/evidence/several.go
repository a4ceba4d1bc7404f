package evidence

import (
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// severalErrors is what errors.Join makes, but for words that end up in a pod's events and in a line of a log: it is
// one line, and of causes that read the same it shows one. errors.Is and errors.As find every cause.
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

func (s *severalErrors) Error() string {
	var words []string
	for _, err := range s.causes {
		if text := err.Error(); !slices.Contains(words, text) {
			words = append(words, text)
		}
	}
	return strings.Join(words, "; ")
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
	return strings.NewReplacer("\n", "; ", whole, whole[:shortDigest]+"…").Replace(e.cause.Error())
}

func (e *incompleteError) Unwrap() error { return e.cause }
