package trustroot

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/cosentry/cosentry/verify/limits"
)

// files is a TUF repository: its metadata by name, and its targets in a folder of it.
type files map[string][]byte

// unpack reads a gzipped tar as policy-controller makes it: the repository at its top, or in a folder named repository.
//
// Nothing of it reaches a disk, so a name that leads out of it could do no harm; it is refused because nobody writes one
// by mistake. Links and devices are refused for the same reason, and a name that comes twice because two
// readers could take different ones.
func unpack(archive []byte) (files, error) {
	if err := limits.TUFArchive.Check(int64(len(archive))); err != nil {
		return nil, err
	}
	zipped, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return nil, fmt.Errorf("not a gzipped tar: %w", foreign(err))
	}
	all := files{}
	tr := tar.NewReader(limits.TUFUnpacked.Reader(zipped))
	for entries := int64(1); ; entries++ {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("not a gzipped tar: %w", foreign(err))
		}
		if err := limits.TUFFiles.Check(entries); err != nil {
			return nil, err
		}
		switch header.Typeflag {
		case tar.TypeDir, tar.TypeXGlobalHeader:
			continue
		case tar.TypeReg:
		default:
			return nil, fmt.Errorf("%.80q is neither a file nor a folder: a repository holds nothing else", header.Name)
		}
		name, err := nameInside(header.Name)
		if err != nil {
			return nil, err
		}
		if _, twice := all[name]; twice {
			return nil, fmt.Errorf("%.80q is there twice", header.Name)
		}
		if all[name], err = io.ReadAll(tr); err != nil {
			return nil, fmt.Errorf("reading %.80q: %w", header.Name, foreign(err))
		}
	}
}

// nameInside is an entry's name from the top of the repository.
func nameInside(name string) (string, error) {
	inside := strings.TrimPrefix(strings.TrimPrefix(path.Clean("/"+name), "/"), "repository/")
	if slices.Contains(strings.Split(name, "/"), "..") || strings.ContainsAny(name, "\\\x00") || !fs.ValidPath(inside) || inside == "." {
		return "", fmt.Errorf("%.80q is no name for a file of a repository", name)
	}
	return inside, nil
}

// pack is the opposite of unpack. The same files give the same bytes.
func (all files) pack() ([]byte, error) {
	var packed bytes.Buffer
	zipped := gzip.NewWriter(&packed)
	w := tar.NewWriter(zipped)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(all[name])), ModTime: time.Unix(0, 0)}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("packing %.80q: %w", name, err)
		}
		if _, err := w.Write(all[name]); err != nil {
			return nil, fmt.Errorf("packing %.80q: %w", name, err)
		}
	}
	if err := errors.Join(w.Close(), zipped.Close()); err != nil {
		return nil, fmt.Errorf("packing the repository: %w", err)
	}
	return packed.Bytes(), limits.TUFArchive.Check(int64(packed.Len()))
}

// read is a reader of the files.
func (all files) read(name string, most int64) ([]byte, error) {
	data, ok := all[name]
	if !ok {
		return nil, fmt.Errorf("%.80q: %w", name, fs.ErrNotExist)
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("%.80q is longer than the %d bytes it may have", name, most)
	}
	return data, nil
}
