package trust

import (
	"regexp"
	"strconv"
	"strings"
)

const (
	maxQuoted = 200 // bytes of foreign text in a message
	maxReason = 300 // bytes of a library's error in a message
)

// quote shows foreign text: escaped, so that it cannot forge a line of a log, and cut.
func quote(s string) string {
	if len(s) > maxQuoted {
		return strconv.QuoteToASCII(s[:maxQuoted]) + "…"
	}
	return strconv.QuoteToASCII(s)
}

// brief is a library's error on one line: the libraries of clouds write several, and quote what servers say.
func brief(err error) string {
	s := err.Error()
	cut := ""
	if len(s) > maxReason {
		s, cut = s[:maxReason], "…"
	}
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	var b strings.Builder
	for _, r := range s {
		if r < ' ' || r > '~' {
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
			continue
		}
		b.WriteRune(r) // quotes and backslashes too: what is quoted in it is escaped already, and must be readable
	}
	return b.String() + cut
}

var (
	subdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	dataKey   = regexp.MustCompile(`^[-._a-zA-Z0-9]+$`)
)

// maxName is the longest name in Kubernetes, and the longest key of a Secret or ConfigMap.
const maxName = 253

func isSubdomain(s string) bool { return len(s) <= maxName && subdomain.MatchString(s) }

// isDataKey is Kubernetes' rule for the keys of Secrets and ConfigMaps. What begins with two dots is never a key: it
// is where a mount keeps its data, or the way out of the folder.
func isDataKey(s string) bool {
	return len(s) <= maxName && s != "." && !strings.HasPrefix(s, "..") && dataKey.MatchString(s)
}
