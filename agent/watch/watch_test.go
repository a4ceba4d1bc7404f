package watch

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
)

func start(t *testing.T, dir string) (loads <-chan struct{}, again chan os.Signal) {
	t.Helper()
	return run(t, func(ctx context.Context, again <-chan os.Signal, load func()) {
		Folder(ctx, dir, again, slog.New(slog.DiscardHandler), load)
	})
}

func run(t *testing.T, watch func(context.Context, <-chan os.Signal, func())) (loads <-chan struct{}, again chan os.Signal) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	told, done := make(chan struct{}, 100), make(chan struct{})
	again = make(chan os.Signal, 1)
	go func() {
		defer close(done)
		watch(ctx, again, func() { told <- struct{}{} })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return told, again
}

func wait(t *testing.T, what string, loads <-chan struct{}) {
	t.Helper()
	select {
	case <-loads:
	case <-time.After(10 * time.Second):
		t.Fatal("not loaded: " + what)
	}
}

func TestFileRenamedIntoTheFolder(t *testing.T) {
	dir := t.TempDir()
	loads, _ := start(t, dir)
	wait(t, "at once", loads)
	beside := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(beside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(beside, filepath.Join(dir, "f")); err != nil {
		t.Fatal(err)
	}
	wait(t, "after a rename", loads)
}

func TestFolderThatIsNotThereIsReadOnASignal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "late")
	loads, again := start(t, dir)
	wait(t, "at once", loads)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	again <- syscall.SIGHUP
	wait(t, "after a signal", loads)
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wait(t, "after a change of the folder that is there by now", loads)
}

// A folder that is a link is replaced by a rename of the link, which the folder behind it never hears of.
func TestLinkMovedToAnotherFolder(t *testing.T) {
	dir := t.TempDir()
	for _, set := range []string{"one", "two"} {
		if err := os.Mkdir(filepath.Join(dir, set), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(set, filepath.Join(dir, "to-"+set)); err != nil {
			t.Fatal(err)
		}
	}
	current := filepath.Join(dir, "current")
	if err := os.Rename(filepath.Join(dir, "to-one"), current); err != nil {
		t.Fatal(err)
	}
	loads, _ := start(t, current)
	wait(t, "at once", loads)
	if err := os.Rename(filepath.Join(dir, "to-two"), current); err != nil {
		t.Fatal(err)
	}
	wait(t, "after the link was moved", loads)
	if err := os.WriteFile(filepath.Join(dir, "two", "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wait(t, "after a change in the folder that it leads to now", loads)
}

// Where the node is out of inotify instances, signals still count.
func TestWithoutAWatcher(t *testing.T) {
	loads, again := run(t, func(ctx context.Context, again <-chan os.Signal, load func()) {
		loop(ctx, again, nil, nil, func() {}, load)
	})
	wait(t, "at once", loads)
	again <- syscall.SIGHUP
	wait(t, "after a signal", loads)
}

// Sync's folder is a stranger's where sync was taken over: one who writes to it without end must not keep the next set out.
func TestChangesWithoutEndAreLoaded(t *testing.T) {
	events := make(chan fsnotify.Event)
	loads, _ := run(t, func(ctx context.Context, again <-chan os.Signal, load func()) {
		loop(ctx, again, events, nil, func() {}, load)
	})
	wait(t, "at once", loads)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case events <- fsnotify.Event{}:
			case <-stop:
				return
			}
		}
	}()
	wait(t, "while the folder changes on and on", loads)
	wait(t, "and again", loads)
}
