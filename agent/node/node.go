// Package node answers what is on this node: which content an image reference of the
// CRI stands for, and under which names.
//
// A CRI image ID is a config digest; signatures are about manifest digests. Lookup
// binds the two: every manifest digest it returns is one whose config is the image
// that the runtime would run. With containerd that is read from the image and content stores,
// not from the repo digests of ImageStatus, because those are parsed out of record
// names, and whoever imports an image by hand chooses the name: a record called
// "app@sha256:<digest of a signed image>" may point at anything. With another runtime
// ImageStatus is all there is, and what it does not say is not known.
//
// The package changes two things on the node: Alias writes the tag that a pull by digest left
// out, and Remove takes an image off that was refused after its pull.
package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ErrNotPresent is wrapped when the runtime has no image by a reference.
var ErrNotPresent = errors.New("no such image on this node")

// ErrMoved is wrapped when the runtime's names for an image and its image store disagree: somebody moved a
// record by hand, or the runtime is about to notice that it moved.
var ErrMoved = errors.New("one of its names stands for another image on this node")

// Image is an image on this node.
type Image struct {
	// ID is the runtime's own name for the content: the config digest.
	ID string
	// Manifests are the manifests and indexes whose config is ID. It may be empty.
	Manifests []Manifest
	// Names are the references under which the runtime knows the image. They are hints, not
	// proof.
	Names []string
	// Checkpoint is true for an image that some runtimes would restore a process from,
	// pulling its base image by themselves.
	Checkpoint bool
}

// Manifest is a manifest or index on this node.
type Manifest struct {
	Digest digest.Digest
	// Names are the references that point at it.
	Names []string
}

// Type is a kind of runtime.
type Type string

// The kinds of runtime.
const (
	Auto       Type = "auto" // ask the runtime for its name
	Containerd Type = "containerd"
	CRI        Type = "cri" // any other runtime, by CRI calls alone
)

// Node looks things up at one runtime. It is safe for concurrent use.
type Node struct {
	version runtimeapi.RuntimeServiceClient
	images  runtimeapi.ImageServiceClient
	ctd     *containerdStore
	kind    atomic.Value // Type, once known
	cache   *lookups
	// aliasing is held by the one Alias under way.
	aliasing chan struct{}
	creating creating
}

// New returns a Node that uses conn, the connection to the runtime's socket. It makes
// no call. namespace is the containerd namespace of CRI's images.
func New(conn *grpc.ClientConn, t Type, namespace string) (*Node, error) {
	ctd, err := newContainerdStore(conn, namespace)
	if err != nil {
		return nil, err
	}
	n := &Node{
		version:  runtimeapi.NewRuntimeServiceClient(conn),
		images:   runtimeapi.NewImageServiceClient(conn),
		ctd:      ctd,
		cache:    newLookups(),
		aliasing: make(chan struct{}, 1),
	}
	n.kind.Store(t)
	return n, nil
}

// Type asks the runtime what it is, once, unless settings said so.
func (n *Node) Type(ctx context.Context) (Type, error) {
	if t := n.kind.Load().(Type); t != Auto {
		return t, nil
	}
	v, err := n.version.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return "", fmt.Errorf("asking the runtime for its name: %w", err)
	}
	t := CRI
	if v.RuntimeName == "containerd" {
		t = Containerd
	}
	n.kind.Store(t)
	return t, nil
}

// Lookup returns the image that the runtime would take for spec. Its manifests are all that are known under
// names of repository ("docker.io/library/busybox"; empty if there is none in mind), and some under other names.
//
// cached is true if it was answered from memory, which happens only for an image ID and only while image events are
// followed (see Watch); fresh asks the runtime in any case.
func (n *Node) Lookup(ctx context.Context, spec *runtimeapi.ImageSpec, repository string, fresh bool) (img Image, cached bool, err error) {
	key, cacheable := lookupKey(spec, repository)
	if cacheable && !fresh {
		if img, ok := n.cache.get(key); ok {
			return img, true, nil
		}
	}
	var generation uint64
	for try := 0; ; try++ {
		generation = n.cache.generation()
		if img, err = n.lookup(ctx, spec, repository); err == nil {
			break
		}
		// A name may have moved between the question for the names and the one for what they hold.
		if !errors.Is(err, ErrMoved) || try == lookupRetries || !sleep(ctx, lookupPause) {
			return Image{}, false, err
		}
	}
	// An image with names without number is not remembered: they would be, once for each repository.
	if cacheable && img.ID == key.id && len(img.Names) <= maxNames {
		n.cache.put(key, img, generation)
	}
	return img, false, nil
}

// lookupRetries is how often Lookup asks again, lookupPause apart, before it says that names and content disagree.
const (
	lookupRetries = 3
	lookupPause   = 20 * time.Millisecond
)

func (n *Node) lookup(ctx context.Context, spec *runtimeapi.ImageSpec, repository string) (Image, error) {
	t, err := n.Type(ctx)
	if err != nil {
		return Image{}, err
	}
	st, err := n.images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec})
	if err != nil {
		return Image{}, fmt.Errorf("asking the runtime for image %q: %w", spec.GetImage(), err)
	}
	if st.Image == nil || st.Image.Id == "" {
		return Image{}, fmt.Errorf("%w: %q", ErrNotPresent, spec.GetImage())
	}
	img := Image{
		ID:         st.Image.Id,
		Names:      slices.Concat(st.Image.RepoTags, st.Image.RepoDigests),
		Checkpoint: isCheckpoint(st.Image.GetSpec().GetAnnotations()), // CRI-O tells them
	}
	if t == Containerd {
		err = n.ctd.manifests(ctx, &img, repository)
	} else {
		manifestsByName(&img)
	}
	if err != nil {
		return Image{}, fmt.Errorf("looking up the manifests of image %s: %w", img.ID, err)
	}
	return img, nil
}

// manifestsByName takes a runtime's repo digests at their word.
func manifestsByName(img *Image) {
	for _, name := range img.Names {
		ref, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			continue
		}
		if d, ok := ref.(reference.Digested); ok {
			img.add(d.Digest(), name)
		}
	}
}

func (i *Image) add(d digest.Digest, name string) {
	for k := range i.Manifests {
		if i.Manifests[k].Digest == d {
			i.Manifests[k].Names = append(i.Manifests[k].Names, name)
			return
		}
	}
	i.Manifests = append(i.Manifests, Manifest{Digest: d, Names: []string{name}})
}

// CanAlias reports whether Alias works with this runtime.
func (n *Node) CanAlias(ctx context.Context) (bool, error) {
	t, err := n.Type(ctx)
	return t == Containerd, err
}

// Alias lets the name tagged stand for what the name pinned stands for in the runtime's
// image store. Both are canonical references: "docker.io/library/busybox:1" and
// "docker.io/library/busybox@sha256:…". It takes at most aliasTimeout, and fails rather than
// leave the runtime in doubt about what a name stands for.
func (n *Node) Alias(ctx context.Context, tagged, pinned string) error {
	ctx, cancel := context.WithTimeout(ctx, aliasTimeout)
	defer cancel()
	// One at a time: each leaves the runtime's view settled for the next.
	select {
	case n.aliasing <- struct{}{}:
		defer func() { <-n.aliasing }()
	case <-ctx.Done():
		return fmt.Errorf("tagging %s: %w", tagged, ctx.Err())
	}
	return n.ctd.alias(ctx, tagged, pinned, &n.creating, func(ctx context.Context) (string, error) {
		st, err := n.images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: tagged}})
		return st.GetImage().GetId(), err
	})
}

// aliasTimeout bounds the time that a pull is held up by tagging its image. The CRI plugin takes a few
// milliseconds to see a change.
const aliasTimeout = 5 * time.Second

// Remove takes a name off the runtime's images.
func (n *Node) Remove(ctx context.Context, name string) error {
	_, err := n.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: name}})
	if err != nil {
		return fmt.Errorf("removing image %q: %w", name, err)
	}
	return nil
}

// Watch follows the runtime's image events until ctx ends, so that what Lookup
// remembers is forgotten when an image changes. Without it nothing is remembered.
func (n *Node) Watch(ctx context.Context) {
	for ctx.Err() == nil {
		if t, err := n.Type(ctx); err == nil {
			if t != Containerd {
				return // no events: every look-up is made afresh
			}
			n.ctd.follow(ctx, n.cache)
			n.cache.disable()
		}
		sleep(ctx, time.Second)
	}
}

// InRepository reports whether name, as runtimes tell names (host, path, and a tag or digest), is of
// repository.
func InRepository(name, repository string) bool {
	rest, ok := strings.CutPrefix(name, repository)
	return ok && rest != "" && (rest[0] == ':' || rest[0] == '@') && !strings.Contains(rest, "/")
}

// IsID reports whether ref is a full image ID, which names one content for good: containerd's
// "sha256:" and 64 hex digits, or the bare digits of CRI-O. Runtimes read both as an ID
// before they read them as a name.
func IsID(ref string) bool {
	hex := strings.TrimPrefix(ref, "sha256:")
	if len(hex) != 64 {
		return false
	}
	for i := range len(hex) {
		if c := hex[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
