package trust

import (
	"crypto"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/cosentry/cosentry/verify/policy"
)

// Snapshot is what policies refer to, as it was at one moment. It is immutable and safe for concurrent use. A nil
// Snapshot answers ErrMissing to everything that is not written out in the policy itself.
type Snapshot struct {
	files    Files
	now      func() time.Time
	revision string
	keys     map[keyID]keysOrError
	certs    map[certID]certsOrError
	rules    map[ruleID]textOrError
	roots    map[string]rootOrError
}

type (
	keysOrError struct {
		keys []policy.PublicKey
		err  error
	}
	certsOrError struct {
		*authorities
		err error
	}
	textOrError struct {
		text string
		err  error
	}
)

var errNotResolved = fmt.Errorf("%w: it was not looked up for these policies", ErrMissing)

func hashFunc(h uint) crypto.Hash { return crypto.Hash(h) }

// Revision changes with the content of anything that was resolved, and with what could not be had, and is the
// same where nothing did.
func (s *Snapshot) Revision() string {
	if s == nil {
		return ""
	}
	return s.revision
}

// Keys gives the public keys of an authority; never none without an error.
func (s *Snapshot) Keys(k *policy.Key) ([]policy.PublicKey, error) {
	if k == nil {
		return nil, fmt.Errorf("key: %w", errNotResolved)
	}
	if k.Secret == nil && k.KMS == "" {
		if len(k.PublicKeys) == 0 {
			return nil, fmt.Errorf("key: %w: the policy has none", ErrMissing)
		}
		return k.PublicKeys, nil
	}
	if s == nil {
		return nil, fmt.Errorf("key: %w", errNotResolved)
	}
	r, ok := s.keys[keyIDOf(k)]
	if !ok {
		return nil, fmt.Errorf("key: %w", errNotResolved)
	}
	return r.keys, r.err
}

// Certificates gives the certificate authorities of a keyless authority and, unless it ignores them, certificate
// transparency logs. See the package's words on ca-cert.
func (s *Snapshot) Certificates(k *policy.Keyless) (root.TrustedMaterial, error) {
	if k == nil {
		return nil, fmt.Errorf("certificates: %w", errNotResolved)
	}
	if k.CA == nil {
		return s.Root(k.TrustRoot)
	}
	a, err := s.authorities(k.CA)
	if err != nil {
		return nil, err
	}
	m := &certificateMaterial{cas: a.cas}
	if !k.IgnoreSCT {
		logs, err := s.Root(k.TrustRoot)
		if err != nil {
			return nil, fmt.Errorf("certificate transparency logs: %w", err)
		}
		m.logs = logs.CTLogs()
	}
	return m, nil
}

func (s *Snapshot) authorities(c *policy.Certificates) (*authorities, error) {
	if s != nil {
		if r, ok := s.certs[certIDOf(c)]; ok {
			return r.authorities, r.err
		}
	}
	if c.Secret != nil || c.PEM == "" {
		return nil, fmt.Errorf("ca-cert: %w", errNotResolved)
	}
	r := resolveCerts(certIDOf(c), nil)
	return r.authorities, r.err
}

// Root gives a trust root by its name. The empty name is the public-good instance's.
func (s *Snapshot) Root(name string) (root.TrustedMaterial, error) {
	if s == nil {
		return nil, fmt.Errorf("trust root %s: %w", quote(rootName(name)), errNotResolved)
	}
	r, ok := s.roots[name]
	if !ok {
		return nil, noRoot(name)
	}
	if r.err != nil {
		return nil, r.err
	}
	if err := r.root.Expired(s.now()); err != nil {
		return nil, fmt.Errorf("trust root %s: %w: %w", quote(rootName(name)), ErrUnavailable, err)
	}
	return r.root.TrustedMaterial, nil
}

// Rule gives the text of a rule. It compiles, unless it is written out in the policy: that one was seen to before.
func (s *Snapshot) Rule(r *policy.Rule) (string, error) {
	if r == nil {
		return "", fmt.Errorf("rule: %w", errNotResolved)
	}
	if r.Remote == nil && r.ConfigMap == nil {
		if r.Text == "" {
			return "", fmt.Errorf("rule: %w: the policy has none", ErrMissing)
		}
		return r.Text, nil
	}
	if s == nil {
		return "", fmt.Errorf("rule: %w", errNotResolved)
	}
	t, ok := s.rules[ruleIDOf(r)]
	if !ok {
		return "", fmt.Errorf("rule: %w", errNotResolved)
	}
	if t.err != nil {
		return "", t.err
	}
	return t.text, nil
}

// dockerConfig is the key of a Secret of type kubernetes.io/dockerconfigjson.
const dockerConfig = ".dockerconfigjson"

// PullSecret reads a pull secret. It is the one thing that is read when it is asked for: which ones are needed depends on the pod.
func (s *Snapshot) PullSecret(namespace, name string) ([]byte, error) {
	h := held{KindSecret, policy.Reference{Namespace: namespace, Name: name, Key: dockerConfig}}
	if s == nil {
		return nil, fmt.Errorf("%s: %w", h, errNotResolved)
	}
	return s.files.Read(KindSecret, h.ref)
}

// hash makes the revision. Of what could not be had it takes in the kind of error and not its words, which may be others at
// each try.
func (s *Snapshot) hash() string {
	var lines []string
	line := func(kind string, id any, err error, revision func() string) {
		what := class(err)
		if err == nil {
			what = "revision " + revision()
		}
		lines = append(lines, hashOf(kind, fmt.Sprintf("%#v", id), what))
	}
	for id, r := range s.keys {
		line("keys", id, r.err, func() string {
			var all []string
			for _, k := range r.keys {
				all = append(all, k.Fingerprint)
			}
			return hashOf(all...)
		})
	}
	for id, r := range s.certs {
		line("certs", id, r.err, r.revision)
	}
	for id, r := range s.rules {
		line("rules", id, r.err, func() string { return hashOf(r.text) })
	}
	for name, r := range s.roots {
		err := r.err
		if err == nil {
			if e := r.root.Expired(s.now()); e != nil {
				err = ErrUnavailable
			}
		}
		line("roots", name, err, func() string { return rootContent(r.root, time.Time{}).revision })
	}
	slices.Sort(lines)
	return short(hashOf(lines...))
}

func class(err error) string {
	for _, e := range []error{ErrUnavailable, ErrMissing, ErrInvalid} {
		if errors.Is(err, e) {
			return e.Error()
		}
	}
	return "error"
}

func (a *authorities) revision() string {
	var all []string
	for _, ca := range a.cas {
		if f, ok := ca.(*root.FulcioCertificateAuthority); ok {
			all = append(all, string(f.Root.Raw))
			for _, c := range f.Intermediates {
				all = append(all, string(c.Raw))
			}
		}
	}
	return hashOf(all...)
}
