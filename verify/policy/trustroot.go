package policy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"go.yaml.in/yaml/v3"

	"github.com/cosentry/cosentry/verify/rescue"
)

// defaultTarget is what policy-controller looks for in a TUF repository.
const defaultTarget = "trusted_root.json"

// logHashes are the ways to write the one algorithm by which the trees of transparency logs are hashed (RFC 6962).
var logHashes = []string{"sha256", "sha-256", "sha2_256", "sha2-256"}

// trustRootDocument reads a TrustRoot. What it holds is parsed by the libraries that use it later, so that what is
// wrong with it is known at load.
func (r *reader) trustRootDocument(n *yaml.Node, at string) *TrustRoot {
	r.remember(n, at)
	o, ok := r.object(n, at, "apiVersion", "kind", "metadata", "spec", "status")
	if !ok {
		return nil
	}
	t := &TrustRoot{Source: fmt.Sprintf("%s:%d", r.file, n.Line), Name: r.metadata(o), lines: r.lines}
	field, ok := o.fields["spec"]
	if !ok {
		r.fault(n, join(at, "spec"), "missing: say what is trusted")
		return nil
	}
	spec, ok := r.object(field, join(at, "spec"), "sigstoreKeys", "repository", "remote", "trustedRootJSON")
	if !ok {
		return nil
	}
	// All that is there is read for its own faults, even if there is one too many.
	r.oneOf(spec, "sigstoreKeys", "repository", "remote", "trustedRootJSON")
	if field, ok := spec.fields["sigstoreKeys"]; ok {
		t.Keys = r.sigstoreKeys(field, join(spec.path, "sigstoreKeys"))
	}
	if field, ok := spec.fields["repository"]; ok {
		t.Repository = r.tufRepository(field, join(spec.path, "repository"))
	}
	if field, ok := spec.fields["remote"]; ok {
		t.Remote = r.tufRemote(field, join(spec.path, "remote"))
	}
	if text := r.text(spec, "trustedRootJSON", maxRootJSON); text != "" {
		t.JSON = []byte(text)
		r.sound(spec, "trustedRootJSON", "trusted root", func() error {
			_, err := root.NewTrustedRootFromJSON(t.JSON)
			return err
		})
	}
	return t
}

// sound faults a field that a library cannot read.
func (r *reader) sound(o object, name, what string, read func() error) {
	if err := rescue.Do(nil, "reading a "+what, read); err != nil {
		r.fault(o.line(name), join(o.path, name), "is not a %s: %s", what, oneLine(err.Error()))
	}
}

func (r *reader) sigstoreKeys(n *yaml.Node, at string) *SigstoreKeys {
	o, ok := r.object(n, at, "certificateAuthorities", "tLogs", "ctLogs", "timestampAuthorities")
	if !ok {
		return nil
	}
	before := len(r.faults)
	k := &SigstoreKeys{
		CertificateAuthorities: r.chains(o, "certificateAuthorities", checkCA),
		TLogs:                  r.logs(o, "tLogs"),
		CTLogs:                 r.logs(o, "ctLogs"),
		TimestampAuthorities:   r.chains(o, "timestampAuthorities", checkTSA),
	}
	if len(k.CertificateAuthorities)+len(k.TimestampAuthorities) == 0 && len(r.faults) == before && !r.exhausted() {
		r.fault(o.node, at, "missing: certificateAuthorities or timestampAuthorities are needed, as in policy-controller")
	}
	return k
}

func (r *reader) chains(o object, name string, check func(*CertificateAuthority) error) []CertificateAuthority {
	var all []CertificateAuthority
	for i, item := range r.list(o, name, MaxLogs) {
		c, ok := r.object(item, index(join(o.path, name), i), "subject", "uri", "certChain")
		if r.exhausted() {
			return nil
		}
		if !ok {
			continue
		}
		ca := CertificateAuthority{URI: r.address(c, "uri", "https", "http")}
		if _, ok := c.fields["uri"]; !ok {
			r.fault(c.node, join(c.path, "uri"), "missing: say where the authority is")
		}
		if field, ok := c.fields["subject"]; !ok {
			r.fault(c.node, join(c.path, "subject"), "missing: give organization and commonName")
		} else if s, ok := r.object(field, join(c.path, "subject"), "organization", "commonName"); ok {
			ca.Organization = r.needed(s, "organization", maxMessage, "give the authority's organization")
			ca.CommonName = r.needed(s, "commonName", maxMessage, "give the authority's common name")
		}
		if ca.CertChain = r.bytes(c, "certChain", maxChain); ca.CertChain != nil {
			if err := check(&ca); err != nil {
				r.fault(c.line("certChain"), join(c.path, "certChain"), "%v", err)
			}
		}
		all = append(all, ca)
	}
	return all
}

// checkChain counts what a chain holds. The order of its certificates is not looked at, nor is it in policy-controller.
func checkChain(ca *CertificateAuthority) (roots, leaves int, err error) {
	certificates, err := ParseCertificates(ca.CertChain)
	if err != nil {
		return 0, 0, err
	}
	for _, c := range certificates {
		switch {
		case !c.IsCA:
			leaves++
		case bytes.Equal(c.RawSubject, c.RawIssuer):
			roots++
		}
	}
	if roots == 0 {
		return 0, 0, errors.New("holds no root, which is a certificate that a certificate authority issued to itself")
	}
	return roots, leaves, nil
}

func checkCA(ca *CertificateAuthority) error {
	_, leaves, err := checkChain(ca)
	if err == nil && leaves > 0 {
		return errors.New("holds a certificate that may not issue others: put the certificate authority's here, the root last")
	}
	return err
}

func checkTSA(ca *CertificateAuthority) error {
	_, leaves, err := checkChain(ca)
	if err == nil && leaves > 1 {
		return errors.New("holds more than one certificate that signs timestamps: put each into a chain of its own")
	}
	return err
}

func (r *reader) logs(o object, name string) []LogInstance {
	var all []LogInstance
	for i, item := range r.list(o, name, MaxLogs) {
		l, ok := r.object(item, index(join(o.path, name), i), "baseURL", "hashAlgorithm", "publicKey")
		if r.exhausted() {
			return nil
		}
		if !ok {
			continue
		}
		log := LogInstance{BaseURL: r.address(l, "baseURL", "https", "http")}
		if _, ok := l.fields["baseURL"]; !ok {
			r.fault(l.node, join(l.path, "baseURL"), "missing: say where the log is")
		}
		written := r.needed(l, "hashAlgorithm", maxMessage, "use sha256")
		if slices.Contains(logHashes, strings.ToLower(strings.TrimSpace(written))) {
			log.HashAlgorithm = "sha256"
		} else if written != "" {
			r.fault(l.line("hashAlgorithm"), join(l.path, "hashAlgorithm"), "%s is not what transparency logs hash their trees with: use sha256", quote(written))
		}
		if log.PublicKey = r.bytes(l, "publicKey", maxKeyData); log.PublicKey != nil {
			keys, err := ParsePublicKeys(log.PublicKey, crypto.SHA256, true)
			if err == nil && len(keys) > 1 {
				err = errors.New("holds more than one key: make a log of each")
			}
			if err != nil {
				r.fault(l.line("publicKey"), join(l.path, "publicKey"), "%v", err)
			}
		}
		all = append(all, log)
	}
	return all
}

func (r *reader) tufRepository(n *yaml.Node, at string) *TUFRepository {
	o, ok := r.object(n, at, "root", "mirrorFS", "targets", "trustedRootTarget")
	if !ok {
		return nil
	}
	t := &TUFRepository{Root: r.tufRoot(o), MirrorFS: r.bytes(o, "mirrorFS", MaxMirror)}
	t.Targets, t.Target = r.targets(o)
	if t.MirrorFS != nil {
		r.sound(o, "mirrorFS", "gzipped tar archive", func() error {
			unzipped, err := gzip.NewReader(bytes.NewReader(t.MirrorFS))
			if err != nil {
				return err
			}
			_, err = tar.NewReader(unzipped).Next()
			return err
		})
	}
	return t
}

// tufRemote reads where a TUF repository is. Its metadata is signed, but who can hold back what is new on the way can
// keep a revoked key in use until the metadata expires: so https, except for a mirror on the node itself.
func (r *reader) tufRemote(n *yaml.Node, at string) *TUFRemote {
	o, ok := r.object(n, at, "root", "mirror", "targets", "trustedRootTarget")
	if !ok {
		return nil
	}
	if _, ok := o.fields["mirror"]; !ok {
		r.fault(o.node, join(at, "mirror"), "missing: say where the TUF repository is")
	}
	t := &TUFRemote{Root: r.tufRoot(o), Mirror: r.address(o, "mirror", "https", "loopback")}
	t.Targets, t.Target = r.targets(o)
	return t
}

// tufRoot reads the initial root.json, which must be signed by as many of its own keys as it demands.
func (r *reader) tufRoot(o object) []byte {
	data := r.bytes(o, "root", maxRootJSON)
	if data != nil {
		r.sound(o, "root", "TUF root", func() error {
			m, err := metadata.Root().FromBytes(data)
			if err != nil {
				return err
			}
			return m.VerifyDelegate(metadata.ROOT, m)
		})
	}
	return data
}

// targets reads the folder of a repository's targets, and which of them is the trusted root, with policy-controller's
// defaults.
func (r *reader) targets(o object) (dir, target string) {
	read := func(name, otherwise string) string {
		s := r.text(o, name, maxNameLen)
		if s == "" {
			return otherwise
		}
		if clean := path.Clean(s); clean != s || path.IsAbs(s) || s == "." || s == ".." || strings.HasPrefix(s, "../") || strings.ContainsAny(s, "\\\x00") {
			r.fault(o.line(name), join(o.path, name), "%s is not a relative path that stays below its folder", quote(s))
		}
		return s
	}
	return read("targets", "targets"), read("trustedRootTarget", defaultTarget)
}
