// Package cluster is the folder by which a cluster's documents reach a node: `cosentry sync` writes it, `cosentry run`
// reads it.
//
// It promises that a set is read whole, as it was at one moment, and that nothing in the folder leads out of it: sync
// talks to the API server, and whoever has taken it over must not be able to have the agent, which is root, read
// another file. It refuses a set that holds what it does not know, rather than leaving out what may be a restriction.
//
// # Layout
//
// Below the folder, DefaultDir if the settings (clusterPolicies.dir) do not say otherwise:
//
//	current                                    a link to sets/<id>, replaced by rename
//	sets/<id>/policies/<kind>.<name>.yaml      one document each, see PolicyFile
//	sets/<id>/policies/<kind>.<name>.yaml.sig  its signature, where the object carries one
//	sets/<id>/secrets/<namespace>/<name>/<key>
//	sets/<id>/configmaps/<namespace>/<name>/<key>
//	sets/<id>/namespaces.yaml                  a NamespaceList; namespaces.file of the settings may name it through current
//	heartbeat                                  when sync last knew itself to be up to date, RFC 3339
//
// A set is never changed once current has led to it. Folders are 0700 and files 0600.
package cluster

import (
	"fmt"
	"regexp"
	"strings"
)

// DefaultDir is where sync writes on a host.
const DefaultDir = "/var/lib/cosentry/cluster"

// Names in the folder, and in each set.
const (
	Current    = "current"
	Sets       = "sets"
	Policies   = "policies"
	Secrets    = "secrets"
	ConfigMaps = "configmaps"
	Namespaces = "namespaces.yaml"
	Heartbeat  = "heartbeat"
	// SignatureSuffix follows the whole name of the file that is signed.
	SignatureSuffix = ".sig"
)

// Annotations by which an object in the cluster carries a signed document. Where both are there, sync writes the bytes of
// the first as the document's file and the value of the second as its signature's, both as they are; the object's own
// fields then say nothing.
const (
	DocumentAnnotation  = "cosentry.dev/document"  // base64 (standard, padded) of the very bytes that were signed
	SignatureAnnotation = "cosentry.dev/signature" // what cosign sign-blob printed: base64
)

// Kinds of documents.
const (
	KindPolicy    = "ClusterImagePolicy"
	KindTrustRoot = "TrustRoot"
)

// subdomain is what the API server takes for the names of these objects (RFC 1123). Nothing of this form leads to
// another folder.
var subdomain = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)

// maxName is the length in bytes of the longest name that Kubernetes gives an object.
const maxName = 253

// PolicyFile is the name of the file that holds an object of kind.
func PolicyFile(kind, name string) (string, error) {
	if kind != KindPolicy && kind != KindTrustRoot {
		return "", fmt.Errorf("kind %.64q: only %s and %s are kept for nodes", kind, KindPolicy, KindTrustRoot)
	}
	if len(name) > maxName || !subdomain.MatchString(name) {
		return "", fmt.Errorf("%s %.64q: not a name that Kubernetes takes", kind, name)
	}
	return strings.ToLower(kind) + "." + name + ".yaml", nil
}
