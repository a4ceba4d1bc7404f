package trustroot

import (
	"cmp"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	prototrustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/policy"
)

const (
	defaultTarget  = "trusted_root.json"
	defaultTargets = "targets"
)

// place is where a repository's targets are.
type place struct {
	folder string // of the targets
	target string // name of the one that holds the trusted root
}

func newPlace(folder, target string) place {
	return place{cmp.Or(strings.Trim(folder, "/"), defaultTargets), cmp.Or(target, defaultTarget)}
}

// material reads the trusted root that the metadata vouches for. What it reads is added to the files used.
//
// Repositories older than trusted_root.json have a target for each certificate and key, with its use in the metadata;
// that is looked at, as policy-controller does, where there is no trusted_root.json. Only the targets that the top-level
// role signs count, as there: a role it delegates to vouches for other things.
func (v *verified) material(at place, from ...reader) (*Root, error) {
	targets := v.Targets[metadata.TARGETS].Signed.Targets
	if info := targets[at.target]; info != nil {
		data, err := v.read(at, at.target, info, from)
		if err != nil {
			return nil, err
		}
		return fromJSON(data)
	}
	if at.target != defaultTarget {
		return nil, fmt.Errorf("the TUF repository has no target %.80q", at.target)
	}
	p, err := v.older(at, from)
	if err != nil {
		return nil, err
	}
	return fromProtobuf(p)
}

// read reads one target and checks its length and hashes. What an earlier reader has and the metadata does not know any
// more is asked of the next.
func (v *verified) read(at place, name string, info *metadata.TargetFiles, from []reader) ([]byte, error) {
	if !fs.ValidPath(name) || name == "." {
		return nil, fmt.Errorf("%.80q is no name for a target", name)
	}
	if err := limits.TrustedRoot.Check(info.Length); err != nil {
		return nil, fmt.Errorf("the target %.80q: %w", name, err)
	}
	var err error
	for _, from := range from {
		var where string
		var data []byte
		if where, data, err = v.readOnce(at, name, info, from); err == nil {
			v.used[where] = data
			return data, nil
		}
	}
	return nil, fmt.Errorf("the TUF repository's target %.80q: %w", name, err)
}

func (v *verified) readOnce(at place, name string, info *metadata.TargetFiles, from reader) (string, []byte, error) {
	for _, candidate := range v.candidates(at, name, info) {
		data, err := from(candidate, info.Length)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", nil, err
		}
		if err := info.VerifyLengthHashes(data); err != nil {
			return "", nil, fmt.Errorf("is not what the metadata says: %w", foreign(err))
		}
		return candidate, data, nil
	}
	return "", nil, fmt.Errorf("is missing: %w", fs.ErrNotExist)
}

// candidates are the files that may hold a target. With consistent snapshots its hash is part of the name; which of
// several is not said. The plain name is tried last: what is there is held against the same hashes.
func (v *verified) candidates(at place, name string, info *metadata.TargetFiles) []string {
	var list []string
	if v.Root.Signed.ConsistentSnapshot {
		for _, algorithm := range slices.Sorted(maps.Keys(info.Hashes)) {
			hashed := hex.EncodeToString(info.Hashes[algorithm]) + "." + path.Base(name)
			list = append(list, path.Join(at.folder, path.Dir(name), hashed))
		}
	}
	return append(list, path.Join(at.folder, name))
}

// usage is the custom metadata of a target of an older repository.
type usage struct {
	Sigstore struct {
		Usage string `json:"usage"`
	} `json:"sigstore"`
}

// older gathers what an older repository holds.
func (v *verified) older(at place, from []reader) (*prototrustroot.TrustedRoot, error) {
	var cas, tsas []*x509.Certificate
	var tlogs, ctlogs []policy.LogInstance
	targets := v.Targets[metadata.TARGETS].Signed.Targets
	read := int64(0)
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		info := targets[name]
		var use usage
		if info == nil || info.Custom == nil || json.Unmarshal(*info.Custom, &use) != nil {
			continue // a target for somebody else
		}
		kind := strings.ToLower(use.Sigstore.Usage)
		if !slices.Contains([]string{"fulcio", "tsa", "rekor", "ctfe"}, kind) {
			continue
		}
		if read++; limits.TUFTargets.Check(read) != nil {
			return nil, limits.TUFTargets.Check(read)
		}
		data, err := v.read(at, name, info, from)
		if err != nil {
			return nil, err
		}
		switch kind {
		case "rekor":
			tlogs = append(tlogs, policy.LogInstance{PublicKey: data})
		case "ctfe":
			ctlogs = append(ctlogs, policy.LogInstance{PublicKey: data})
		default:
			certificates, err := readCertificates(data)
			if err != nil {
				return nil, fmt.Errorf("the target %.80q: %w", name, err)
			}
			if kind == "tsa" {
				tsas = append(tsas, certificates...)
			} else {
				cas = append(cas, certificates...)
			}
		}
	}
	if len(cas) == 0 {
		return nil, fmt.Errorf("the TUF repository has neither a target %s nor one whose use is Fulcio", defaultTarget)
	}
	return gathered(cas, tsas, tlogs, ctlogs)
}

// gathered puts authorities together whose certificates came in files of their own: a root in one, its intermediate in
// the next.
func gathered(cas, tsas []*x509.Certificate, tlogs, ctlogs []policy.LogInstance) (*prototrustroot.TrustedRoot, error) {
	p := &prototrustroot.TrustedRoot{MediaType: root.TrustedRootMediaType01}
	authority := func(chain *protocommon.X509CertificateChain) *prototrustroot.CertificateAuthority {
		return &prototrustroot.CertificateAuthority{CertChain: chain, ValidFor: between(time.Time{}, time.Time{})}
	}
	chains, err := chainsOf(cas, false)
	if err != nil {
		return nil, fmt.Errorf("the targets for Fulcio: %w", err)
	}
	for _, chain := range chains {
		p.CertificateAuthorities = append(p.CertificateAuthorities, authority(chain))
	}
	if len(tsas) > 0 {
		if chains, err = chainsOf(tsas, true); err != nil {
			return nil, fmt.Errorf("the targets for timestamps: %w", err)
		}
		for _, chain := range chains {
			p.TimestampAuthorities = append(p.TimestampAuthorities, authority(chain))
		}
	}
	if p.Tlogs, err = logs(tlogs); err != nil {
		return nil, fmt.Errorf("the targets for Rekor%w", err)
	}
	if p.Ctlogs, err = logs(ctlogs); err != nil {
		return nil, fmt.Errorf("the targets for certificate transparency%w", err)
	}
	return p, nil
}
