package policy

import (
	"regexp"
	"time"

	"k8s.io/apimachinery/pkg/labels"
)

// Keyless is an authority that signs with short-lived certificates, given by a certificate
// authority (Fulcio) to whoever proves an identity.
type Keyless struct {
	// URL is that of the Fulcio instance. It only names it: nobody is asked.
	URL string
	// Identities are those that count, any one. Never empty in a Set.
	Identities []Identity
	// CA, if it is set, holds the certificate authorities to trust in place of those of a trust root. The certificate
	// transparency logs are still those of TrustRoot.
	CA *Certificates
	// TrustRoot names the TrustRoot of certificate authorities and certificate transparency logs; empty: the
	// public-good instance's.
	TrustRoot string
	// IgnoreSCT does without proof that a certificate transparency log holds the certificate.
	IgnoreSCT bool
}

// Certificates are PEM certificates, or a reference to a secret that holds them.
type Certificates struct {
	PEM    string
	Secret *Reference
}

// Identity says which certificates count. Of each pair exactly one is set. A regular expression is matched
// as sigstore does: anywhere in the value, unless it is anchored.
type Identity struct {
	Issuer, Subject             string
	IssuerRegExp, SubjectRegExp *regexp.Regexp
}

// Log is the transparency log that an authority names (ctlog).
type Log struct {
	// URL, if set, is where proofs are asked for that do not come with a signature.
	URL string
	// TrustRoot names the TrustRoot of the log's keys; empty: the public-good instance's.
	TrustRoot string
}

// Timestamp asks for a signed timestamp (RFC 3161).
type Timestamp struct {
	// TrustRoot names the TrustRoot of timestamp authorities; empty: the public-good instance's.
	TrustRoot string
}

// Source is where signatures and attestations are kept.
type Source struct {
	// Repository is in its canonical form, registry and path, as evidence.Question takes it; empty: the image's own.
	Repository string
	// TagPrefix is put before the tags sha256-<hex>…
	TagPrefix string
	// PullSecrets are names of secrets in the pod's namespace.
	PullSecrets []string
}

// Attestation is one that must be there: signed by the authority, of the predicate type, and accepted by the rule.
type Attestation struct {
	Name string
	// PredicateType is one of cosign's short names, such as slsaprovenance, or a URI.
	PredicateType string
	// Rule, if there is one, is evaluated over each attestation of the type; one that is accepted suffices.
	Rule *Rule
}

// Rule is a CUE or Rego policy. Exactly one of Text, Remote and ConfigMap is set.
type Rule struct {
	// Type is cue or rego.
	Type string
	Text string
	// Remote is fetched over https.
	Remote    *Remote
	ConfigMap *Reference
}

// Remote is a file on a server, bound by its hash.
type Remote struct {
	URL string
	// SHA256 is the lower-case hex of the file's.
	SHA256 string
}

// Reference names one key of a Secret or ConfigMap that the node holds as a file. An empty Key means the only one:
// policy-controller refuses a secret that holds several. Namespace is never empty in a Set: policy-controller reads its
// own, whatever is written, and where nothing is written that is DefaultNamespace here as well.
//
// All three are names that Kubernetes takes, so none can lead out of the folder it is looked up in.
type Reference struct {
	Namespace, Name, Key string
}

// DefaultNamespace is where secrets and ConfigMaps are that a policy names without a namespace.
const DefaultNamespace = "cosign-system"

// Match selects pods. The zero value selects all.
type Match struct {
	Group, Version, Resource string
	// Labels is nil where there is no selector.
	Labels labels.Selector
}

// Selects reports whether the policy is about a pod with these labels. A pod that is not known (nil) may be any: every
// policy is about it.
func (p *Policy) Selects(pod *Pod) bool {
	if len(p.Match) == 0 || pod == nil {
		return true
	}
	for _, m := range p.Match {
		// Resources other than pods apply as well: a node sees what they made, and a rule that drops out is none.
		if m.Labels == nil || m.Labels.Matches(labels.Set(pod.Labels)) {
			return true
		}
	}
	return false
}

// Pod is what is known of a pod when its images are judged.
type Pod struct {
	Namespace, Name, UID string
	Labels, Annotations  map[string]string
}

// TrustRoot is a TrustRoot document. Exactly one of Keys, Repository, Remote and JSON is set.
type TrustRoot struct {
	// Name is metadata.name; unique among the TrustRoots of a Set.
	Name       string
	Keys       *SigstoreKeys
	Repository *TUFRepository
	Remote     *TUFRemote
	// JSON is a sigstore trusted_root.json, written out (trustedRootJSON).
	JSON []byte
	// Source is where the document was read, as file:line.
	Source string
	lines  fieldLines
}

// SigstoreKeys are keys and certificates written out.
type SigstoreKeys struct {
	CertificateAuthorities []CertificateAuthority
	TLogs, CTLogs          []LogInstance
	TimestampAuthorities   []CertificateAuthority
}

// CertificateAuthority is a CA, or a timestamp authority, by its chain.
type CertificateAuthority struct {
	Organization, CommonName string
	URI                      string
	// CertChain is PEM, the root last.
	CertChain []byte
	// ValidFrom and ValidUntil bound the chain; zero: the certificates alone do. Documents have no such fields.
	ValidFrom, ValidUntil time.Time
}

// LogInstance is a transparency log by its key.
type LogInstance struct {
	BaseURL string
	// HashAlgorithm is sha256, however it was written: there are no logs with another.
	HashAlgorithm string
	PublicKey     []byte // PEM
}

// TUFRepository is a TUF repository that came with the document.
type TUFRepository struct {
	Root []byte // the initial root.json
	// MirrorFS is the repository, a gzipped tar.
	MirrorFS []byte
	// Targets is the folder of the targets, relative and without "..".
	Targets string
	// Target is the name of the target that holds the trusted root; never empty.
	Target string
}

// TUFRemote is a TUF repository on a server.
type TUFRemote struct {
	Root   []byte // the initial root.json
	Mirror string // https URL
	// Targets is the folder of the targets, relative and without "..".
	Targets string
	// Target is the name of the target that holds the trusted root; never empty.
	Target string
}
