package files

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cosentry/cosentry/agent/folders"
	"github.com/cosentry/cosentry/verify/limits"
)

const defaultMode fs.FileMode = 0o644

// Apply makes the change, and the folders that it needs, mode 0755. What is as it shall be already is left alone. A file
// that is neither as before nor as after the change is left alone too, with a [*ChangedError].
func (t *Tree) Apply(c Change) error {
	if err := t.apply(c); err != nil {
		return fmt.Errorf("changing %s: %w", c.Path, err)
	}
	return nil
}

func (t *Tree) apply(c Change) error {
	if err := c.check(); err != nil {
		return err
	}
	now, link, err := t.now(c)
	if err != nil {
		return err
	}
	if same(now, link, c.After, c.AfterLink) {
		return nil
	}
	if !same(now, link, c.Before, c.BeforeLink) {
		return &ChangedError{Path: c.Path}
	}
	real, err := t.resolve(c.Path, !c.link())
	if err != nil {
		return err
	}
	if c.After == nil && c.AfterLink == "" {
		if err := t.root.Remove(real); err != nil {
			return err
		}
		return t.syncDir(path.Dir(real))
	}
	if err := t.root.MkdirAll(path.Dir(real), 0o755); err != nil {
		return err
	}
	if c.AfterLink != "" {
		return t.writeLink(real, c.AfterLink)
	}
	mode := c.Mode
	if mode == 0 {
		mode = defaultMode
	}
	return t.write(real, bytes.NewReader(c.After), mode)
}

// now is what is there: a file's bytes, or where a link leads if the change is about links.
func (t *Tree) now(c Change) (data []byte, link string, err error) {
	if c.link() {
		if link, err = t.Readlink(c.Path); err != nil || link != "" {
			return nil, link, err
		}
	}
	data, err = t.Read(c.Path)
	return data, "", err
}

func same(data []byte, link string, wantData []byte, wantLink string) bool {
	return link == wantLink && (data == nil) == (wantData == nil) && bytes.Equal(data, wantData)
}

// Put writes what from holds to p, whatever is there, and gives its size. The mode is the file's even if there was one: it
// is for files that are nobody else's.
func (t *Tree) Put(p string, from io.Reader, mode fs.FileMode) error {
	real, err := t.resolve(p, true)
	if err != nil {
		return fmt.Errorf("writing %s: %w", p, err)
	}
	if err := t.put(real, from, mode, nil); err != nil {
		return fmt.Errorf("writing %s: %w", p, err)
	}
	return nil
}

// write puts a file in the place of the one at real, which is in the tree and no link, with its mode, owner and label.
func (t *Tree) write(real string, from io.Reader, mode fs.FileMode) error {
	old, err := t.root.Lstat(real)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return t.put(real, from, mode, nil)
	case err != nil:
		return err
	case !old.Mode().IsRegular():
		return errNotRegular
	}
	return t.put(real, from, old.Mode().Perm()|old.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky), old)
}

func (t *Tree) put(real string, from io.Reader, mode fs.FileMode, like fs.FileInfo) (err error) {
	temp := temporary(real)
	f, err := t.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			_ = t.root.Remove(temp)
		}
	}()
	if _, err := io.Copy(f, from); err != nil {
		return err
	}
	if like != nil {
		if err := t.liken(f, real, like); err != nil {
			return err
		}
	}
	if err := f.Chmod(mode); err != nil { // after the owner, whose change clears bits
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := t.root.Rename(temp, real); err != nil {
		return err
	}
	return t.syncDir(path.Dir(real))
}

// label is where SELinux keeps what a file is. A file that is renamed into place has its folder's otherwise, and a kubelet
// may not be allowed to read that.
const label = "security.selinux"

// liken gives f the owner and the label of the file at real.
func (t *Tree) liken(f *os.File, real string, like fs.FileInfo) error {
	st, ok := like.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("the owner of the file cannot be told")
	}
	if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	old, err := t.root.OpenFile(real, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer old.Close()
	value, err := labelOf(old.Fd())
	if err == nil && value != nil {
		err = unix.Fsetxattr(int(f.Fd()), label, value, 0)
	}
	if err != nil {
		return fmt.Errorf("keeping the file's SELinux label: %w", err)
	}
	return nil
}

func (t *Tree) writeLink(real, to string) error {
	temp := temporary(real)
	if err := t.root.Symlink(to, temp); err != nil {
		return err
	}
	if err := t.root.Rename(temp, real); err != nil {
		_ = t.root.Remove(temp)
		return err
	}
	return t.syncDir(path.Dir(real))
}

// temporary is a name beside real that nobody else has. It begins with a dot and ends so that no kubelet and no systemd reads it
// if it is left behind.
func temporary(real string) string {
	return path.Join(path.Dir(real), ".cosentry-"+rand.Text()+".tmp")
}

func (t *Tree) syncDir(real string) error {
	d, err := t.root.Open(real)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

// MakeDir makes the folder p with mode, and those above it with 0755. It gives those that were not there, the outermost first.
func (t *Tree) MakeDir(p string, mode fs.FileMode) (made []string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("making folder %s: %w", p, err)
		}
	}()
	for dir := path.Clean(p); dir != "/"; dir = path.Dir(dir) {
		there, err := t.Exists(dir)
		if err != nil {
			return nil, err
		}
		if there {
			break
		}
		made = append([]string{dir}, made...)
	}
	for i, dir := range made {
		m := fs.FileMode(0o755)
		if i == len(made)-1 {
			m = mode
		}
		real, err := t.resolve(dir, true)
		if err != nil {
			return made[:i], err
		}
		if err := t.root.Mkdir(real, m); err != nil && !errors.Is(err, fs.ErrExist) {
			return made[:i], err
		}
		if err := t.root.Chmod(real, m); err != nil { // whatever the umask is
			return made[:i+1], err
		}
	}
	return made, nil
}

// Remove removes the file, the link or the empty folder at p; nothing there is no error.
func (t *Tree) Remove(p string) error {
	real, err := t.resolve(p, false)
	if err == nil {
		err = t.root.Remove(real)
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	return fmt.Errorf("removing %s: %w", p, err)
}

// RemoveEmpty removes the folder at p if there is nothing in it.
func (t *Tree) RemoveEmpty(p string) error {
	err := t.Remove(p)
	if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) {
		return nil
	}
	return err
}

// RemoveAll removes p and all that is below it, and follows no link. What is below it may be a stranger's, see package folders.
func (t *Tree) RemoveAll(ctx context.Context, p string) error {
	if err := t.removeAll(ctx, p); err != nil {
		return fmt.Errorf("removing %s: %w", p, err)
	}
	return nil
}

func (t *Tree) removeAll(ctx context.Context, p string) error {
	real, err := t.resolve(p, false)
	if err != nil {
		return err
	}
	if real == "." {
		return errors.New("that is the whole host")
	}
	above, err := t.root.Open(path.Dir(real))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer above.Close()
	return folders.RemoveAll(ctx, above, path.Base(real), limits.Removed.Max())
}
