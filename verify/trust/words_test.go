package trust

import (
	"errors"
	"strings"
	"testing"
)

// Whoever hands an error on must not escape once more what is quoted in it, and nothing in it may end its line.
func TestErrorIsOneLineAndEscapedOnce(t *testing.T) {
	for said, want := range map[string]string{
		`asking for "https://tuf.example": "dial \"x\""`: `asking for "https://tuf.example": "dial \"x\""`,
		"a\nlevel=ERROR  b\x1b[2J\x00":                   `a level=ERROR b\x1b[2J\x00`,
		"caf\u00e9 \u202e \xff":                          `caf\u00e9 \u202e ?`,
		strings.Repeat("x", maxReason+1):                 strings.Repeat("x", maxReason) + "…",
	} {
		if got := brief(errors.New(said)); got != want {
			t.Errorf("%q is told as %s, want %s", said, got, want)
		}
	}
}
