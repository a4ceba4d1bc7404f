package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/cosentry/cosentry/agent/folders"
	"github.com/cosentry/cosentry/verify/limits"
)

// setDepth is how deep a set is: secrets/<namespace>/<name>/<key>.
const setDepth = 4

// reading is a set that is being read.
type reading struct {
	walk
	files map[string][]byte
	left  int64 // bytes that may still come
}

// readSet reads all files of the set in an open folder, but for what only others read.
func readSet(ctx context.Context, set *os.File) (map[string][]byte, error) {
	r := newReading()
	if err := r.folder(ctx, set, "", 1); err != nil {
		return nil, err
	}
	return r.files, nil
}

func newReading() *reading {
	return &reading{walk: walk{bound: limits.SyncedEntries}, files: map[string][]byte{}, left: limits.SyncedSet.Max()}
}

// folder reads what is in a folder, which is depth names from the set's own.
func (r *reading) folder(ctx context.Context, dir *os.File, at string, depth int) error {
	return r.each(ctx, dir, func(name string, st unix.Stat_t) error {
		inside := path.Join(at, name)
		err := r.entry(ctx, dir, name, st, inside, depth)
		var errno unix.Errno
		if errors.As(err, &errno) {
			// It was said to be there a moment ago.
			return fmt.Errorf("%.128q: %w", inside, errno)
		}
		return err
	})
}

func (r *reading) entry(ctx context.Context, dir *os.File, name string, st unix.Stat_t, inside string, depth int) error {
	switch {
	case folders.IsFolder(st) && depth == setDepth:
		return fmt.Errorf("%.128q is a folder, and a set has none so deep", inside)
	case folders.IsFolder(st):
		f, err := folders.Open(dir, name)
		if err != nil {
			return err
		}
		defer f.Close()
		return r.folder(ctx, f, inside, depth+1)
	case !isRegular(st):
		// A link would be followed by a process that may read everything.
		return fmt.Errorf("%.128q is neither a folder nor a regular file", inside)
	case inside == Namespaces:
		return nil
	}
	if err := limits.SyncedFiles.Check(int64(len(r.files) + 1)); err != nil {
		return err
	}
	data, err := readFile(dir, name, r.left)
	if err != nil {
		return fmt.Errorf("%.128q: %w", inside, err)
	}
	r.left -= int64(len(data))
	r.files[inside] = data
	return nil
}

// readFile reads a regular file of at most left bytes.
func readFile(dir *os.File, name string, left int64) ([]byte, error) {
	f, err := folders.OpenIn(dir, name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, folders.Reason(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	if info.Size() > left { // a file without content may say that it has 8 EiB
		return nil, &limits.Exceeded{Bound: limits.SyncedSet}
	}
	data := bytes.NewBuffer(make([]byte, 0, info.Size()+bytes.MinRead))
	if _, err := data.ReadFrom(io.LimitReader(f, left+1)); err != nil {
		return nil, folders.Reason(err)
	}
	if int64(data.Len()) > left { // it grew
		return nil, &limits.Exceeded{Bound: limits.SyncedSet}
	}
	return data.Bytes(), nil
}
