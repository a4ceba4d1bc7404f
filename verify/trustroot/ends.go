package trustroot

import (
	"crypto/x509"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
)

// ends is when the first kind of authority has none left that still signs. A kind that is not in the root does not
// count, and one whose log has no end never ends. Authorities that were replaced ended long ago: so it is the last of
// each kind that matters.
func ends(m root.TrustedMaterial) time.Time {
	var cas, tsas, logs, ctLogs span
	for _, authority := range m.FulcioCertificateAuthorities() {
		if ca, ok := authority.(*root.FulcioCertificateAuthority); ok {
			cas.add(chainEnd(ca.ValidityPeriodEnd, ca.Root, ca.Intermediates, nil))
		}
	}
	for _, authority := range m.TimestampingAuthorities() {
		if tsa, ok := authority.(*root.SigstoreTimestampingAuthority); ok {
			tsas.add(chainEnd(tsa.ValidityPeriodEnd, tsa.Root, tsa.Intermediates, tsa.Leaf))
		}
	}
	for _, log := range m.RekorLogs() {
		logs.add(log.ValidityPeriodEnd)
	}
	for _, log := range m.CTLogs() {
		ctLogs.add(log.ValidityPeriodEnd)
	}
	var first time.Time
	for _, s := range []span{cas, tsas, logs, ctLogs} {
		first = earlier(first, s.last)
	}
	return first
}

// span is how long any of one kind of authority signs.
type span struct {
	last    time.Time // zero: there is none, or one that never ends
	endless bool
}

func (s *span) add(end time.Time) {
	switch {
	case s.endless:
	case end.IsZero():
		s.endless, s.last = true, time.Time{}
	case end.After(s.last):
		s.last = end
	}
}

// chainEnd is when a chain cannot sign any more: with its root, its leaf, or the last of its intermediates.
func chainEnd(until time.Time, root *x509.Certificate, intermediates []*x509.Certificate, leaf *x509.Certificate) time.Time {
	end := until
	for _, c := range []*x509.Certificate{root, leaf} {
		if c != nil {
			end = earlier(end, c.NotAfter)
		}
	}
	var last time.Time
	for _, c := range intermediates {
		if c.NotAfter.After(last) {
			last = c.NotAfter
		}
	}
	return earlier(end, last)
}

// earlier is the earlier of two moments, of which zero is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
