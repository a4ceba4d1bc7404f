// Package limits is the one place that says how much foreign material is looked at.
//
// Whatever comes from a registry is written by strangers. Each bound here is a number, a unit and a name; past a
// bound there is an error of type [*Exceeded] that carries all three, so that a refusal can say which bound was
// met. Nothing is ever cut to fit: half a manifest that parses would be another manifest, and a list of
// signatures that stops early could hide the one that matters.
package limits

import (
	"fmt"
	"io"
	"time"
)

// RequestTimeout is the longest that one request to a registry may take, its token and its body included.
const RequestTimeout = 10 * time.Second

// Bound is one named limit.
type Bound int

// The bounds.
const (
	// Manifest is the size of one image manifest, image index or list of referrers.
	Manifest Bound = iota
	// Payload is the size of one signature payload or one sigstore bundle.
	Payload
	// Material is the size of all that is read about one digest: lists, manifests, payloads and bundles together.
	// Without it a registry could have 256 manifests of the largest size held in memory for each question.
	Material
	// Elements is how many JSON elements there are in all that is read about one digest, as [CountElements] counts
	// them. An element of three bytes takes a hundred and more once it is parsed, so bytes alone bound no memory.
	Elements
	// Signatures is how many signatures are looked at for one digest, in either form.
	Signatures
	// Referrers is how many referrers of one digest are looked into.
	Referrers
	// ReferrerPages is how many pages a list of referrers may have, so that empty pages do not go on forever.
	ReferrerPages
	// Redirects is how many redirects one request follows.
	Redirects
	// Token is the size of a token service's answer. Tokens are kept, and the answer is written by whoever a registry
	// names as its token service.
	Token
	// Parallel is how many requests one question has under way at once. It is a width, never an error.
	Parallel
	// Questions is how many images are asked about at once on a node. It is a width, never an error. A question that
	// asks for attestations counts for as many as it may hold more material than another.
	Questions
	// RegistryQuestions is how many of them are about images of one registry. It is a width, never an error.
	RegistryQuestions
	// ClusterQuestions and ClusterRegistryQuestions are the same for what policies of the cluster ask, beside those of the
	// node's own. About one image they may not ask more than all at once: an owner's policies name as many places as the
	// owner wants, but a stranger's would name a thousand.
	ClusterQuestions
	ClusterRegistryQuestions
	// Attestation is the size of one attestation: its envelope, or the bundle that it comes in where attestations are
	// asked for. It is not that of a signature, because a list of a large image's packages has megabytes; a third of it
	// is base64.
	Attestation
	// AttestedMaterial is what Material is to a question that asks for attestations. It is four times as much, and such a
	// question takes four of the places that Questions counts, so that all questions at once hold no more than ever.
	AttestedMaterial
	// Config is the size of one config file of an image.
	Config
	// Platforms is for how many platforms an image's config files are looked at.
	Platforms
	// Credentials is how many credentials of one pull secret are for one repository.
	Credentials
	// Saved is about how many images and places one folder of saved evidence may tell.
	Saved
	// LogEntries is for how many entries a transparency log is asked about one image.
	LogEntries
	// LogAnswer is the size of a transparency log's answer about ten entries.
	LogAnswer
	// HeldFile is the size of a Secret's or ConfigMap's file, as Kubernetes bounds it.
	HeldFile
	// HeldFiles is how many files one Secret or ConfigMap is looked through for its only one.
	HeldFiles
	// RemoteRule is the size of a CUE or Rego rule that a policy has by its URL.
	RemoteRule
	// KMSAnswer is the size of what a key management service says in one connection or one call.
	KMSAnswer
	// KeptKey is the size of a public key as it is kept on disk.
	KeptKey
	// TrustedRoot is the size of a trusted_root.json.
	TrustedRoot
	// Fetches is how many keys, rules and trust roots are fetched at once. It is a width, never an error.
	Fetches
	// Certificates is how many certificates one trust root may hold in all.
	Certificates
	// TUFMetadata is the size of one metadata file of a TUF repository.
	TUFMetadata
	// TUFArchive is the size of a TUF repository as a gzipped tar, in a document or kept on disk.
	TUFArchive
	// TUFUnpacked is the size of such an archive once it is unpacked: a few kilobytes of gzip may hold gigabytes.
	TUFUnpacked
	// TUFFiles is how many entries such an archive may have.
	TUFFiles
	// TUFTargets is how many targets of a TUF repository without a trusted_root.json are read.
	TUFTargets
	// Proofs is how many log entries, and how many signed timestamps, are looked at beside one signature.
	Proofs
	// LogEntry is the size of one log entry's body. Whoever reads one verifies a signature by the key in it, and that
	// takes a time that grows with the square of the key.
	LogEntry
	// LogEntryElements is how many JSON elements a log entry's body has. It is base64 where it stands, so Elements does
	// not count them.
	LogEntryElements
	// Timestamp is the size of one signed timestamp. It holds certificates, whose keys are used before they are trusted.
	Timestamp
	// Certificate is the size of a signature's certificate, and of the chain beside it.
	Certificate
	// CertificateNames is how many alternative names a certificate has. Each may have two bytes, and takes a hundred and
	// more for as long as the image is judged.
	CertificateNames
	// CertificateKey is the length of the RSA key in a signature's certificate.
	CertificateKey
	// RuleText is the length of a CUE or Rego rule.
	RuleText
	// RuleInput is the size of what a rule is given, as JSON. It is not less than Attestation, and not much more is left
	// of one by decoding it and writing it again.
	RuleInput
	// RuleElements is how many JSON elements a rule is given. CUE takes a kilobyte for each.
	RuleElements
	// RuleMembers is how many members one object or array has that a rule is given. The time that CUE takes grows with
	// the square of it.
	RuleMembers
	// RuleDepth is how deep the objects and arrays are nested that a rule is given. Evaluators go down by recursion, and
	// Go does not recover from a stack that is used up.
	RuleDepth
	// SyncedSet is the size of all files of one set of the cluster's documents, with its secrets and ConfigMaps.
	SyncedSet
	// SyncedFiles is how many files such a set has.
	SyncedFiles
	// SyncedEntries is how many names such a set has: files, and the folders that they are in.
	SyncedEntries
	// SyncedFolder is how many names there are in all that sync writes: three sets, of which one is on its way.
	SyncedFolder
	// SyncedReferences is how many secrets and ConfigMaps the cluster's policies may name. Each is watched by itself, so
	// that a node is given no other.
	SyncedReferences
	// SyncedParts is how many globs, authorities, identities, attestations and keys the cluster's policies have together.
	// Each may take a hundred times its bytes once it is compiled.
	SyncedParts
	// SyncedFetches is how many keys, rules and trust roots the cluster's policies may have a node fetch. Each is asked for
	// again and again.
	SyncedFetches
	// APIAnswer is the size of one answer of the API server to sync.
	APIAnswer
	// HostFile is the size of one of a host's settings files that an installation reads or changes. It is held in memory
	// twice, as it is and as it shall be.
	HostFile
	// Removed is how many names are looked at to remove one tree of a host's in one go: minutes of work. Somebody who makes folders in
	// folders that he has open is faster than who removes them, and does not keep the rest of cosentry there.
	Removed
)

var bounds = [...]struct {
	name, unit string
	max        int64
}{
	Manifest:      {"manifest size", "bytes", 4 << 20},
	Payload:       {"signature payload size", "bytes", 1 << 20},
	Material:      {"total signature material", "bytes", 16 << 20},
	Elements:      {"total elements of signature material", "elements", 64 << 10},
	Signatures:    {"number of signatures", "signatures", 128},
	Referrers:     {"number of referrers", "referrers", 128},
	ReferrerPages: {"pages of referrers", "pages", 16},
	Redirects:     {"redirects", "redirects", 5},
	Token:         {"token answer size", "bytes", 64 << 10},
	Parallel:      {"requests at once", "requests", 8},
	Questions:     {"images asked about at once", "images", 16},

	RegistryQuestions:        {"images of one registry asked about at once", "images", 12},
	Attestation:              {"attestation size", "bytes", 16 << 20},
	ClusterQuestions:         {"images asked about at once for the cluster's policies", "images", 12},
	ClusterRegistryQuestions: {"images of one registry asked about at once for the cluster's policies", "images", 8},
	AttestedMaterial:         {"total signature material with attestations", "bytes", 64 << 20},
	Config:                   {"config file size", "bytes", 1 << 20},
	Platforms:                {"platforms of an image", "platforms", 64},
	Credentials:              {"credentials for one repository", "credentials", 16},
	Saved:                    {"images in one folder of saved evidence", "images", 1024},
	LogEntries:               {"transparency log entries asked for", "entries", 256},
	LogAnswer:                {"transparency log answer size", "bytes", 4 << 20},
	HeldFile:                 {"size of a Secret's or ConfigMap's file", "bytes", 1 << 20},
	HeldFiles:                {"files of one Secret or ConfigMap", "files", 1024},
	RemoteRule:               {"size of a remote rule", "bytes", 1 << 20},
	KMSAnswer:                {"answer of a key management service", "bytes", 1 << 20},
	KeptKey:                  {"size of a kept public key", "bytes", 64 << 10},
	TrustedRoot:              {"size of a trusted root", "bytes", 4 << 20},
	Fetches:                  {"fetches at once", "fetches", 4},

	Certificates:     {"certificates of a trust root", "certificates", 256},
	TUFMetadata:      {"size of a TUF metadata file", "bytes", 1 << 20},
	TUFArchive:       {"size of a TUF repository's archive", "bytes", 4 << 20},
	TUFUnpacked:      {"size of a TUF repository", "bytes", 16 << 20},
	TUFFiles:         {"entries of a TUF repository's archive", "entries", 1024},
	TUFTargets:       {"targets of a TUF repository", "targets", 64},
	Proofs:           {"log entries or timestamps of one signature", "proofs", 4},
	LogEntry:         {"log entry size", "bytes", 16 << 10},
	Timestamp:        {"signed timestamp size", "bytes", 16 << 10},
	Certificate:      {"certificate size", "bytes", 32 << 10},
	CertificateNames: {"alternative names of a certificate", "names", 256},
	LogEntryElements: {"elements of a log entry", "elements", 256},
	CertificateKey:   {"RSA key of a certificate", "bits", 8 << 10},

	RuleText:     {"length of a rule", "bytes", 256 << 10},
	RuleInput:    {"input of a rule", "bytes", 16 << 20},
	RuleElements: {"elements of a rule's input", "elements", 128 << 10},
	RuleMembers:  {"members of one object or list of a rule's input", "members", 16 << 10},
	RuleDepth:    {"nesting of a rule's input", "levels", 256},

	HostFile: {"size of a host's settings file", "bytes", 1 << 20},

	SyncedSet:        {"size of the cluster's documents", "bytes", 32 << 20},
	SyncedFiles:      {"files of the cluster's documents", "files", 16 << 10},
	SyncedEntries:    {"files and folders of the cluster's documents", "names", 32 << 10},
	SyncedFolder:     {"files and folders of sync", "names", 128 << 10},
	SyncedReferences: {"secrets and ConfigMaps that the cluster's policies name", "objects", 256},
	SyncedParts:      {"parts of the cluster's policies", "parts", 32 << 10},
	SyncedFetches:    {"keys, rules and trust roots that the cluster's policies have fetched", "references", 256},
	APIAnswer:        {"answer of the API server", "bytes", 64 << 20},
	Removed:          {"files and folders of a tree that is removed", "names", 1 << 20},
}

// Max is the largest value that is within the bound.
func (b Bound) Max() int64 { return bounds[b].max }

// String names the bound as a person should read it in a refusal.
func (b Bound) String() string { return bounds[b].name }

// Check returns an [*Exceeded] if n is beyond the bound.
func (b Bound) Check(n int64) error {
	if n > b.Max() {
		return &Exceeded{Bound: b}
	}
	return nil
}

// ReadAll reads r to its end. If r holds more than the bound, the error is an [*Exceeded] and no bytes are given.
func (b Bound) ReadAll(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(b.Reader(r))
	if err != nil {
		return nil, err
	}
	return data, nil
}

// Reader returns a reader of r that fails with an [*Exceeded] at the first byte beyond the bound.
func (b Bound) Reader(r io.Reader) io.Reader {
	return &reader{from: r, left: b.Max(), bound: b}
}

type reader struct {
	from  io.Reader
	left  int64
	bound Bound
}

// Read asks for one byte more than is left, because only its arrival tells a body that ends exactly at the bound
// from one that goes on.
func (r *reader) Read(p []byte) (int, error) {
	if r.left < 0 {
		return 0, &Exceeded{Bound: r.bound}
	}
	if int64(len(p)) > r.left+1 {
		p = p[:r.left+1]
	}
	n, err := r.from.Read(p)
	r.left -= int64(n)
	if r.left < 0 {
		return n - 1, &Exceeded{Bound: r.bound}
	}
	return n, err
}

// CountElements counts what may become a value of its own when a JSON document is parsed: each object, each array and
// each member after the first. It is no parser and allocates nothing, so it can stand before one. Of a document that is
// not JSON the count is right up to where a parser would stop.
func CountElements[T ~[]byte | ~string](document T) int64 {
	var n int64
	for i, quoted := 0, false; i < len(document); i++ {
		switch c := document[i]; {
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\':
			i++
		case !quoted && (c == ',' || c == '{' || c == '['):
			n++
		}
	}
	return n
}

// Count stands in a struct for a value that is counted and not made: it is how many elements there are in every value
// that a JSON document has under its name, repeated as often as it may be. [CountElements] cannot tell a list that
// somebody parses from a predicate that nobody does.
type Count int64

// UnmarshalJSON adds the elements of a value.
func (c *Count) UnmarshalJSON(value []byte) error {
	*c += Count(CountElements(value))
	return nil
}

// Sum counts what is taken in of many pieces together. A registry gives a blob once and may name it any number of times,
// and what is made of a piece is made, and often kept, for each. A blob's bytes are counted from its second naming on:
// the first was counted when it was read, and a stranger's one blob, named often, must not crowd out what follows it.
type Sum struct {
	// Bytes is the bound on their size: Material or AttestedMaterial.
	Bytes Bound

	bytes, elements int64
	seen            map[*byte]bool // where blobs begin
}

// Takes counts a piece, and says whether all so far are within Bytes and Elements. One that is not counts for nothing.
func (s *Sum) Takes(blob []byte, elements int64) bool {
	var bytes int64
	if len(blob) > 0 {
		if s.seen[&blob[0]] {
			bytes = int64(len(blob))
		} else if s.seen == nil {
			s.seen = map[*byte]bool{}
		}
		s.seen[&blob[0]] = true
	}
	if s.Bytes.Check(s.bytes+bytes) != nil || Elements.Check(s.elements+elements) != nil {
		return false
	}
	s.bytes += bytes
	s.elements += elements
	return true
}

// Exceeded is the error for material beyond a bound. Find it with errors.As.
type Exceeded struct {
	Bound Bound
}

func (e *Exceeded) Error() string {
	return fmt.Sprintf("the bound on %s is exceeded (at most %d %s)", e.Bound, e.Bound.Max(), bounds[e.Bound].unit)
}
