package trustroot

import (
	_ "embed" // the public-good instance's files
	"fmt"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/cosentry/cosentry/verify/policy"
)

var (
	//go:embed publicgood/trusted_root.json
	publicGoodTrustedRoot []byte
	//go:embed publicgood/root.json
	publicGoodTUFRoot []byte
)

// publicGoodMirror is where the public-good instance publishes its trust root.
const publicGoodMirror = "https://tuf-repo-cdn.sigstore.dev"

// PublicGood is the trust root of sigstore's public-good instance as it was when this program was built.
//
// It expires with the TUF root.json of that time, which is embedded beside it. That is when any client of that TUF
// repository that has seen nothing newer stops: without such an end, cutting a node off would keep it trusting for
// ever a key that everybody else has been told to drop. The certificates go on for years longer. A node without the
// network gets a newer root with a newer program, or from a TrustRoot document.
func PublicGood() *Root {
	r, err := FromJSON(publicGoodTrustedRoot)
	if err == nil {
		var tuf *metadata.Metadata[metadata.RootType]
		if tuf, err = metadata.Root().FromBytes(publicGoodTUFRoot); err == nil {
			r.Expires = tuf.Signed.Expires
			r.From = fmt.Sprintf("sigstore's public-good instance, as built in (TUF root %d)", tuf.Signed.Version)
			return r
		}
	}
	// Not reached as long as the files of the build are whole, which a test sees to. A root that trusts nobody fails closed.
	return &Root{TrustedMaterial: &root.BaseTrustedMaterial{}, Expires: time.Unix(0, 0), From: "sigstore's public-good instance, damaged in this build"}
}

// PublicGoodRemote is the TUF repository of sigstore's public-good instance.
func PublicGoodRemote() policy.TUFRemote {
	return policy.TUFRemote{
		Root:    append([]byte(nil), publicGoodTUFRoot...),
		Mirror:  publicGoodMirror,
		Targets: defaultTargets,
		Target:  defaultTarget,
	}
}
