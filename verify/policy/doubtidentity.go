package policy

import (
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode"
)

const (
	publicRekor  = "https://rekor.sigstore.dev"
	publicFulcio = "https://fulcio.sigstore.dev"
)

func (d doubts) keyless(a *Authority, at string) {
	k := a.Keyless
	at += ".keyless"
	if k.IgnoreSCT {
		d.add(at+".insecureIgnoreSCT", "accepts certificates that no transparency log has seen: a certificate authority that was broken into would not be noticed")
	}
	if !a.NeedsLog() && a.Timestamp == nil {
		d.add(strings.TrimSuffix(at, ".keyless")+".ctlog", "is {}, so nothing proves when a signature was made: certificates live for minutes, so ask for rfc3161timestamp or for a log")
	}
	if k.URL != "" && strings.TrimSuffix(k.URL, "/") != publicFulcio && k.TrustRoot == "" {
		d.add(at+".url", "certificates are checked with the public-good instance's authorities, because there is no trustRootRef beside it")
	}
	if k.CA != nil {
		d.expired(at+".ca-cert.data", []byte(k.CA.PEM))
		d.reference(at+".ca-cert.secretRef", k.CA.Secret)
	}
	for i, id := range k.Identities {
		here := index(at+".identities", i)
		d.regexp(here+".issuerRegExp", "issuer", id.IssuerRegExp)
		d.regexp(here+".subjectRegExp", "subject", id.SubjectRegExp)
	}
}

// regexp warns of an expression that accepts more than it seems to, with a value that shows it.
func (d doubts) regexp(at, what string, re *regexp.Regexp) {
	if re == nil {
		return
	}
	tree, err := syntax.Parse(re.String(), syntax.Perl)
	if err != nil {
		return // it has compiled
	}
	tree = tree.Simplify()
	if re.MatchString("mallory@attacker.example") && re.MatchString("https://attacker.example/0") && re.MatchString("-") {
		d.add(at, "%s accepts every %s: whoever has an account there can sign", quote(re.String()), what)
		return
	}
	sample := example(tree, false)
	var lookAlike string
	switch start, end := anchored(tree, syntax.OpBeginText, false), anchored(tree, syntax.OpEndText, true); {
	case !start:
		lookAlike = "https://attacker.example/" + sample
	case !end:
		lookAlike = sample + ".attacker.example"
	default:
		if odd := example(tree, true); odd != sample && re.MatchString(odd) {
			d.add(at, "a dot in %s stands for any character, so that it matches %s too: write \\.", quote(re.String()), quote(odd))
		}
		return
	}
	if re.MatchString(lookAlike) {
		d.add(at, "%s is not anchored, so that it matches %s too: write ^ before it and $ behind it", quote(re.String()), quote(lookAlike))
		return
	}
	d.add(at, "%s is not anchored, so that it matches wherever it is found in the %s: write ^ before it and $ behind it", quote(re.String()), what)
}

// anchored reports whether each match must begin (or end, from the back) at the value's own beginning or end.
func anchored(re *syntax.Regexp, op syntax.Op, back bool) bool {
	switch re.Op {
	case op:
		return true
	case syntax.OpCapture, syntax.OpPlus:
		return anchored(re.Sub[0], op, back)
	case syntax.OpAlternate:
		for _, s := range re.Sub {
			if !anchored(s, op, back) {
				return false
			}
		}
		return true
	case syntax.OpConcat:
		for i := range re.Sub {
			s := re.Sub[i]
			if back {
				s = re.Sub[len(re.Sub)-1-i]
			}
			switch s.Op {
			case syntax.OpEmptyMatch, syntax.OpWordBoundary, syntax.OpNoWordBoundary, syntax.OpBeginLine, syntax.OpEndLine:
				continue // takes no text
			}
			return anchored(s, op, back)
		}
	}
	return false
}

// example is text that an expression matches, as short as is easy to find and cut where it grows long. If odd is set,
// a dot between letters, which is most likely meant to be one, becomes another character.
func example(re *syntax.Regexp, odd bool) string {
	var b strings.Builder
	writeExample(&b, re, odd)
	return b.String()
}

func writeExample(b *strings.Builder, re *syntax.Regexp, odd bool) {
	if b.Len() > maxQuoted {
		return
	}
	switch re.Op {
	case syntax.OpLiteral:
		for _, c := range re.Rune {
			b.WriteRune(c)
		}
	case syntax.OpCharClass:
		b.WriteRune(member(re.Rune))
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		b.WriteByte('x')
	case syntax.OpCapture, syntax.OpPlus:
		writeExample(b, re.Sub[0], odd)
	case syntax.OpRepeat:
		for range re.Min {
			writeExample(b, re.Sub[0], odd)
			if b.Len() > maxQuoted {
				return
			}
		}
	case syntax.OpAlternate:
		writeExample(b, re.Sub[0], odd)
	case syntax.OpConcat:
		for i, s := range re.Sub {
			if dot := s.Op == syntax.OpAnyCharNotNL || s.Op == syntax.OpAnyChar; dot && i > 0 && i+1 < len(re.Sub) &&
				isLiteral(re.Sub[i-1]) && isLiteral(re.Sub[i+1]) {
				if odd {
					b.WriteByte('x')
				} else {
					b.WriteByte('.')
				}
				continue
			}
			writeExample(b, s, odd)
		}
	}
}

func isLiteral(re *syntax.Regexp) bool { return re.Op == syntax.OpLiteral }

// member is a character of a class, given as pairs of bounds: one that can be read, if there is one.
func member(pairs []rune) rune {
	for _, c := range "a0/-" {
		for i := 0; i+1 < len(pairs); i += 2 {
			if pairs[i] <= c && c <= pairs[i+1] {
				return c
			}
		}
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		if unicode.IsPrint(pairs[i]) {
			return pairs[i]
		}
	}
	if len(pairs) > 0 {
		return pairs[0]
	}
	return 'x'
}
