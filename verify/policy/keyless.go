package policy

import (
	"fmt"
	"regexp"

	"go.yaml.in/yaml/v3"
)

// keyless reads whose certificates count. Neither url nor ca-cert is the public-good instance's Fulcio, unless there
// is a trustRootRef.
func (r *reader) keyless(n *yaml.Node, path string) *Keyless {
	o, ok := r.object(n, path, "url", "ca-cert", "identities", "trustRootRef", "insecureIgnoreSCT")
	if !ok {
		return nil
	}
	k := &Keyless{
		URL:       r.address(o, "url", "https", "http"),
		TrustRoot: r.trustRoot(o),
		IgnoreSCT: r.flag(o, "insecureIgnoreSCT"),
	}
	if field, ok := o.fields["ca-cert"]; ok {
		if _, both := o.fields["url"]; both {
			r.fault(o.node, path, "has url and ca-cert: keep one of them")
		}
		k.CA = r.certificates(field, join(path, "ca-cert"))
	}
	before := len(r.faults)
	list := r.list(o, "identities", MaxIdentities)
	if len(list) == 0 && len(r.faults) == before && !r.exhausted() {
		r.fault(o.line("identities"), join(path, "identities"), "missing: say whose signature counts, by issuer and subject; without, everybody with an account could sign")
	}
	for i, item := range list {
		id := r.identity(item, index(join(path, "identities"), i))
		if r.exhausted() {
			return nil
		}
		k.Identities = append(k.Identities, id)
	}
	return k
}

func (r *reader) identity(n *yaml.Node, path string) (id Identity) {
	o, ok := r.object(n, path, "issuer", "issuerRegExp", "subject", "subjectRegExp")
	if !ok {
		return id
	}
	r.oneOf(o, "issuer", "issuerRegExp")
	id.Issuer, id.IssuerRegExp = r.text(o, "issuer", maxIdentity), r.regexp(o, "issuerRegExp")
	r.oneOf(o, "subject", "subjectRegExp")
	id.Subject, id.SubjectRegExp = r.text(o, "subject", maxIdentity), r.regexp(o, "subjectRegExp")
	return id
}

func (r *reader) regexp(o object, name string) *regexp.Regexp {
	written := r.text(o, name, maxRegexp)
	if written == "" {
		return nil
	}
	re, err := regexp.Compile(written)
	if err != nil {
		r.fault(o.line(name), join(o.path, name), "does not compile: %s", quote(err.Error()))
		return nil
	}
	return re
}

// certificates reads ca-cert. It has key's shape in policy-controller, but a key management service holds no
// certificates, and what a certificate is signed with says which hash it uses.
func (r *reader) certificates(n *yaml.Node, path string) *Certificates {
	o, ok := r.object(n, path, "data", "secretRef", "kms", "hashAlgorithm")
	if !ok {
		return nil
	}
	if field, ok := o.fields["kms"]; ok {
		r.fault(field, join(path, "kms"), "holds keys, not certificates: put PEM certificates in data or in a secret")
	} else {
		r.oneOf(o, "data", "secretRef")
	}
	r.hash(o)
	c := &Certificates{PEM: r.text(o, "data", maxChain), Secret: r.secret(o)}
	if c.PEM != "" {
		if err := checkAuthorities(c.PEM); err != nil {
			r.fault(o.line("data"), join(path, "data"), "%v", err)
		}
	}
	return c
}

// checkAuthorities refuses certificates that may not issue others: whoever holds the key of one could otherwise be
// anybody.
func checkAuthorities(pem string) error {
	certificates, err := ParseCertificates([]byte(pem))
	if err != nil {
		return err
	}
	for i, c := range certificates {
		if !c.BasicConstraintsValid || !c.IsCA {
			return fmt.Errorf("certificate %d is not that of a certificate authority", i+1)
		}
	}
	return nil
}
