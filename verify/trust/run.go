package trust

import (
	"context"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/cosentry/cosentry/verify/policy"
)

const (
	// settle is how long changes of files are collected: a mount makes several at once.
	settle = 50 * time.Millisecond
	// lookAgain is the longest that Run sleeps. Its timers stand still while the machine does, and know nothing of a clock
	// that was put forward.
	lookAgain = time.Minute
	// soon is how long ahead the end of a trust root is told, and daily is how often.
	soon  = 7 * 24 * time.Hour
	daily = 24 * time.Hour
	// maxWatched bounds the folders that are watched. Beyond it changes are found when files are read again.
	maxWatched = 4096
)

// Run fetches in the background what the last Resolve has asked for, again and again, until ctx ends, and watches the
// files. All that it started is over soon after.
func (k *Keeper) Run(ctx context.Context) error {
	k.store.tidy(keysFolder, rulesFolder)
	w := &watcher{log: k.log, added: map[string]bool{}}
	w.open()
	defer w.close()
	var tries sync.WaitGroup
	defer tries.Wait()
	wait, settled := time.NewTimer(0), time.NewTimer(0)
	defer wait.Stop()
	defer settled.Stop()
	if !settled.Stop() {
		<-settled.C
	}
	told := map[string]time.Time{}
	var seen steps
	seen.day, seen.worked = k.clock()
	for {
		if by := seen.step(k.clock()); by != 0 {
			clear(told)
			k.Again()
			k.log.Warn("the clock was put forward or back, or this machine slept: what policies refer to is asked for again", "by", by)
		}
		k.tellEnds(told)
		if w.follow(k.folderList()) {
			settled.Reset(settle) // something may have changed before it was watched
		}
		wait.Reset(k.beginDue(ctx, &tries))
		select {
		case <-ctx.Done():
			return nil
		case <-k.wake:
		case <-wait.C:
		case <-w.events:
			settled.Reset(settle)
		case <-w.errors:
			settled.Reset(settle) // events were lost
		case <-settled.C:
			signal(k.changed)
		}
	}
}

// beginDue starts what is due, and gives the time until something else is.
func (k *Keeper) beginDue(ctx context.Context, tries *sync.WaitGroup) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	now, next := k.now(), lookAgain
	for _, it := range k.items {
		switch {
		case it.trying || it.running || it.every == 0 && it.content != nil && it.disk == "":
		case !it.due.After(now):
			over := k.begin(ctx, it)
			tries.Add(1)
			go func() {
				defer tries.Done()
				<-over
			}()
		default:
			next = min(next, it.due.Sub(now))
		}
	}
	return max(next, time.Millisecond)
}

// FetchNow tries everything that the set refers to once, and waits until it is there or has failed, or until ctx ends. A
// Resolve after it sees what there is. It is for commands, which do not Run.
func (k *Keeper) FetchNow(ctx context.Context, set *policy.Set) {
	k.Resolve(set)
	k.mu.Lock()
	var tries []<-chan struct{}
	for _, it := range k.items {
		if it.every == 0 && it.content != nil {
			continue
		}
		tries = append(tries, k.begin(ctx, it))
	}
	k.mu.Unlock()
	for _, over := range tries {
		select {
		case <-over:
		case <-ctx.Done():
			return
		}
	}
}

// tellEnds logs the roots that will soon be over or are, once a day.
func (k *Keeper) tellEnds(told map[string]time.Time) {
	k.mu.Lock()
	roots := k.roots
	k.mu.Unlock()
	now := k.now()
	for _, name := range sortedNames(roots) {
		r := roots[name].root
		if r == nil || r.Due().IsZero() || now.Before(r.Due().Add(-soon)) || now.Sub(told[name]) < daily {
			continue
		}
		told[name] = now
		args := []any{"name", rootName(name), "from", r.From, "end", r.Due()}
		switch {
		case r.Expired(now) != nil:
			k.log.Error("a trust root has expired: nothing can be verified by it until a newer one is fetched or put in its place", args...)
		case r.Due().Equal(r.Expires):
			k.log.Warn("a trust root expires soon: nothing can be verified by it afterwards", args...)
		default:
			k.log.Warn("a trust root has authorities that can sign no more, or soon cannot: what they signed before is still accepted", args...)
		}
	}
}

func (k *Keeper) folderList() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.watch
}

// folders are those whose changes may change what a Resolve sees: the ones of Secrets and ConfigMaps, the ones in
// which they would appear, and those of the settings' roots.
func (k *Keeper) folders(w *wanted) []string {
	all := map[string]bool{}
	add := func(kind string, refs map[policy.Reference]bool) {
		for ref := range refs {
			dir, err := held{kind, ref}.folder(k.opts.Dir)
			for ; err == nil && len(dir) >= len(k.opts.Dir) && !all[dir]; dir = filepath.Dir(dir) {
				all[dir] = true
				if dir == filepath.Clean(k.opts.Dir) {
					break
				}
			}
		}
	}
	add(KindSecret, w.secrets)
	add(KindConfigMap, w.configMaps)
	for _, r := range k.opts.Roots {
		all[filepath.Dir(r.Path)] = true
	}
	list := make([]string, 0, len(all))
	for dir := range all {
		list = append(list, dir)
	}
	slices.Sort(list)
	return list[:min(len(list), maxWatched)]
}

// watcher follows folders, as far as the node lets it: one that cannot be watched is read when all files are.
type watcher struct {
	log    logger
	w      *fsnotify.Watcher
	added  map[string]bool
	events chan fsnotify.Event
	errors chan error
}

type logger interface {
	Warn(msg string, args ...any)
}

func (w *watcher) open() {
	fs, err := fsnotify.NewWatcher()
	if err != nil {
		// Out of inotify instances: a busy node, not a reason to stop.
		w.log.Warn("Secrets and ConfigMaps cannot be watched; they are read again every minute", "error", err)
		return
	}
	w.w, w.events, w.errors = fs, fs.Events, fs.Errors
}

func (w *watcher) close() {
	if w.w != nil {
		_ = w.w.Close()
	}
}

// follow watches just these folders, and reports whether one of them was not watched before. One that is not there yet,
// or was replaced, is found when its parent tells.
func (w *watcher) follow(folders []string) (more bool) {
	if w.w == nil {
		return false
	}
	keep := map[string]bool{}
	for _, dir := range folders {
		keep[dir] = true
		there := w.w.Add(dir) == nil
		more = more || there && !w.added[dir]
		w.added[dir] = there
	}
	for dir := range w.added {
		if !keep[dir] {
			_ = w.w.Remove(dir) // it may be gone, and the watch with it
			delete(w.added, dir)
		}
	}
	return more
}
