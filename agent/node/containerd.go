package node

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// maxNames bounds how many names of one image are followed. Whoever may pull can give an image any number
// of names, so those beyond are passed over, never refused for: it would keep others' pods from starting.
const maxNames = 64

// maxDeleted bounds the tags remembered as taken away. It is reached only by moves that fail; then every tag is
// waited for.
const maxDeleted = 1024

// managedLabel is the label by which containerd's CRI plugin knows the records it looks after.
const managedLabel, managedValue = "io.cri-containerd.image", "managed"

// containerdStore reads containerd's image and content stores.
type containerdStore struct {
	client    *containerd.Client
	namespace string
	platform  platforms.MatchComparer
	// deleted are the tags that alias took away and has not made anew. It belongs to the one alias under way.
	deleted map[string]struct{}
}

func newContainerdStore(conn *grpc.ClientConn, namespace string) (*containerdStore, error) {
	c, err := containerd.NewWithConn(conn)
	if err != nil {
		return nil, fmt.Errorf("making a containerd client: %w", err)
	}
	return &containerdStore{client: c, namespace: namespace, platform: platforms.Default(), deleted: map[string]struct{}{}}, nil
}

func (s *containerdStore) with(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, s.namespace)
}

// manifests adds the manifests whose config is img.ID, following every name that the
// runtime has for it. A name is only where to look: what counts is the record's target, and
// that its config is the image.
//
// A record of one of these names that holds another image is an error, not something to
// pass over: containerd finds an image by its ID, but then takes the bytes from the record of the
// image's first name, and those of an image volume from the record named by the ID. Such a
// record is on its way to being moved, or somebody moved it by hand behind the runtime's back.
func (s *containerdStore) manifests(ctx context.Context, img *Image, repository string) error {
	ctx = s.with(ctx)
	for _, name := range namesToFollow(img, repository) {
		record, err := s.client.ImageService().Get(ctx, name)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("record %q: %w", name, errgrpc.ToGRPC(err))
		}
		target := record.Target
		if known(img, target.Digest, name) {
			continue
		}
		m, err := images.Manifest(ctx, s.client.ContentStore(), target, s.platform)
		if errdefs.IsNotFound(err) {
			continue // its content is not here, so it is not what would run
		}
		if err != nil {
			return fmt.Errorf("manifest %s: %w", target.Digest, errgrpc.ToGRPC(err))
		}
		if m.Config.Digest.String() != img.ID {
			return fmt.Errorf("%w: record %q holds image %s", ErrMoved, name, m.Config.Digest)
		}
		img.add(target.Digest, name)
		if isCheckpoint(m.Annotations) || s.indexIsCheckpoint(ctx, target) {
			img.Checkpoint = true
		}
	}
	return nil
}

// namesToFollow returns at most maxNames names of img: its ID, by which the CRI plugin keeps a record for images
// imported by hand too; its first name, from which containerd takes the bytes; those of
// repository, which nobody can push out who may not push there; then the others.
func namesToFollow(img *Image, repository string) []string {
	names := []string{img.ID}
	add := func(wanted bool, of []string) {
		for _, name := range of {
			if len(names) < maxNames && wanted == InRepository(name, repository) {
				names = append(names, name)
			}
		}
	}
	if len(img.Names) > 0 {
		names = append(names, img.Names[0])
		add(true, img.Names[1:])
		add(false, img.Names[1:])
	}
	return names
}

func known(img *Image, d digest.Digest, name string) bool {
	for k := range img.Manifests {
		if img.Manifests[k].Digest == d {
			img.add(d, name)
			return true
		}
	}
	return false
}

// isCheckpoint recognises the annotations by which containerd and CRI-O tell a
// checkpoint from an image.
func isCheckpoint(annotations map[string]string) bool {
	for k := range annotations {
		if strings.HasPrefix(k, "org.criu.checkpoint.") || strings.HasPrefix(k, "io.kubernetes.cri-o.annotations.checkpoint.") {
			return true
		}
	}
	return false
}

func (s *containerdStore) indexIsCheckpoint(ctx context.Context, target ocispec.Descriptor) bool {
	if !images.IsIndexType(target.MediaType) {
		return false
	}
	index, err := readIndex(ctx, s.client.ContentStore(), target)
	// images.Manifest has just read the same blob; should it be gone, so is the image.
	return err != nil || isCheckpoint(index.Annotations)
}

// alias makes tagged a name of what pinned holds. shown asks the runtime for the ID of the image that it
// takes tagged for, empty if for none.
//
// A tag that stands for another image is never moved. containerd remembers which names an image has, and takes the bytes
// of a new container from the record of the image's first name; until it has noticed that a record
// moved, it would create a container of one image from the bytes of another, which was judged under another
// name and by other policies. So the old record is taken away, containerd is waited for until it no longer knows
// the name, and so are the creates that may have read it before; only then is the new record made. In between a
// create of the old image may fail, and kubelet tries again.
func (s *containerdStore) alias(ctx context.Context, tagged, pinned string, underWay *creating, shown func(context.Context) (string, error)) error {
	ctx = s.with(ctx)
	store := s.client.ImageService()
	failed := func(err error) error { return fmt.Errorf("tagging %s: %w", tagged, errgrpc.ToGRPC(err)) }
	source, err := store.Get(ctx, pinned)
	if err != nil {
		return failed(fmt.Errorf("record %s: %w", pinned, err))
	}
	// The pull has just written that record; by now somebody else may have.
	if !strings.HasSuffix(pinned, "@"+source.Target.Digest.String()) {
		return failed(fmt.Errorf("record %s holds %s", pinned, source.Target.Digest))
	}
	for {
		record, err := store.Get(ctx, tagged)
		switch {
		case err == nil && record.Target.Digest == source.Target.Digest:
			return nil
		case err == nil:
			// What the runtime is still to notice must be noticed first, or it might come after what is done now.
			if m, err := images.Manifest(ctx, s.client.ContentStore(), record.Target, s.platform); err == nil {
				if err := until(ctx, shown, m.Config.Digest.String()); err != nil {
					return failed(err)
				}
			}
			// Waited for while the old record still stands, so that one create that takes its time
			// costs the move and not the tag.
			if err := underWay.wait(ctx); err != nil {
				return failed(fmt.Errorf("waiting for containers that are being created: %w", err))
			}
			if err := store.Delete(ctx, tagged); err != nil && !errdefs.IsNotFound(err) {
				return failed(err)
			}
			if len(s.deleted) < maxDeleted {
				s.deleted[tagged] = struct{}{}
			}
		case errdefs.IsNotFound(err):
			if err := until(ctx, shown, ""); err != nil {
				return failed(err)
			}
			// A tag that alias did not take away stood for nothing, so that no create under way goes by it. (That
			// kubelet's image collection removed it during one is left: it removes no image that it knows in use.)
			if _, moved := s.deleted[tagged]; moved || len(s.deleted) == maxDeleted {
				if err := underWay.wait(ctx); err != nil {
					return failed(fmt.Errorf("waiting for containers that are being created: %w", err))
				}
			}
			img := images.Image{Name: tagged, Target: source.Target, Labels: map[string]string{managedLabel: managedValue}}
			if _, err := store.Create(ctx, img); err == nil {
				delete(s.deleted, tagged)
				return s.awaited(ctx, source.Target, shown)
			} else if !errdefs.IsAlreadyExists(err) {
				return failed(err)
			}
		default:
			return failed(err)
		}
	}
}

// awaited waits until the runtime knows the new name, because kubelet asks for it next.
func (s *containerdStore) awaited(ctx context.Context, target ocispec.Descriptor, shown func(context.Context) (string, error)) error {
	m, err := images.Manifest(ctx, s.client.ContentStore(), target, s.platform)
	if err != nil {
		return errgrpc.ToGRPC(err)
	}
	return until(ctx, shown, m.Config.Digest.String())
}

// until waits until the runtime takes a name for the image id.
func until(ctx context.Context, shown func(context.Context) (string, error), id string) error {
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		now, err := shown(ctx)
		if err != nil {
			return fmt.Errorf("asking what the runtime takes it for: %w", err)
		}
		if now == id {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the runtime takes it for image %q and not %q: %w", now, id, ctx.Err())
		case <-again.C:
		}
	}
}

// follow clears what is remembered whenever an image changes, until the stream
// breaks. Remembering is on only while the stream is known to be alive.
//
// Subscribe returns before the server has taken the subscription, and no answer to another call
// proves that it has. An event that comes does, since every later one will come too. So
// we send one to ourselves; sent too early it is lost, so it is sent until one comes.
func (s *containerdStore) follow(ctx context.Context, cache *lookups) {
	ctx, cancel := context.WithCancel(s.with(ctx))
	defer cancel()
	mark := markTopic + rand.Text()
	events, errs := s.client.EventService().Subscribe(ctx, `topic~="^/images/"`, fmt.Sprintf("topic==%q", mark))
	pause := markSoon
	again := time.NewTimer(pause)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-errs:
			return
		case <-events:
			again.Stop()
			cache.enable() // and forget what was known before it
		case <-again.C:
			if err := s.publish(ctx, mark); err != nil {
				return
			}
			pause = min(2*pause, markLate)
			again.Reset(pause)
		}
	}
}

// publish sends an event of the topic. While it waits, nobody sees that the stream broke.
func (s *containerdStore) publish(ctx context.Context, topic string) error {
	ctx, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	return s.client.EventService().Publish(ctx, topic, &emptypb.Empty{})
}

// markTopic begins the topic of the event that follow sends to itself. Nobody else listens
// for it: the CRI plugin takes topics of images and of tasks.
const markTopic = "/cosentry/watch/"

// follow waits for its event for markSoon before it sends another, and twice as long each time, up to markLate: where events never
// come, it would otherwise send them for as long as the node is up. One must be taken within markTimeout.
const (
	markSoon    = 50 * time.Millisecond
	markLate    = 5 * time.Second
	markTimeout = 5 * time.Second
)

// sleep waits for d, and reports false if ctx ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func readIndex(ctx context.Context, p content.Provider, desc ocispec.Descriptor) (ocispec.Index, error) {
	var index ocispec.Index
	data, err := content.ReadBlob(ctx, p, desc)
	if err != nil {
		return index, err
	}
	return index, json.Unmarshal(data, &index)
}
