package sync

import (
	"strings"
)

// maxReason is how much of an error is shown, in bytes.
const maxReason = 1000

// brief is an error on one line: what the API server and the documents in it say is foreign text.
func brief(err error) string {
	s, cut := err.Error(), ""
	if len(s) > maxReason {
		s, cut = s[:maxReason], "…"
	}
	return strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "?"), func(r rune) bool { return r <= ' ' || r == 0x7f }), " ") + cut
}
