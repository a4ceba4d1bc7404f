package policy

import (
	"crypto"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// key reads whose signature counts: keys written out, or where they are.
func (r *reader) key(n *yaml.Node, path string) *Key {
	o, ok := r.object(n, path, "data", "kms", "secretRef", "hashAlgorithm")
	if !ok {
		return nil
	}
	k := &Key{}
	k.Hash, k.HashWritten = r.hash(o)
	// Each is read for its own faults, even if there is one too many.
	r.oneOf(o, "data", "kms", "secretRef")
	if data := r.text(o, "data", maxKeyData); data != "" {
		keys, err := ParsePublicKeys([]byte(data), k.Hash, k.HashWritten)
		if err != nil {
			r.fault(o.line("data"), join(path, "data"), "%v", err)
		}
		k.PublicKeys = keys
	}
	if k.KMS = r.text(o, "kms", maxURL); k.KMS != "" {
		if err := checkKMS(k.KMS); err != nil {
			r.fault(o.line("kms"), join(path, "kms"), "%v", err)
		}
	}
	k.Secret = r.secret(o)
	return k
}

// hash reads hashAlgorithm. One that is unknown is a fault, and the key is looked at with the default all the same,
// for its own faults.
func (r *reader) hash(o object) (h crypto.Hash, written bool) {
	text := r.text(o, "hashAlgorithm", maxMessage)
	h, err := parseHash(text)
	if err != nil {
		r.fault(o.line("hashAlgorithm"), join(o.path, "hashAlgorithm"), "%v", err)
		return crypto.SHA256, true
	}
	return h, strings.TrimSpace(text) != ""
}

// secret reads a secretRef, if there is one. policy-controller reads the secret in its own namespace whatever namespace is written
// here; a node has no namespace of its own, so what is written counts, and DefaultNamespace where nothing is.
func (r *reader) secret(o object) *Reference {
	field, ok := o.fields["secretRef"]
	if !ok {
		return nil
	}
	s, ok := r.object(field, join(o.path, "secretRef"), "name", "namespace")
	if !ok {
		return nil
	}
	return &Reference{Name: r.secretName(s), Namespace: r.namespace(s)}
}

// namespace reads where a secret or ConfigMap is. One that is empty is a fault: another key or rule than is meant could
// stand under the name in DefaultNamespace.
func (r *reader) namespace(o object) string {
	before := len(r.faults)
	ns := r.kubernetesName(o, "namespace", r.written(o, "namespace", 63))
	if strings.Contains(ns, ".") {
		r.fault(o.line("namespace"), join(o.path, "namespace"), "%s is not a namespace's name: use lower-case letters, digits and -", quote(ns))
	}
	if ns == "" && len(r.faults) == before {
		return DefaultNamespace
	}
	return ns
}

// The forms of a key's URI, by scheme: those that github.com/sigstore/sigstore's clients take, without what would be
// sent elsewhere than it seems to (user@host, queries).
var (
	uuid      = `(?:mrk-)?[A-Fa-f0-9]{8}-?[A-Fa-f0-9]{4}-?[A-Fa-f0-9]{4}-?[A-Fa-f0-9]{4}-?[A-Fa-f0-9]{12}`
	awsKey    = regexp.MustCompile(`^([^/]*)/(?:` + uuid + `|alias/[a-zA-Z0-9/_-]+|arn:(?:aws|aws-us-gov|aws-cn):kms:[a-z0-9-]+:[0-9]{12}:(?:key/` + uuid + `|alias/[a-zA-Z0-9/_-]+))$`)
	gcpKey    = regexp.MustCompile(`^projects/[a-zA-Z0-9.:_-]+/locations/[a-zA-Z0-9-]+/keyRings/[a-zA-Z0-9_-]+/cryptoKeys/[a-zA-Z0-9_-]+(?:/(?:cryptoKeyVersions|versions)/[0-9]+)?$`)
	azureKey  = regexp.MustCompile(`^[a-zA-Z0-9.-]+(?::[0-9]{1,5})?/[a-zA-Z0-9-]+(?:/[a-z0-9]*)?$`)
	vaultKey  = regexp.MustCompile(`^\w(?:[\w.-]*\w)?$`)
	plainHost = regexp.MustCompile(`^[a-zA-Z0-9.:\[\]-]+$`)
)

// checkKMS says what is wrong with the URI of a key in a key management service.
func checkKMS(uri string) error {
	scheme, key, ok := strings.Cut(uri, "://")
	if !ok {
		return fmt.Errorf("%s is not the URI of a key: use awskms://, gcpkms://, azurekms:// or hashivault://", quote(uri))
	}
	form := ""
	switch scheme {
	case "awskms":
		m := awsKey.FindStringSubmatch(key)
		if m == nil {
			form = "awskms://[ENDPOINT]/[ID, ALIAS or ARN], such as awskms:///alias/release or awskms:///arn:aws:kms:us-east-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
			break
		}
		return checkEndpoint(m[1])
	case "gcpkms":
		if !gcpKey.MatchString(key) {
			form = "gcpkms://projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY[/cryptoKeyVersions/VERSION]"
		}
	case "azurekms":
		if !azureKey.MatchString(key) {
			form = "azurekms://VAULT/KEY[/VERSION], such as azurekms://release.vault.azure.net/signing"
		}
	case "hashivault":
		if !vaultKey.MatchString(key) {
			form = "hashivault://KEY"
		}
	default:
		return fmt.Errorf("%s is not a key management service that is known: use awskms://, gcpkms://, azurekms:// or hashivault://", quote(scheme+"://"))
	}
	if form != "" {
		return fmt.Errorf("%s is not of the form %s", quote(uri), form)
	}
	return nil
}

// checkEndpoint takes host:port, as policy-controller does, or nothing.
func checkEndpoint(endpoint string) error {
	if endpoint == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil || host == "" || port == "" || !plainHost.MatchString(endpoint) {
		return errors.New("the endpoint " + quote(endpoint) + " is not host:port")
	}
	return nil
}
