package files

import (
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"

	"golang.org/x/sys/unix"
)

// Overwrite changes a file that is there without a second one beside it: for a disk that is full, where nothing else can be done. A reader
// may see a part; if it fails, the old text is written again.
func (t *Tree) Overwrite(c Change) error {
	if err := t.overwrite(c); err != nil {
		return fmt.Errorf("changing %s in its place: %w", c.Path, err)
	}
	return nil
}

func (t *Tree) overwrite(c Change) error {
	if err := c.check(); err != nil {
		return err
	}
	if c.link() || c.Before == nil || c.After == nil {
		return errors.New("that is not a file before and after")
	}
	now, _, err := t.now(c)
	if err != nil {
		return err
	}
	if !same(now, "", c.Before, "") {
		return &ChangedError{Path: c.Path}
	}
	real, err := t.resolve(c.Path, true)
	if err != nil {
		return err
	}
	f, err := t.root.OpenFile(real, os.O_WRONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := hold(f, c.After); err != nil {
		return errors.Join(err, hold(f, c.Before))
	}
	return nil
}

// hold has the file hold data and nothing else.
func hold(f *os.File, data []byte) error {
	if _, err := f.WriteAt(data, 0); err != nil {
		return err
	}
	if err := f.Truncate(int64(len(data))); err != nil {
		return err
	}
	return f.Sync()
}

// leftName is what temporary gives.
var leftName = regexp.MustCompile(`^\.cosentry-[A-Z2-7]{26}\.tmp$`)

// Sweep removes what a writer that was killed left in the folder dir, and says what. Nobody may be writing there.
func (t *Tree) Sweep(dir string) (gone []string, err error) {
	all, err := t.List(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		if !leftName.MatchString(e.Name()) || e.IsDir() {
			continue
		}
		p := path.Join(dir, e.Name())
		if err := t.Remove(p); err != nil {
			return gone, err
		}
		gone = append(gone, p)
	}
	return gone, nil
}
