package trustroot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/policy"
)

// ErrNotKept is wrapped by Kept's error when nothing was fetched yet.
var ErrNotKept = errors.New("was not fetched yet")

// Remote is a trust root in a TUF repository on a server, of which a copy is kept on disk.
//
// # When the copy stops being used
//
// [Remote.Refresh] follows TUF to the letter: nothing it fetches may have expired, the timestamp included, and no version
// may fall below what is kept. [Remote.Kept] uses what was fetched so until its root, snapshot or targets
// expires. It does not look at the timestamp's expiry any more. A timestamp is good for a few days (seven, at the
// public-good instance), and a node that is cut off for longer would refuse every image then, though none of the keys
// has become less trustworthy: whoever can hold up its network could stop it. What that costs is bounded: whoever holds
// back updates (a freeze attack) keeps a node at what it knew, until the root expires, months later, and all
// that time Refresh fails and is reported. policy-controller sets no end at all to what it once fetched.
//
// # What a copy on disk can do
//
// It is verified from the document's root.json on each time it is read, so one that was tampered with grants
// nothing. One that was put back from an earlier day is older, but genuine: it is refused by a process that has seen a
// newer one, and otherwise as soon as it has expired.
type Remote struct {
	at     policy.TUFRemote
	place  place
	dir    string
	path   string
	client http.RoundTripper

	// refreshing lets one refresh run at a time.
	refreshing sync.Mutex
	mu         sync.Mutex
	// unkept is the newest archive while it could not be written.
	unkept []byte
	// unwritten is why it could not be.
	unwritten error
	// seen is the timestamp's version at the last look.
	seen int64
}

// RemoteOptions are what a Remote can do without.
type RemoteOptions struct {
	// Transport is the way to the server. Nil: the usual, with the proxy that the environment names.
	Transport http.RoundTripper
}

// NewRemote does nothing yet. The copy is kept in dir, which is made with mode 0700, in a file of its own for each mirror
// and root.json, so that several Remotes may share the folder. Another root.json begins anew.
func NewRemote(r policy.TUFRemote, dir string, o RemoteOptions) *Remote {
	sum := sha256.Sum256(append([]byte(r.Mirror+"\n"), r.Root...))
	remote := &Remote{
		at:     r,
		place:  newPlace(r.Targets, r.Target),
		dir:    dir,
		path:   filepath.Join(dir, hex.EncodeToString(sum[:16])+".tuf.tar.gz"),
		client: o.Transport,
	}
	if remote.client == nil {
		remote.client = newTransport()
	}
	return remote
}

// Kept is the trust root as it was last fetched. It asks nobody. If nothing was fetched yet the error wraps [ErrNotKept];
// if the copy has expired it is an [*ExpiredError].
func (r *Remote) Kept(now time.Time) (*Root, error) {
	return rescued("reading a kept trust root", func() (*Root, error) {
		kept, _, err := r.kept()
		if err != nil {
			return nil, fmt.Errorf("the trust root of %s: %w", r.name(), err)
		}
		if err := kept.fresh(now); err != nil {
			return nil, fmt.Errorf("the trust root of %s: %w", r.name(), err)
		}
		if err := r.notice(kept, false); err != nil {
			return nil, fmt.Errorf("the trust root of %s: %w", r.name(), err)
		}
		return r.named(kept), nil
	})
}

// Refresh fetches what is new, verifies it and keeps it. After an error all is as it was before. If the
// disk cannot be written Kept goes on with a copy in memory, and Unwritten says why.
func (r *Remote) Refresh(ctx context.Context) (*Root, error) {
	r.refreshing.Lock()
	defer r.refreshing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	return rescued("fetching a trust root", func() (*Root, error) {
		r.tidy()
		fetched, archive, err := r.fetch(ctx)
		if err != nil {
			return nil, fmt.Errorf("fetching the trust root of %s: %w", r.name(), err)
		}
		err = r.write(archive)
		r.mu.Lock()
		if r.unkept, r.unwritten = nil, err; err != nil {
			r.unkept = archive
		}
		r.mu.Unlock()
		if err := r.notice(fetched, true); err != nil {
			return nil, err
		}
		return r.named(fetched), nil
	})
}

// Unwritten is why the last Refresh could not keep what it fetched on disk, or nil. A restart without network would have
// nothing, or an older copy.
func (r *Remote) Unwritten() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unwritten
}

// fetch gives the repository as it is now, and the archive to keep of it.
func (r *Remote) fetch(ctx context.Context) (*opened, []byte, error) {
	m, err := newMirror(r.at.Mirror, r.client)
	if err != nil {
		return nil, nil, err
	}
	trusted, known, all := r.at.Root, nowhere, files{}
	// What is kept holds TUF's memory: the newest root and the versions that must not fall. A copy that does not verify
	// remembers nothing, and is replaced.
	if kept, unpacked, err := r.kept(); err == nil {
		all = unpacked
		if newest, ok := all[strconv.FormatInt(kept.Root.Signed.Version, 10)+".root.json"]; ok {
			trusted = newest
		}
		if known, err = r.remember(kept.verified); err != nil {
			return nil, nil, err
		}
		defer os.RemoveAll(known)
	}
	read := func(name string, most int64) ([]byte, error) { return m.read(ctx, name, most) }
	now := time.Now()
	v, err := follow(trusted, known, read, now)
	if err != nil {
		return nil, nil, err
	}
	// A target that is kept already is not fetched again: it is held against the new hashes all the same.
	if _, err := v.material(r.place, all.read, read); err != nil {
		return nil, nil, err
	}
	return r.keepable(v, all, now)
}

// keepable puts together what is to be kept: what was fetched, and of the old what is still in use. It is read back as
// Kept will, so that nothing is written that could not be used.
func (r *Remote) keepable(v *verified, old files, now time.Time) (*opened, []byte, error) {
	initial, err := metadata.Root().FromBytes(r.at.Root)
	if err != nil {
		return nil, nil, fmt.Errorf("the initial root.json cannot be trusted: %w", foreign(err))
	}
	keep := files{}
	for _, name := range v.names(initial.Signed.Version) {
		data, fetched := v.used[name]
		if !fetched {
			data = old[name]
		}
		if data == nil {
			return nil, nil, fmt.Errorf("%.80q was not fetched", name)
		}
		keep[name] = data
	}
	for name, data := range v.used {
		if filepath.Dir(name) != "." {
			keep[name] = data
		}
	}
	archive, err := keep.pack()
	if err != nil {
		return nil, nil, err
	}
	unpacked, err := unpack(archive)
	if err != nil {
		return nil, nil, fmt.Errorf("reading back what was fetched: %w", err)
	}
	o, err := open(r.at.Root, r.place, unpacked)
	if err != nil {
		return nil, nil, fmt.Errorf("reading back what was fetched: %w", err)
	}
	return o, archive, o.fresh(now)
}

// kept opens the copy that is kept, expired or not.
func (r *Remote) kept() (*opened, files, error) {
	r.mu.Lock()
	archive := r.unkept
	r.mu.Unlock()
	if archive == nil {
		var err error
		if archive, err = readFile(r.path); err != nil {
			return nil, nil, err
		}
	}
	all, err := unpack(archive)
	if err != nil {
		return nil, nil, fmt.Errorf("the copy %s cannot be read: %w", r.path, err)
	}
	o, err := open(r.at.Root, r.place, all)
	if err != nil {
		return nil, nil, fmt.Errorf("the copy %s is not used: %w", r.path, err)
	}
	return o, all, nil
}

// notice remembers how new a copy was, and refuses one that is older than the last. A refresh may lower it: TUF lets a
// repository whose keys were replaced begin anew.
func (r *Remote) notice(o *opened, refreshed bool) error {
	version := o.Timestamp.Signed.Version
	r.mu.Lock()
	defer r.mu.Unlock()
	if !refreshed && version < r.seen {
		return fmt.Errorf("the copy %s was put back to version %d, after version %d was in use: it is not used", r.path, version, r.seen)
	}
	r.seen = version
	return nil
}

// named says in the root where it is from.
func (r *Remote) named(o *opened) *Root {
	o.root.From = fmt.Sprintf("TUF repository %s (%s)", r.name(), o)
	return o.root
}

// name is the mirror's address as it may be shown.
func (r *Remote) name() string {
	u, err := url.Parse(r.at.Mirror)
	if err != nil {
		return "a mirror that is no URL"
	}
	return fmt.Sprintf("%.200s", u.Redacted())
}

// unfinished is how the names of files begin that a crash may leave behind.
func (r *Remote) unfinished() string { return "." + filepath.Base(r.path) + "-" }

// remember writes metadata where TUF's updater looks for what it knew before. The caller removes the folder.
func (r *Remote) remember(v *verified) (string, error) {
	known, err := os.MkdirTemp(r.dir, r.unfinished())
	if err != nil {
		// A disk that is full or read-only is no reason to stay with what is old.
		known, err = os.MkdirTemp("", r.unfinished())
	}
	if err != nil {
		return "", fmt.Errorf("preparing to refresh: %w", err)
	}
	names := v.names(v.Root.Signed.Version)
	for i, name := range []string{"timestamp.json", "snapshot.json", "targets.json"} {
		if err := os.WriteFile(filepath.Join(known, name), v.used[names[i]], 0o600); err != nil {
			return "", errors.Join(fmt.Errorf("preparing to refresh: %w", err), os.RemoveAll(known))
		}
	}
	return known, nil
}

// tidy removes what a crash left behind.
func (r *Remote) tidy() {
	entries, _ := os.ReadDir(r.dir)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), r.unfinished()) {
			continue
		}
		_ = os.RemoveAll(filepath.Join(r.dir, e.Name())) // if it stays, it takes place and is read by nobody
	}
}

// readFile reads a kept archive.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) { // Unwritten tells of a folder that is none
		return nil, ErrNotKept
	}
	if err != nil {
		return nil, fmt.Errorf("reading the copy: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("the copy %s is no file", path), err)
	}
	data, err := limits.TUFArchive.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("reading the copy %s: %w", path, err)
	}
	return data, nil
}

// write replaces the kept archive in one step, so that a crash leaves the old one or the new one.
func (r *Remote) write(data []byte) (err error) {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(r.dir, r.unfinished()) // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if _, err = f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	if err = errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), r.path)
}
