package harness

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// Import puts img on the node under record, a name in containerd's image
// store, the way `ctr images import` does: no registry has it and the runtime
// reports no repository digest. record may be any name, true or not.
func (n *Node) Import(ctx context.Context, img v1.Image, record string) error {
	path, err := n.Archive(img, record)
	if err != nil {
		return err
	}
	archive, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("importing %s: %w", record, err)
	}
	defer archive.Close()
	client, err := n.Containerd.Client()
	if err != nil {
		return err
	}
	defer client.Close()
	images, err := client.Import(ctx, archive)
	if err != nil {
		return fmt.Errorf("importing %s: %w", record, err)
	}
	for _, image := range images {
		if err := containerd.NewImage(client, image).Unpack(ctx, ""); err != nil {
			return fmt.Errorf("unpacking %s: %w", image.Name, err)
		}
	}
	var failure error
	err = Until(10*time.Second, "the runtime to see "+record, func() bool {
		id, err := n.Direct.Present(ctx, record)
		failure = err
		return err != nil || id != ""
	})
	if failure != nil {
		return fmt.Errorf("looking for %s: %w", record, failure)
	}
	return err
}

// Archive writes img as an OCI archive that names it record, and returns the file's path.
func (n *Node) Archive(img v1.Image, record string) (string, error) {
	dir, err := os.MkdirTemp(n.Dir, "archive")
	if err != nil {
		return "", fmt.Errorf("making an archive of %s: %w", record, err)
	}
	tree := filepath.Join(dir, "layout")
	files, err := layout.Write(tree, empty.Index)
	if err == nil {
		err = files.AppendImage(img, layout.WithAnnotations(map[string]string{"io.containerd.image.name": record}))
	}
	if err != nil {
		return "", fmt.Errorf("making an archive of %s: %w", record, err)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.AddFS(os.DirFS(tree)); err != nil {
		return "", fmt.Errorf("making an archive of %s: %w", record, err)
	}
	if err := w.Close(); err != nil {
		return "", fmt.Errorf("making an archive of %s: %w", record, err)
	}
	path := filepath.Join(dir, "image.tar")
	return path, os.WriteFile(path, buf.Bytes(), 0o600)
}
