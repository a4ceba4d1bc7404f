package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cosentry/cosentry/agent/folders"
	"github.com/cosentry/cosentry/verify/limits"
)

// Folders are gone through by hand. The library's walks read all names of a folder, and sort them, before the first is
// looked at, and have no bound on depth: three million names, which take a stranger a minute to make and no space, would cost
// the agent more memory than its unit lets it have, at each start again.
//
// Each folder is opened by its name in the one above, see package folders. So replacing a folder while it is read leads
// nowhere else, and a deep one does not cost the way from the top for each name.

// walk counts what is met on the way through folders that a stranger fills.
type walk struct {
	bound limits.Bound // of names, folders included
	seen  int64
	// goneIsGone passes over what is gone by the time that it is looked at. To a reader that is an error: what went may be
	// a restriction.
	goneIsGone bool
}

// each has do look at each name in an open folder. There is no order.
func (w *walk) each(ctx context.Context, dir *os.File, do func(name string, st unix.Stat_t) error) error {
	for {
		names, err := dir.Readdirnames(folders.Piece)
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("reading them took too long: %w", context.Cause(ctx))
			}
			w.seen++
			if err := w.bound.Check(w.seen); err != nil {
				return err
			}
			st, err := folders.Stat(dir, name)
			if w.goneIsGone && errors.Is(err, unix.ENOENT) {
				continue
			}
			if err == nil {
				err = do(name, st)
			}
			if err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return folders.Reason(err)
		}
	}
}

func isRegular(st unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFREG }
