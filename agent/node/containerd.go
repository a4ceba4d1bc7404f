package node

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
)

// maxNames bounds how many names of one image are followed. kubelet reports at most 50.
const maxNames = 256

// managed is the label by which containerd's CRI plugin knows the records it looks after.
const managedLabel, managedValue = "io.cri-containerd.image", "managed"

// containerdStore reads containerd's image and content stores.
type containerdStore struct {
	client    *containerd.Client
	namespace string
	platform  platforms.MatchComparer
}

func newContainerdStore(conn *grpc.ClientConn, namespace string) (*containerdStore, error) {
	c, err := containerd.NewWithConn(conn)
	if err != nil {
		return nil, fmt.Errorf("making a containerd client: %w", err)
	}
	return &containerdStore{client: c, namespace: namespace, platform: platforms.Default()}, nil
}

func (s *containerdStore) with(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, s.namespace)
}

// manifests adds the manifests whose config is img.ID, following every name that the
// runtime has for it. A name is only where to look: what counts is the record's target, and
// that its config is the image.
func (s *containerdStore) manifests(ctx context.Context, img *Image) error {
	ctx = s.with(ctx)
	if len(img.Names) > maxNames {
		return fmt.Errorf("it has %d names, more than %d", len(img.Names), maxNames)
	}
	// The CRI plugin keeps a record named by the ID itself for images imported by hand too.
	for _, name := range append([]string{img.ID}, img.Names...) {
		record, err := s.client.ImageService().Get(ctx, name)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("record %q: %w", name, err)
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
			return fmt.Errorf("manifest %s: %w", target.Digest, err)
		}
		if m.Config.Digest.String() != img.ID {
			continue
		}
		img.add(target.Digest, name)
		if isCheckpoint(m.Annotations) || s.indexIsCheckpoint(ctx, target) {
			img.Checkpoint = true
		}
	}
	return nil
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
	for k := range maps.Keys(annotations) {
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

func (s *containerdStore) alias(ctx context.Context, tagged, pinned string) error {
	ctx = s.with(ctx)
	store := s.client.ImageService()
	record, err := store.Get(ctx, pinned)
	if err != nil {
		return fmt.Errorf("tagging %s: record %s: %w", tagged, pinned, err)
	}
	img := images.Image{Name: tagged, Target: record.Target, Labels: map[string]string{managedLabel: managedValue}}
	if _, err = store.Create(ctx, img); errdefs.IsAlreadyExists(err) {
		_, err = store.Update(ctx, img, "target", "labels."+managedLabel)
	}
	if err != nil {
		return fmt.Errorf("tagging %s: %w", tagged, err)
	}
	return nil
}

// follow clears what is remembered whenever an image changes, until the stream
// breaks. Remembering is on only while the stream is known to be alive.
func (s *containerdStore) follow(ctx context.Context, cache *lookups) {
	ctx, cancel := context.WithCancel(s.with(ctx))
	defer cancel()
	events, errs := s.client.Subscribe(ctx, `topic~="^/images/"`)
	// Subscribe returns before the server has taken the subscription. An answer to a
	// call on the same connection does not prove it either, so remembering starts
	// only after a short while in which the stream stayed up.
	settle := time.NewTimer(time.Second)
	defer settle.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-errs:
			return
		case <-events:
			cache.forget()
		case <-settle.C:
			cache.enable()
		}
	}
}

// pause waits a second, or until ctx ends.
func pause(ctx context.Context) {
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
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
