package sigstore

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"maps"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore-go/pkg/root"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
	sigs "github.com/sigstore/sigstore/pkg/signature"
)

// judgement is a demand made ready to be put to any number of pieces.
type judgement struct {
	Demand
	what    thing
	image   v1.Hash
	sum     []byte // of image
	keys    []namedKey
	trusted trusted
	options []sgverify.VerifierOption // what sigstore-go's verifier is to ask for
}

// namedKey is one of a demand's keys.
type namedKey struct {
	fingerprint string
	verifier    sigs.Verifier
}

// newJudgement returns nil if the demand makes no sense. To choose what it might have meant would be to choose whom
// to trust.
func newJudgement(d Demand, about digest.Digest, what thing) *judgement {
	byKey, byCertificate := len(d.Keys) > 0, len(d.Identities) > 0
	if byKey == byCertificate || byCertificate && d.CAs == nil {
		return nil
	}
	if about.Validate() != nil || about.Algorithm() != digest.SHA256 {
		return nil
	}
	// To x509, no time means the machine's.
	if byCertificate && d.Logs == nil && d.Timestamps == nil && d.Now.IsZero() {
		return nil
	}
	image, err := v1.NewHash(about.String())
	if err != nil {
		return nil
	}
	sum, err := hex.DecodeString(image.Hex)
	if err != nil {
		return nil
	}
	j := &judgement{Demand: d, what: what, image: image, sum: sum}
	for _, k := range d.Keys {
		// A key that cannot be used signs nothing.
		if v, err := verifierFor(k); err == nil {
			j.keys = append(j.keys, namedKey{fingerprint: k.Fingerprint, verifier: v})
		}
	}
	j.trust()
	j.ask()
	return j
}

// trust gathers what each part of the demand brings, and nothing else: the timestamp authorities of a trust root
// that is demanded for its certificate authorities are not asked for.
func (j *judgement) trust() {
	if j.CAs != nil && len(j.Identities) > 0 {
		j.trusted.cas = j.CAs.FulcioCertificateAuthorities()
		j.trusted.ctLogs = j.CAs.CTLogs()
	}
	if j.Logs != nil {
		j.trusted.logs = completed(j.Logs.RekorLogs())
	}
	if j.Timestamps != nil {
		j.trusted.tsas = j.Timestamps.TimestampingAuthorities()
	}
}

// forBundles is the trusted material as sigstore-go's verifier gets it. Where the demand's time is the only one, that
// verifier would take the machine's clock: authorities that look at the demand's instead make of it a pure function.
func (j *judgement) forBundles() *trusted {
	t := j.trusted
	if j.byNow() {
		t.cas = nil
		for _, ca := range j.trusted.cas {
			t.cas = append(t.cas, atTime{ca, j.Now})
		}
	}
	return &t
}

// ask says what sigstore-go's verifier is to demand of a bundle.
func (j *judgement) ask() {
	j.options = []sgverify.VerifierOption{sgverify.WithoutStatementPredicate()}
	byCertificate := len(j.Identities) > 0
	if byCertificate && !j.IgnoreSCT {
		j.options = append(j.options, sgverify.WithSignedCertificateTimestamps(1))
	}
	if j.Logs != nil {
		j.options = append(j.options, sgverify.WithTransparencyLog(1))
	}
	switch {
	case j.Timestamps != nil:
		j.options = append(j.options, sgverify.WithSignedTimestamps(1))
	case !byCertificate:
		j.options = append(j.options, sgverify.WithNoObserverTimestamps())
	case j.Logs != nil:
		j.options = append(j.options, sgverify.WithIntegratedTimestamps(1))
	default:
		j.options = append(j.options, sgverify.WithCurrentTime()) // atTime makes it Demand.Now
	}
}

// byNow reports whether nothing but Demand.Now says when a certificate must have been valid.
func (j *judgement) byNow() bool {
	return len(j.Identities) > 0 && j.Logs == nil && j.Timestamps == nil
}

// byAnyKey asks about each key until one is accepted. Of the refusals it gives the most telling.
func (j *judgement) byAnyKey(ctx context.Context, ask func(namedKey) (*Attestation, *refusal)) (*Attestation, *refusal) {
	best := refused(NotByKey)
	for _, k := range j.keys {
		if ctx.Err() != nil {
			return nil, refused(NotJudged)
		}
		a, r := ask(k)
		if r == nil {
			return a, nil
		}
		if r.reason > best.reason {
			best = r
		}
	}
	return nil, best
}

// trusted is the trusted material for one judgement.
type trusted struct {
	cas          []root.CertificateAuthority
	ctLogs, logs map[string]*root.TransparencyLog
	tsas         []root.TimestampingAuthority
	key          sigs.Verifier
}

func (t *trusted) FulcioCertificateAuthorities() []root.CertificateAuthority { return t.cas }
func (t *trusted) CTLogs() map[string]*root.TransparencyLog                  { return t.ctLogs }
func (t *trusted) RekorLogs() map[string]*root.TransparencyLog               { return t.logs }
func (t *trusted) TimestampingAuthorities() []root.TimestampingAuthority     { return t.tsas }

// PublicKeyVerifier is asked with a bundle's hint which key it was: a stranger's word, which is not looked at.
func (t *trusted) PublicKeyVerifier(string) (root.TimeConstrainedVerifier, error) {
	if t.key == nil {
		return nil, errors.New("no key is trusted")
	}
	return root.NewExpiringKey(t.key, time.Time{}, time.Time{}), nil
}

// withKey is t with a key.
func (t trusted) withKey(v sigs.Verifier) *trusted {
	t.key = v
	return &t
}

// withIntermediates is t for a certificate that came with a chain. The chain helps to find a path to authorities that are
// given by their root alone, as in cosign. Where an authority's intermediates are given, others are not trusted.
func (t *trusted) withIntermediates(chain []*x509.Certificate) *trusted {
	if len(chain) == 0 {
		return t
	}
	with := *t
	with.cas = nil
	for _, ca := range t.cas {
		with.cas = append(with.cas, extended(ca, chain))
	}
	return &with
}

func extended(ca root.CertificateAuthority, chain []*x509.Certificate) root.CertificateAuthority {
	known, ok := ca.(*root.FulcioCertificateAuthority)
	if !ok || len(known.Intermediates) > 0 {
		return ca
	}
	with := *known
	with.Intermediates = chain
	return &with
}

// atTime is a certificate authority that is asked about one time only.
type atTime struct {
	root.CertificateAuthority
	now time.Time
}

func (a atTime) Verify(cert *x509.Certificate, _ time.Time) ([][]*x509.Certificate, error) {
	return a.CertificateAuthority.Verify(cert, a.now)
}

// completed fills in what a log's description may leave out and sigstore-go wants: since when its key is valid (always,
// as for every other key) and the hash that it signs with.
func completed(logs map[string]*root.TransparencyLog) map[string]*root.TransparencyLog {
	all := maps.Clone(logs)
	for id, l := range all {
		if l == nil {
			delete(all, id)
			continue
		}
		if !l.ValidityPeriodStart.IsZero() && l.SignatureHashFunc != 0 {
			continue
		}
		full := *l
		if full.ValidityPeriodStart.IsZero() {
			full.ValidityPeriodStart = time.Unix(0, 0)
		}
		if full.SignatureHashFunc == 0 {
			full.SignatureHashFunc = crypto.SHA256 // as in every trusted_root.json
		}
		all[id] = &full
	}
	return all
}
