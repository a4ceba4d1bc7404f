package sigstore

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"sigs.k8s.io/yaml"
)

// TrustedRoot is the instance's trusted_root.json: keys and certificates of all its parts.
func (i *Instance) TrustedRoot() ([]byte, error) {
	start, end := time.Now().Add(-lifetime), time.Now().Add(lifetime)
	logs := func(url string, key crypto.PublicKey) (map[string]*root.TransparencyLog, error) {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			return nil, err
		}
		id := sha256.Sum256(der)
		return map[string]*root.TransparencyLog{hex.EncodeToString(id[:]): {
			BaseURL: url, ID: id[:], ValidityPeriodStart: start, ValidityPeriodEnd: end,
			HashFunc: crypto.SHA256, PublicKey: key, SignatureHashFunc: crypto.SHA256,
		}}, nil
	}
	ctLogs, err := logs(i.Fulcio.URL, public(i.ctLog))
	if err != nil {
		return nil, fmt.Errorf("writing the trusted root: %w", err)
	}
	tLogs, err := logs(i.Rekor.URL, public(i.ledger.key))
	if err != nil {
		return nil, fmt.Errorf("writing the trusted root: %w", err)
	}
	signers := []root.CertificateAuthority{&root.FulcioCertificateAuthority{
		Root: i.signers.root, Intermediates: []*x509.Certificate{i.signers.intermediate},
		ValidityPeriodStart: start, ValidityPeriodEnd: end, URI: i.Fulcio.URL,
	}}
	stampers := []root.TimestampingAuthority{&root.SigstoreTimestampingAuthority{
		Root: i.timestamps.root, Intermediates: []*x509.Certificate{i.timestamps.intermediate}, Leaf: i.stamper.certificate,
		ValidityPeriodStart: start, ValidityPeriodEnd: end, URI: i.TimestampURL(),
	}}
	trusted, err := root.NewTrustedRoot(root.TrustedRootMediaType01, signers, ctLogs, stampers, tLogs)
	if err != nil {
		return nil, fmt.Errorf("writing the trusted root: %w", err)
	}
	return trusted.MarshalJSON()
}

// SigstoreKeys is a TrustRoot document with the same keys and certificates.
func (i *Instance) SigstoreKeys(name string) (string, error) {
	ctKey, err := cryptoutils.MarshalPublicKeyToPEM(public(i.ctLog))
	if err != nil {
		return "", fmt.Errorf("writing TrustRoot %s: %w", name, err)
	}
	logKey, err := cryptoutils.MarshalPublicKeyToPEM(public(i.ledger.key))
	if err != nil {
		return "", fmt.Errorf("writing TrustRoot %s: %w", name, err)
	}
	authority := func(uri string, chain ...*x509.Certificate) []any {
		last := chain[len(chain)-1].Subject
		return []any{map[string]any{
			"subject":   map[string]any{"organization": last.Organization[0], "commonName": last.CommonName},
			"uri":       uri,
			"certChain": base64.StdEncoding.EncodeToString(pemOf(chain...)),
		}}
	}
	instance := func(url string, key []byte) []any {
		return []any{map[string]any{
			"baseURL": url, "hashAlgorithm": "sha-256", "publicKey": base64.StdEncoding.EncodeToString(key),
		}}
	}
	text, err := yaml.Marshal(map[string]any{
		"apiVersion": "policy.sigstore.dev/v1alpha1",
		"kind":       "TrustRoot",
		"metadata":   map[string]any{"name": name},
		"spec": map[string]any{"sigstoreKeys": map[string]any{
			"certificateAuthorities": authority(i.Fulcio.URL, i.signers.chain()...),
			"ctLogs":                 instance(i.Fulcio.URL, ctKey),
			"tLogs":                  instance(i.Rekor.URL, logKey),
			"timestampAuthorities":   authority(i.TimestampURL(), append([]*x509.Certificate{i.stamper.certificate}, i.timestamps.chain()...)...),
		}},
	})
	return string(text), err
}

// CertificateAuthority is the chain of the authority for signing certificates, in PEM, the root last.
func (i *Instance) CertificateAuthority() string { return string(pemOf(i.signers.chain()...)) }

// Environment writes the trusted root and its parts to dir, and returns the settings by which the cosign command
// takes them for the only sigstore there is, and the path of the trusted root.
func (i *Instance) Environment(dir string) (env []string, trustedRoot string, err error) {
	whole, err := i.TrustedRoot()
	if err != nil {
		return nil, "", err
	}
	ctKey, err := cryptoutils.MarshalPublicKeyToPEM(public(i.ctLog))
	if err != nil {
		return nil, "", err
	}
	logKey, err := cryptoutils.MarshalPublicKeyToPEM(public(i.ledger.key))
	if err != nil {
		return nil, "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, "", fmt.Errorf("writing the trusted root: %w", err)
	}
	stampers := append([]*x509.Certificate{i.stamper.certificate}, i.timestamps.chain()...)
	for _, f := range []struct {
		name, variable string
		content        []byte
	}{
		{"trusted_root.json", "", whole},
		{"fulcio.pem", "SIGSTORE_ROOT_FILE", pemOf(i.signers.chain()...)},
		{"ctlog.pub", "SIGSTORE_CT_LOG_PUBLIC_KEY_FILE", ctKey},
		{"rekor.pub", "SIGSTORE_REKOR_PUBLIC_KEY", logKey},
		{"tsa.pem", "SIGSTORE_TSA_CERTIFICATE_FILE", pemOf(stampers...)},
	} {
		path := filepath.Join(dir, f.name)
		if err := os.WriteFile(path, f.content, 0o600); err != nil {
			return nil, "", fmt.Errorf("writing the trusted root: %w", err)
		}
		if f.variable != "" {
			env = append(env, f.variable+"="+path)
		}
	}
	return env, filepath.Join(dir, "trusted_root.json"), nil
}
