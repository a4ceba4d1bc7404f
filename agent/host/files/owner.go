package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
)

// Writable says who beside root, and the user that asks, can write to p; "" if nobody can, or it is not there. A folder with the sticky bit,
// such as /tmp, is nobody's to write to: what is in it cannot be replaced by others.
func (t *Tree) Writable(p string) string {
	fi, err := t.Stat(p)
	if err != nil {
		return ""
	}
	if fi.IsDir() && fi.Mode()&fs.ModeSticky != 0 && owned(fi) {
		return ""
	}
	return open(fi)
}

func owned(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && (st.Uid == 0 || int(st.Uid) == os.Geteuid())
}

// open says who else can write to a file.
func open(fi fs.FileInfo) string {
	st, ok := fi.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return ""
	case !owned(fi):
		return fmt.Sprintf("is user %d's", st.Uid)
	case fi.Mode().Perm()&0o002 != 0:
		return "can be written to by everybody"
	case fi.Mode().Perm()&0o020 != 0 && st.Gid != 0 && int(st.Gid) != os.Getegid():
		return fmt.Sprintf("can be written to by group %d", st.Gid)
	}
	return ""
}

// RootAlone says why somebody who is not root could put something into the place of p: because p or a folder above it, the way its links
// go as well, is not root's alone. Where p is not there yet, the folder that it would be made in counts.
func (t *Tree) RootAlone(p string) error {
	real, err := t.resolve(p, true)
	if err != nil {
		return err
	}
	for _, way := range []string{path.Clean(p), path.Join("/", real)} {
		at := "/"
		names := strings.Split(strings.Trim(way, "/"), "/")
		for i := 0; ; i++ {
			fi, err := t.Stat(at)
			if err != nil {
				return err
			}
			there, last := false, i == len(names)
			if !last {
				if there, err = t.Exists(path.Join(at, names[i])); err != nil {
					return err
				}
			}
			why := open(fi)
			if there && fi.Mode()&fs.ModeSticky != 0 && owned(fi) {
				why = ""
			}
			if why != "" {
				return &OpenError{Path: at, Why: why}
			}
			if !there {
				break
			}
			at = path.Join(at, names[i])
		}
	}
	return nil
}

// OpenError says that somebody who is not root can write where only root may.
type OpenError struct{ Path, Why string }

func (e *OpenError) Error() string {
	return fmt.Sprintf("%s %s, and only root may decide what is there: chown root: and chmod go-w it", e.Path, e.Why)
}

// Full reports whether a write failed because there is no room for it, or because it is not to be written to at all.
func Full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EROFS)
}
