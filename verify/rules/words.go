package rules

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// words makes foreign text fit to be shown: on one line, without control characters, and cut.
func words(text string) string {
	cut := ""
	if len(text) > maxWords {
		text, cut = text[:maxWords], "…"
		for len(text) > 0 && !utf8.ValidString(text[max(0, len(text)-utf8.UTFMax):]) && !utf8.RuneStart(text[len(text)-1]) {
			text = text[:len(text)-1]
		}
	}
	text = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	return strings.Join(strings.Fields(text), " ") + cut
}
