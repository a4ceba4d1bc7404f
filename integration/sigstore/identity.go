package sigstore

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Identity is who signs, as certificates name them: a person by Email, a workload by its URI.
type Identity struct {
	Issuer string
	Email  string
	URI    string
	// Workflow is set for a GitHub Actions workflow, beside URI.
	Workflow *Workflow
}

// Workflow is what certificates say about a GitHub Actions run.
type Workflow struct {
	Trigger, SHA, Name, Repository, Ref string
}

// claims are those of the identity token. What a provider's token spreads over many claims, Fulcio's
// configuration maps to names; here the token says it outright.
type claims struct {
	jwt.Claims
	Email    string    `json:"email,omitempty"`
	Verified bool      `json:"email_verified,omitempty"`
	Workflow *Workflow `json:"workflow,omitempty"`
}

// Token is an identity token for who, as an identity provider that this
// instance trusts gives it out.
func (i *Instance) Token(who Identity) (string, error) {
	if (who.Email == "") == (who.URI == "") || who.Issuer == "" {
		return "", errors.New("an identity has an issuer, and either an e-mail address or a URI")
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: i.tokens}, nil)
	if err != nil {
		return "", fmt.Errorf("making an identity token: %w", err)
	}
	return jwt.Signed(signer).Claims(claims{
		Claims: jwt.Claims{
			Issuer: who.Issuer, Subject: who.Email + who.URI, Audience: jwt.Audience{"sigstore"},
			Expiry: jwt.NewNumericDate(time.Now().Add(time.Hour)),
		},
		Email: who.Email, Verified: who.Email != "", Workflow: who.Workflow,
	}).Serialize()
}

// bearer checks a token and returns whom it is about, and the subject that a client has to sign with its key.
func (i *Instance) bearer(token string) (who Identity, subject string, err error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return who, "", fmt.Errorf("reading the identity token: %w", err)
	}
	var c claims
	if err := parsed.Claims(public(i.tokens), &c); err != nil {
		return who, "", fmt.Errorf("checking the identity token: %w", err)
	}
	if err := c.Validate(jwt.Expected{AnyAudience: jwt.Audience{"sigstore"}}); err != nil {
		return who, "", fmt.Errorf("checking the identity token: %w", err)
	}
	who = Identity{Issuer: c.Issuer, Email: c.Email, Workflow: c.Workflow}
	if who.Email == "" {
		who.URI = c.Subject
	}
	return who, c.Subject, nil
}

// name writes the subject alternative name.
func (who Identity) name(template *x509.Certificate) error {
	if who.Email != "" {
		template.EmailAddresses = []string{who.Email}
		return nil
	}
	uri, err := url.Parse(who.URI)
	if err != nil {
		return fmt.Errorf("reading the identity: %w", err)
	}
	template.URIs = []*url.URL{uri}
	return nil
}

// extensions are Fulcio's (github.com/sigstore/fulcio, docs/oid-info.md): those below .8 hold the
// text itself, the others a DER string.
func (who Identity) extensions() ([]pkix.Extension, error) {
	raw := map[int]string{1: who.Issuer}
	encoded := map[int]string{8: who.Issuer}
	if w := who.Workflow; w != nil {
		raw[2], raw[3], raw[4], raw[5], raw[6] = w.Trigger, w.SHA, w.Name, w.Repository, w.Ref
		encoded[9], encoded[12], encoded[13] = who.URI, "https://github.com/"+w.Repository, w.SHA
		encoded[14], encoded[20] = w.Ref, w.Trigger
	}
	var extensions []pkix.Extension
	for arc := range 21 {
		id := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, arc}
		if text := raw[arc]; text != "" {
			extensions = append(extensions, pkix.Extension{Id: id, Value: []byte(text)})
		}
		if text := encoded[arc]; text != "" {
			value, err := asn1.MarshalWithParams(text, "utf8")
			if err != nil {
				return nil, fmt.Errorf("writing the identity: %w", err)
			}
			extensions = append(extensions, pkix.Extension{Id: id, Value: value})
		}
	}
	return extensions, nil
}
