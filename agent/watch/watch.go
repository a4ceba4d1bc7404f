// Package watch has something done again whenever a folder changes.
//
// A folder is watched and not a file, because owners who are careful write beside a file and rename, and a watch on
// the file would go with the old one. In case a watch was lost, as happens when the folder itself is replaced, it is
// done every minute too. Nothing that fails here ends the watching: what is left is the clock.
package watch

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long changes are collected: editors and ConfigMap mounts make several at once.
	settle = 50 * time.Millisecond
	// patience is the longest that a change waits for others: who may write to the folder must not be able to keep what is
	// in it from being read by writing on and on.
	patience = time.Second
	// recheck is how often it is done without being told.
	recheck = time.Minute
)

// Folder calls load at once, and then whenever dir changes, again is signalled, or a minute has passed, until ctx ends.
// Calls do not overlap.
func Folder(ctx context.Context, dir string, again <-chan os.Signal, log *slog.Logger, load func()) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		// Out of inotify instances: a busy node, not a reason to stop. The clock is left.
		log.Warn("a folder cannot be watched; it is read every minute", "dir", dir, "error", err)
		loop(ctx, again, nil, nil, func() {}, load)
		return
	}
	defer w.Close()
	add := func() {
		// Adding twice is nothing; a folder that was replaced is found again.
		if err := w.Add(dir); err != nil {
			log.Debug("watching a folder", "dir", dir, "error", err)
		}
		// What a link leads to is watched, not the link; that it is replaced its own folder tells.
		if info, err := os.Lstat(dir); err != nil || info.Mode()&os.ModeSymlink != 0 {
			_ = w.Add(filepath.Dir(dir))
		}
	}
	loop(ctx, again, w.Events, w.Errors, add, load)
}

func loop(ctx context.Context, again <-chan os.Signal, events <-chan fsnotify.Event, errs <-chan error, add, load func()) {
	changed := time.NewTimer(0)
	defer changed.Stop()
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	var due time.Time // by which what has changed is loaded; zero: nothing has
	soon := func(most time.Duration) {
		if now := time.Now(); due.IsZero() || due.After(now.Add(most)) {
			due = now.Add(most)
		}
		changed.Reset(min(settle, time.Until(due)))
	}
	for {
		add()
		select {
		case <-ctx.Done():
			return
		case <-events:
			soon(patience)
		case <-errs:
			soon(patience)
		case <-tick.C:
			soon(0)
		case <-again:
			soon(0)
		case <-changed.C:
			due = time.Time{}
			load()
		}
	}
}
