package namespaces

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxLinks is how many links are followed on the way to the file, as many as the kernel does.
const maxLinks = 40

// file is what was read.
type file struct {
	data []byte // up to one byte beyond its bound
	// foreign says why others than root may have written the file, or chosen which it is; empty: they cannot.
	foreign string
}

// read reads the file at path. Whose labels they are is said by the file system, not by the path: a path may lead through links
// to the folder that sync writes. cluster is that folder, and counts as sync's whoever owns it; empty: there is none.
func read(path, cluster string) (file, error) {
	f, foreign, err := open(path, cluster)
	if err != nil {
		return file{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return file{}, err
	}
	if !info.Mode().IsRegular() {
		return file{}, fmt.Errorf("%s is not a regular file (%s)", path, info.Mode().Type())
	}
	if foreign == "" {
		foreign = others("the file", info)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	return file{data, foreign}, err
}

// open goes to the file name by name. As long as nobody but root can change a folder, what was looked at is what is
// opened. From the first folder that others can change on, no link leads out of it: who writes there is not to choose
// what root reads. It opens without waiting: a pipe in the file's place would hang the agent.
func open(path, cluster string) (f *os.File, foreign string, err error) {
	const how = os.O_RDONLY | syscall.O_NONBLOCK
	if path, err = filepath.Abs(path); err != nil {
		return nil, "", err
	}
	var sync fs.FileInfo
	if cluster != "" {
		if sync, err = os.Stat(cluster); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, "", fmt.Errorf("looking for the folder of the cluster's documents: %w", err)
		}
	}
	at, links := "/", 0
	for rest := split(path); len(rest) > 0; {
		info, err := os.Lstat(at)
		if err != nil {
			return nil, "", err
		}
		foreign := others("the folder "+at, info)
		if sync != nil && os.SameFile(info, sync) {
			foreign = "it is in the folder that sync writes"
		}
		next := filepath.Join(at, rest[0])
		if foreign == "" {
			if info, err = os.Lstat(next); err != nil {
				return nil, "", err
			}
			if info.Mode()&fs.ModeSymlink != 0 && !trusted(info) {
				foreign = "the link " + next + " is not root's"
			}
		}
		if foreign != "" {
			f, err := below(at, filepath.Join(rest...), how)
			return f, foreign, err
		}
		if rest = rest[1:]; info.Mode()&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return nil, "", fmt.Errorf("%s: too many links on the way", path)
		}
		target, err := os.Readlink(next)
		if err != nil {
			return nil, "", err
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		// Not cleaned: what .. leads to is known where it comes to it, and Join goes up then, because at has no links in it.
		rest = append(split(target), rest...)
	}
	f, err = os.OpenFile(at, how|syscall.O_NOFOLLOW, 0)
	return f, "", err
}

// below opens a file without leaving a folder.
func below(folder, path string, how int) (*os.File, error) {
	r, err := os.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.OpenFile(path, how, 0)
}

// split is the names of a path.
func split(path string) (names []string) {
	for name := range strings.SplitSeq(path, "/") {
		if name != "" && name != "." {
			names = append(names, name)
		}
	}
	return names
}

// others says how others than root can change a file, or what is in a folder; empty: they cannot. A folder like /tmp, in which
// everybody has only what is his own, is looked at in what is in it.
func others(what string, info fs.FileInfo) string {
	switch shared := info.IsDir() && info.Mode()&fs.ModeSticky != 0; {
	case !trusted(info):
		return what + " is not root's"
	case info.Mode().Perm()&0o022 != 0 && !shared:
		return what + " can be written to by others than root"
	}
	return ""
}

// trusted reports whether a file is root's, or of the user that this process runs as, who is root on a node.
func trusted(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && (st.Uid == 0 || int(st.Uid) == os.Geteuid())
}
