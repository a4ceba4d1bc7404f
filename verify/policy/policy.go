// Package policy reads the documents that say whose signature a node demands:
// sigstore's ClusterImagePolicy (policy.sigstore.dev/v1alpha1 and v1beta1) and TrustRoot (v1alpha1), as
// defined by github.com/sigstore/policy-controller.
//
// It promises that a policy it returns means here what it means to
// policy-controller, or something stricter. What it cannot judge it refuses
// by name at load: a field that were silently ignored would be a rule that its
// owner believes in and nobody enforces. All faults of all files come
// back at once, each with file, line and field path.
//
// Which images a policy is about is decided by its globs, on the image's name
// in every spelling that reaches the same repository (see Set.Match), and which pods by its match entries (see
// Policy.Selects). Every matching policy must be satisfied, and within one policy any one authority
// suffices; deciding that is the caller's part. This package does no
// cryptography beyond reading keys, certificates and the roots of TUF repositories, and no I/O beyond reading the files
// of one folder: what a policy refers to (secrets, ConfigMaps, keys in a key management service, rules on servers,
// TrustRoots by name) is a name in what it returns, whether or not there is such a thing.
//
// Where policy-controller's own checks leave something open that could let an unsigned image through, this package is
// stricter: identities are demanded, an empty name or URL of whom to trust is a fault rather than none, names that become
// paths are names, and rules must compile.
package policy

import (
	"crypto"
	"fmt"
)

// Bounds on what is read. Past a bound the file is refused, never cut.
const (
	MaxFileSize     = 8 << 20 // bytes of one file; past 1 MiB only if a TUF repository makes it large (see plainSize)
	MaxPolicies     = 4096    // policies of one set, and files of one folder
	MaxTrustRoots   = 256     // TrustRoots of one set
	MaxGlobs        = 1024    // images of one policy
	MaxMatches      = 128     // match entries of one policy
	MaxAuthorities  = 128     // authorities of one policy
	MaxKeys         = 64      // public keys of one authority
	MaxIdentities   = 256     // identities of one authority
	MaxAttestations = 64      // attestations of one authority
	MaxPullSecrets  = 16      // signaturePullSecrets of one authority
	MaxCertificates = 64      // certificates of one ca-cert or chain
	MaxLogs         = 64      // logs, or authorities, of one kind in a TrustRoot
	MaxImageName    = 1024    // bytes of an image name to be matched; the longest a runtime takes is half of it

	MaxMirror = 4 << 20 // bytes of a TUF repository, decoded; limits.TUFArchive says the same

	plainSize    = 1 << 20  // bytes of a file that may be anything
	maxStructure = 64 << 10 // in a larger one, bytes that could begin a value
	maxGlobLen   = 1024
	maxNameLen   = 253
	maxKeyData   = 64 << 10
	maxChain     = 256 << 10
	maxRootJSON  = 512 << 10
	maxMessage   = 4096
	maxURL       = 2048
	maxRegexp    = 2048
	maxIdentity  = 2048
	maxRuleWords = 2000 // bytes of what is wrong with a rule
	maxLabels    = 64   // matchLabels, or matchExpressions, or values of one
	maxTagPrefix = 53   // a tag has 128 bytes, and sha256-<hex>.sig takes 75
	maxExpansion = 4 << 20
	maxDepth     = 100
	maxFaults    = 1000
	maxFieldPath = 512
	maxErrorText = 16 << 10
	maxQuoted    = 80
	maxUnread    = 10 // names of files that are left out of a folder
)

// Documents are what files hold: ClusterImagePolicies and TrustRoots.
type Documents struct {
	Policies   []*Policy
	TrustRoots []*TrustRoot
}

// Policy is one ClusterImagePolicy. It is shared between goroutines once it is
// in a Set and must not be changed then.
type Policy struct {
	// Name is metadata.name, a DNS subdomain; unique in a Set.
	Name string
	Mode Mode
	// Globs say which images the policy is about: any one suffices.
	Globs []Glob
	// Match says which pods the policy is about: any one entry suffices. Empty: every pod.
	Match []Match
	// Authorities say who may vouch for an image: any one suffices. Never empty
	// in a Set.
	Authorities []Authority
	// Rule, if there is one, is evaluated over the authorities that passed.
	Rule *Rule
	// What Rule is given beside the authorities' results: the image's config files, the pod's metadata and its type.
	FetchConfigFile, IncludeObjectMeta, IncludeTypeMeta bool
	// Source is where the policy was read, as file:line.
	Source string
	lines  fieldLines
}

// Mode is what happens to an image that a policy does not accept. The zero
// value is Enforce.
type Mode int

const (
	Enforce Mode = iota // refuse
	Warn                // let through and say so
)

// String returns the mode as it is written in a policy.
func (m Mode) String() string {
	switch m {
	case Enforce:
		return "enforce"
	case Warn:
		return "warn"
	}
	return fmt.Sprintf("mode(%d)", int(m))
}

// Authority is one party that may vouch for an image. Exactly one of Key, Keyless and
// Static is set.
type Authority struct {
	// Name is the document's, or authority-<index> where it gives none.
	// policy-controller lets two authorities of a policy share one.
	Name    string
	Key     *Key
	Keyless *Keyless
	Static  *Static
	// Format restricts the form of signature that counts.
	Format Format
	// Source is where signatures are looked for; nil: beside the image.
	Source *Source
	// Log is ctlog as it is written; nil where it is not. NeedsLog says what that means.
	Log *Log
	// Timestamp, if set, asks for a signed timestamp.
	Timestamp *Timestamp
	// Attestations, if there are any, are asked for in place of an image signature, all of them.
	Attestations []Attestation
}

// NeedsLog reports whether signatures count only with a proof that a transparency log holds them: for
// keyless ones unless ctlog is {}, for those by a key if ctlog names a log.
func (a *Authority) NeedsLog() bool {
	if a.Log == nil {
		return a.Keyless != nil
	}
	return *a.Log != Log{}
}

// Format is a form of signature. The zero value accepts every form.
type Format string

const (
	AnyFormat    Format = ""
	LegacyFormat Format = "legacy" // cosign's .sig tag with a simple-signing payload
	BundleFormat Format = "bundle" // a sigstore bundle attached as a referrer
)

// Key is an authority that signs with a private key. Exactly one of PublicKeys, Secret and KMS is set.
// A signature by any one of several keys counts.
type Key struct {
	// PublicKeys are those of data.
	PublicKeys []PublicKey
	// Secret names a secret that holds the keys.
	Secret *Reference
	// KMS is the URI of a key that a key management service holds.
	KMS string
	// Hash is the algorithm for keys that are read later, from Secret or KMS; see PublicKey.
	Hash crypto.Hash
	// HashWritten says that the policy names the algorithm itself.
	HashWritten bool
}

// PublicKey is a key that github.com/sigstore/sigstore's
// signature.LoadVerifier(Key, Hash) takes.
type PublicKey struct {
	// Key is *ecdsa.PublicKey, *rsa.PublicKey or ed25519.PublicKey.
	Key crypto.PublicKey
	// Hash is the algorithm the signed message is hashed with. Ed25519 signs
	// the message itself, so for it Hash is what the policy says (SHA256 unless told
	// otherwise) and changes nothing, as in LoadVerifier.
	Hash crypto.Hash
	// HashWritten says that the policy names the algorithm itself.
	HashWritten bool
	// Fingerprint is "SHA256:" and the hex SHA-256 of the key's
	// SubjectPublicKeyInfo in DER.
	Fingerprint string
}

// Static is an authority that accepts or refuses without looking at
// signatures. The zero value refuses.
type Static struct {
	Pass bool
	// Message is the policy's own words for a refusal: foreign text, possibly
	// several lines, at most 4 KiB.
	Message string
}
