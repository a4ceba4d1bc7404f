package nodetest

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"

	eventstypes "github.com/containerd/containerd/api/events"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Put writes v as JSON, or bytes as they are, and returns its descriptor.
func (r *Runtime) Put(t testing.TB, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	data, ok := v.([]byte)
	if !ok {
		var err error
		if data, err = json.Marshal(v); err != nil {
			t.Fatal(err)
		}
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := content.WriteBlob(t.Context(), r.blobs, desc.Digest.String(), bytes.NewReader(data), desc); err != nil {
		t.Fatal(err)
	}
	return desc
}

// Config writes the config of an image for this machine; words make it distinct.
func (r *Runtime) Config(t testing.TB, words string) ocispec.Descriptor {
	t.Helper()
	p := platforms.DefaultSpec()
	return r.Put(t, ocispec.MediaTypeImageConfig, ocispec.Image{
		Author:   words,
		Platform: ocispec.Platform{Architecture: p.Architecture, OS: p.OS, Variant: p.Variant},
		RootFS:   ocispec.RootFS{Type: "layers"},
	})
}

// Manifest writes a manifest of config.
func (r *Runtime) Manifest(t testing.TB, config ocispec.Descriptor, annotations map[string]string) ocispec.Descriptor {
	t.Helper()
	return r.Put(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: config, Layers: []ocispec.Descriptor{}, Annotations: annotations,
	})
}

// Index writes an index of manifests for this machine.
func (r *Runtime) Index(t testing.TB, annotations map[string]string, manifests ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	p := platforms.DefaultSpec()
	for i := range manifests {
		manifests[i].Platform = &p
	}
	return r.Put(t, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: manifests, Annotations: annotations,
	})
}

// Drop takes content out of the store.
func (r *Runtime) Drop(t testing.TB, desc ocispec.Descriptor) {
	t.Helper()
	if err := r.blobs.Delete(t.Context(), desc.Digest); err != nil {
		t.Fatal(err)
	}
}

// Tag makes or moves the record name, as "ctr images tag" and "import" can, and tells of it.
func (r *Runtime) Tag(name string, target ocispec.Descriptor) {
	r.mu.Lock()
	_, there := r.records[name]
	r.records[name] = &imagesapi.Image{Name: name, Target: oci.DescriptorToProto(target)}
	r.refresh(name)
	r.mu.Unlock()
	r.tell(name, !there)
}

// Untag deletes a record and tells of it.
func (r *Runtime) Untag(name string) {
	r.mu.Lock()
	delete(r.records, name)
	r.refresh(name)
	r.mu.Unlock()
	r.events.publish(Namespace, "/images/delete", &eventstypes.ImageDelete{Name: name})
}

func (r *Runtime) tell(name string, created bool) {
	if created {
		r.events.publish(Namespace, "/images/create", &eventstypes.ImageCreate{Name: name})
		return
	}
	r.events.publish(Namespace, "/images/update", &eventstypes.ImageUpdate{Name: name})
}

// Pulled writes the records that a pull by the CRI plugin leaves: the name that was pulled, its
// digest and the image's ID, which it returns.
func (r *Runtime) Pulled(t testing.TB, repository, tag string, target ocispec.Descriptor) string {
	t.Helper()
	id := r.configOf(target)
	if id == "" {
		t.Fatal("no image in " + target.Digest.String())
	}
	if tag != "" {
		r.Tag(repository+":"+tag, target)
	}
	r.Tag(repository+"@"+target.Digest.String(), target)
	r.Tag(id, target)
	return id
}

// Record returns the record of that name, or nil.
func (r *Runtime) Record(name string) *imagesapi.Image {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.records[name]
}

// Lag keeps the CRI plugin's view as it is, whatever becomes of the records.
func (r *Runtime) Lag(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lagging = on
}

// refresh brings the CRI plugin's view of one name up to date. Like the real one it keeps what
// it had if the content cannot be read. r.mu is held.
func (r *Runtime) refresh(name string) {
	if r.lagging {
		return
	}
	record, ok := r.records[name]
	if !ok {
		delete(r.view, name)
	} else if id := r.configOf(oci.DescriptorFromProto(record.Target)); id != "" {
		r.view[name] = id
	}
}

func (r *Runtime) configOf(target ocispec.Descriptor) string {
	config, err := images.Config(context.Background(), r.blobs, target, platforms.Default())
	if err != nil {
		return ""
	}
	return config.Digest.String()
}

// imageStore is containerd's image service.
type imageStore struct {
	imagesapi.UnimplementedImagesServer
	r *Runtime
}

func (s imageStore) Get(ctx context.Context, req *imagesapi.GetImageRequest) (*imagesapi.GetImageResponse, error) {
	if err := inNamespace(ctx); err != nil {
		return nil, err
	}
	record := s.r.Record(req.Name)
	if record == nil {
		return nil, status.Errorf(codes.NotFound, "image %q: not found", req.Name)
	}
	return &imagesapi.GetImageResponse{Image: record}, nil
}

func (s imageStore) Create(ctx context.Context, req *imagesapi.CreateImageRequest) (*imagesapi.CreateImageResponse, error) {
	if err := inNamespace(ctx); err != nil {
		return nil, err
	}
	name := req.Image.Name
	s.r.mu.Lock()
	if s.r.records[name] != nil {
		s.r.mu.Unlock()
		return nil, status.Errorf(codes.AlreadyExists, "image %q: already exists", name)
	}
	s.r.records[name] = req.Image
	s.r.refresh(name)
	s.r.mu.Unlock()
	s.r.tell(name, true)
	return &imagesapi.CreateImageResponse{Image: req.Image}, nil
}

// Update changes the fields that the mask names, as the metadata store does.
func (s imageStore) Update(ctx context.Context, req *imagesapi.UpdateImageRequest) (*imagesapi.UpdateImageResponse, error) {
	if err := inNamespace(ctx); err != nil {
		return nil, err
	}
	name := req.Image.Name
	s.r.mu.Lock()
	old := s.r.records[name]
	if old == nil {
		s.r.mu.Unlock()
		return nil, status.Errorf(codes.NotFound, "image %q: not found", name)
	}
	record := proto.Clone(old).(*imagesapi.Image)
	for _, path := range req.GetUpdateMask().GetPaths() {
		label, isLabel := bytes.CutPrefix([]byte(path), []byte("labels."))
		switch {
		case path == "target":
			record.Target = req.Image.Target
		case isLabel:
			if record.Labels == nil {
				record.Labels = map[string]string{}
			}
			record.Labels[string(label)] = req.Image.Labels[string(label)]
		default:
			s.r.mu.Unlock()
			return nil, status.Errorf(codes.InvalidArgument, "cannot update %q", path)
		}
	}
	s.r.records[name] = record
	s.r.refresh(name)
	s.r.mu.Unlock()
	s.r.tell(name, false)
	return &imagesapi.UpdateImageResponse{Image: record}, nil
}

func (s imageStore) Delete(ctx context.Context, req *imagesapi.DeleteImageRequest) (*emptypb.Empty, error) {
	if err := inNamespace(ctx); err != nil {
		return nil, err
	}
	s.r.Untag(req.Name)
	return &emptypb.Empty{}, nil
}
