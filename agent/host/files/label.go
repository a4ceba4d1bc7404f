package files

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLabel is longer than any SELinux label, in bytes.
const maxLabel = 1024

// labelOf is the SELinux label of an open file, with the zero byte at its end if it has one; nil where files have none.
func labelOf(fd uintptr) ([]byte, error) {
	value := make([]byte, maxLabel)
	n, err := unix.Fgetxattr(int(fd), label, value)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return value[:n], nil
}

// Type gives the file at p the label of its folder with another type in it, which is the third of a label's parts. Where the
// folder has no label nothing is done.
func (t *Tree) Type(p, to string) error {
	real, err := t.resolve(p, true)
	if err != nil {
		return err
	}
	dir, err := t.root.Open(path.Dir(real))
	if err != nil {
		return err
	}
	defer dir.Close()
	folder, err := labelOf(dir.Fd())
	if folder == nil || err != nil {
		return err
	}
	parts := strings.SplitN(string(folder), ":", 4)
	if len(parts) < 3 {
		return fmt.Errorf("the label %.100q of the folder of %s has no type", folder, p)
	}
	if parts[2] = to; len(parts) == 3 {
		parts[2] += "\x00"
	}
	f, err := t.Open(p)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fsetxattr(int(f.Fd()), label, []byte(strings.Join(parts, ":")), 0); err != nil {
		return fmt.Errorf("giving %s the SELinux type %s: %w", p, to, err)
	}
	return nil
}
