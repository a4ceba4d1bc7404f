package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"syscall"
)

// giveFolder makes the folder of the cluster's documents and gives it, with all that is in it, to the user that sync runs
// as. What kubelet makes for a pod is root's, and sync is not root. A link in it is given away itself: what it leads to
// would be whatever file that user chose.
func giveFolder(dir string, uid int) error {
	fail := func(err error) error { return fmt.Errorf("giving %s to user %d: %w", dir, uid, err) }
	if uid <= 0 {
		return fail(errors.New("not the number of a user other than root"))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fail(err)
	}
	defer root.Close()
	if err := giveAll(root, ".", uid); err != nil {
		return fail(err)
	}
	return nil
}

// giveAll goes from the inside out: as long as the user does not have a folder, he cannot change what is in it.
func giveAll(root *os.Root, at string, uid int) error {
	info, err := root.Lstat(at)
	if err != nil {
		return err
	}
	if info.IsDir() {
		entries, err := fs.ReadDir(root.FS(), at)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := giveAll(root, path.Join(at, e.Name()), uid); err != nil {
				return err
			}
		}
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if ok && int(stat.Uid) == uid && int(stat.Gid) == uid {
		return nil
	}
	if ok && !info.IsDir() && stat.Nlink > 1 {
		return fmt.Errorf("%s has a second name, which may be anywhere", at)
	}
	return root.Lchown(at, uid, uid)
}
