package audit

import (
	"strconv"
	"strings"
	"time"
)

// Format is a record for people, on one line:
//
//	time #seq decision action namespace/pod/container image digest duration [break-glass] [cached] policy=result(authority [subject])… "reason"
//
// subject is who signed, where it was done without a key of his own.
// Names are given bare only if they are plain; anything with a blank, a quote, a
// control or an invisible character is quoted and escaped, so that a pod's
// name can neither move the cursor nor look like another column or another line.
func Format(e Entry) string {
	var b strings.Builder
	b.WriteString(e.Time.UTC().Format("2006-01-02T15:04:05.000Z"))
	b.WriteString(" #" + strconv.FormatUint(e.Seq, 10))
	b.WriteString(" " + bare(e.Decision, "/=()") + " " + bare(e.Action, "/=()"))
	switch e.Action {
	case ActionAudit:
	case ActionStart, ActionBreakGlass:
		b.WriteString(" " + bare(e.Mode, "/=()"))
	default:
		b.WriteString(" " + bare(e.Pod.Namespace, "/=()") + "/" + bare(e.Pod.Name, "/=()"))
		if e.Container != "" {
			b.WriteString("/" + bare(e.Container, "/=()"))
		}
		b.WriteString(" " + bare(e.Image, ""))
		if e.Digest != "" {
			b.WriteString(" " + bare(shortDigest(e.Digest), ""))
		}
		b.WriteString(" " + e.Duration.Round(time.Microsecond).String())
	}
	if e.Mode == ModeBreakGlass {
		b.WriteString(" " + ModeBreakGlass) // it went on, whatever was decided
	}
	if e.CacheHit {
		b.WriteString(" cached")
	}
	for _, p := range e.Policies {
		b.WriteString(" " + bare(p.Policy, "/=()") + "=" + bare(p.Result, "/=()"))
		if p.Authority != "" {
			b.WriteString("(" + bare(p.Authority, "/=()"))
			if p.Subject != "" {
				b.WriteString(" " + bare(p.Subject, "=()"))
			}
			b.WriteString(")")
		}
	}
	if e.Reason != "" {
		b.WriteString(" " + strconv.Quote(cut(joined(e.Reason), 1024)))
	}
	return b.String()
}

// joined puts what errors.Join made of several errors on one line. Newlines may
// stand in s escaped: whoever wrote the record may have done so.
func joined(s string) string { return newlines.Replace(s) }

var newlines = strings.NewReplacer("\r\n", "; ", "\n", "; ", `\r\n`, "; ", `\n`, "; ")

// printable is s on one line of printable ASCII, at most limit bytes of it and what says so.
func printable(s string, limit int) string {
	s = strconv.QuoteToASCII(joined(s))
	return cut(s[1:len(s)-1], limit)
}

// shortDigest keeps as much of a digest as people compare. The whole one is in Raw.
func shortDigest(d string) string {
	if algo, hex, ok := strings.Cut(d, ":"); ok && len(hex) > 12 {
		return algo + ":" + hex[:12]
	}
	return d
}

// bare gives s as it is if it is plain and has none of Format's own signs.
func bare(s, signs string) string {
	s = cut(s, 1024)
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || c == '"' || c == '\\' || strings.IndexByte(signs, c) >= 0 {
			return strconv.Quote(s)
		}
	}
	switch s {
	case "":
		return "-"
	case "-":
		return `"-"`
	}
	return s
}
