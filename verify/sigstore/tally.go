package sigstore

import (
	"fmt"
	"strconv"
	"strings"
)

// Reason is why a piece of evidence was not accepted. The order is that of how far a piece came: of several, the one
// that came furthest says most about what to mend.
type Reason int

const (
	// NoneFound: there was nothing to judge.
	NoneFound Reason = iota
	// NotJudged: the demand makes no sense, or the time was up.
	NotJudged
	// Unreadable: not in its format, or beyond a bound.
	Unreadable
	// NotByKey: not signed by any of the keys.
	NotByKey
	// NoCertificate: a certificate was demanded, and there is none.
	NoCertificate
	// UntrustedCertificate: the certificate is not from a trusted authority.
	UntrustedCertificate
	// OtherIssuer: the certificate's issuer is not one that is demanded.
	OtherIssuer
	// OtherSubject: the issuer is, the subject is not.
	OtherSubject
	// NoSCT: the certificate carries no proof of a certificate transparency log.
	NoSCT
	// BadSCT: it carries one, which is not that of a trusted log for this certificate.
	BadSCT
	// BadSignature: the signature is not by the certificate's key.
	BadSignature
	// OtherImage: signed as demanded, but about another digest. A signature copied from image to image looks like this.
	OtherImage
	// OtherUse: signed as demanded and about this digest, but to say something else. A key that attests "scanned, and
	// found wanting" has not said "run it".
	OtherUse
	// NoLogEntry: nothing beside it proves that a log holds it. It lacks nothing else that was asked before that.
	NoLogEntry
	// OtherLog: the log entry is of a log that is not trusted.
	OtherLog
	// BadLogEntry: the log entry is of another signature, or its proof does not hold.
	BadLogEntry
	// NoLogTime: a log holds it, and has not signed when.
	NoLogTime
	// NoTimestamp: no timestamp authority's timestamp.
	NoTimestamp
	// BadTimestamp: a timestamp that is not a trusted authority's, or not of this signature.
	BadTimestamp
	// NotValidThen: the certificate was not valid at the time of signing.
	NotValidThen
	// NotAccepted: refused by sigstore's verifier for none of these reasons.
	NotAccepted
)

// words say what is the matter with %d pieces that were signed by %s.
var words = map[Reason]string{
	OtherImage:   "%d by %s but for another image",
	OtherUse:     "%d by %s but not as %s",
	NoLogEntry:   "%d by %s but without proof of a transparency log",
	OtherLog:     "%d by %s but recorded in a transparency log that is not trusted",
	BadLogEntry:  "%d by %s but its transparency log entry does not prove it",
	NoLogTime:    "%d by %s but its transparency log entry has no signed time, and no timestamp is demanded",
	NoTimestamp:  "%d by %s but without a signed timestamp",
	BadTimestamp: "%d by %s but its timestamp is not a trusted authority's for it",
	NotValidThen: "%d by %s but its certificate was not valid at the time of signing",
	NotAccepted:  "%d by %s but not accepted by sigstore's rules",
}

// bare are the words where nothing is known of the signer.
var bare = map[Reason]string{
	NotJudged:            "not judged",
	Unreadable:           "none that can be read",
	NotByKey:             "none by this key",
	NoCertificate:        "none with a certificate",
	UntrustedCertificate: "none with a certificate from a trusted authority",
	NoSCT:                "none whose certificate has proof of a certificate transparency log (SCT)",
	BadSCT:               "none whose certificate is proved by a trusted certificate transparency log (SCT)",
	BadSignature:         "none signed with its certificate's key",
}

// Tally says what was looked at, for the words of a refusal.
type Tally struct {
	// Found is how many pieces there were in the form that was asked for.
	Found int
	// Accepted is how many of them were.
	Accepted int
	// Unproved is how many lack nothing but proof of a log, as far as can be told without one: to ask a log is worth
	// while if there are any. What strangers put beside an image makes nobody ask.
	Unproved int

	refusal refusal
	count   int // of those refused for the same reason
	keyless bool
	thing   thing
}

// thing is what is looked for.
type thing int

const (
	signature thing = iota
	attestation
)

// refusal is a Reason, with what is foreign in it.
type refusal struct {
	reason Reason
	detail string // raw: a stranger's words
}

func refused(r Reason) *refusal { return &refusal{reason: r} }

// note counts one piece: accepted if r is nil.
func (t *Tally) note(r *refusal) {
	switch {
	case r == nil:
		t.Accepted++
		return
	case r.reason == NoLogEntry:
		t.Unproved++
	}
	switch {
	case r.reason > t.refusal.reason:
		t.refusal, t.count = *r, 1
	case r.reason == t.refusal.reason:
		t.count++
	}
}

// maxDetail bounds a stranger's words in a reason, in bytes.
const maxDetail = 80

// Why says in at most 200 bytes how many there were and why none, or not more, was accepted. Foreign text in it is
// quoted and cut.
func (t Tally) Why() string {
	nouns := [...]string{signature: "signature", attestation: "attestation"}
	noun := nouns[t.thing]
	found := strconv.Itoa(t.Found) + " " + noun + "s found"
	switch t.Found {
	case 0:
		return "no " + noun + "s found"
	case 1:
		found = "1 " + noun + " found"
	}
	if t.Accepted > 0 {
		return fmt.Sprintf("%s, %d accepted", found, t.Accepted)
	}
	by := "this key"
	if t.keyless {
		by = "this identity"
	}
	r := t.refusal
	switch {
	case r.reason == OtherIssuer:
		return fmt.Sprintf("%s, %d whose certificate's issuer %s is not the one demanded", found, t.count, quoted(r.detail))
	case r.reason == OtherSubject:
		return fmt.Sprintf("%s, %d whose certificate's subject %s is not the one demanded", found, t.count, quoted(r.detail))
	case r.reason == Unreadable && !t.keyless:
		return found + ", " + bare[NotByKey]
	case r.reason == OtherUse:
		as := [...]string{signature: "an image signature", attestation: "an attestation"}
		return fmt.Sprintf("%s, "+words[r.reason], found, t.count, by, as[t.thing])
	case bare[r.reason] != "":
		return found + ", " + bare[r.reason]
	case words[r.reason] == "":
		return found
	}
	return fmt.Sprintf("%s, "+words[r.reason], found, t.count, by)
}

// quoted escapes and cuts a stranger's text.
func quoted(s string) string {
	cut := s
	if len(cut) > maxDetail {
		cut = cut[:maxDetail]
	}
	q := strconv.QuoteToASCII(strings.ToValidUTF8(cut, "\ufffd"))
	if len(q) > maxDetail+2 {
		// Escapes are longer than what they stand for: cut again, and never within one.
		for len(q) > maxDetail+2 {
			cut = cut[:len(cut)/2]
			q = strconv.QuoteToASCII(strings.ToValidUTF8(cut, "\ufffd"))
		}
	}
	if len(cut) < len(s) {
		q += "…"
	}
	return q
}
