package trustroot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/cosentry/cosentry/verify/limits"
)

// reader reads one file of a repository, of at most so many bytes. That there is no such file is fs.ErrNotExist.
type reader func(name string, most int64) ([]byte, error)

// somewhere is the address that TUF's updater is given. It only tells names apart; nobody is asked there.
const somewhere = "https://repository.invalid/"

// recorder is how TUF's updater gets its metadata. It remembers the bytes of all it gave.
type recorder struct {
	from reader
	used files
	// missing is why the last file was not there, if a server said so.
	missing *unreachable
}

// readError is the error for a file that was not read, in words that are ours: the updater hands it on as it is.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

// DownloadFile implements go-tuf's fetcher.Fetcher. The updater's bound may come from the repository itself, which could
// say that its snapshot has a terabyte: ours holds as well.
func (r *recorder) DownloadFile(address string, most int64, _ time.Duration) ([]byte, error) {
	name, ok := strings.CutPrefix(address, somewhere)
	if !ok {
		return nil, &readError{fmt.Errorf("%.80q is not of the repository", address)}
	}
	data, err := r.from(name, min(most, limits.TUFMetadata.Max()))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// The updater's own way to be told that there is no newer root.
		r.missing = nil
		errors.As(err, &r.missing)
		return nil, &metadata.ErrDownloadHTTP{StatusCode: http.StatusNotFound, URL: name}
	case err != nil:
		return nil, &readError{err}
	}
	if err := limits.Elements.Check(limits.CountElements(data)); err != nil {
		return nil, &readError{fmt.Errorf("%.80q: %w", name, err)}
	}
	r.used[name] = data
	return data, nil
}

// verified is a repository's metadata after TUF's client workflow.
type verified struct {
	trustedmetadata.TrustedMetadata
	// used is what was read, by name.
	used files
}

// always is the time at which nothing has expired yet.
var always = time.Time{}

// follow runs TUF's client workflow (sections 5.3 to 5.6 of the specification) from a trusted root.json. known
// is a folder with timestamp.json, snapshot.json and targets.json of an earlier time, below whose versions nothing may
// fall; or nowhere. at is the time at which nothing may have expired.
func follow(trusted []byte, known string, from reader, at time.Time) (*verified, error) {
	if err := errors.Join(limits.TUFMetadata.Check(int64(len(trusted))), limits.Elements.Check(limits.CountElements(trusted))); err != nil {
		return nil, fmt.Errorf("the initial root.json: %w", err)
	}
	cfg, err := config.New(somewhere, trusted)
	if err != nil {
		return nil, fmt.Errorf("preparing TUF: %w", err)
	}
	r := &recorder{from: from, used: files{}}
	cfg.Fetcher = r
	cfg.DisableLocalCache = true // it would be written piece by piece; it is kept in one here
	cfg.LocalMetadataDir = known
	cfg.RootMaxLength, cfg.TimestampMaxLength = limits.TUFMetadata.Max(), limits.TUFMetadata.Max()
	cfg.SnapshotMaxLength, cfg.TargetsMaxLength = limits.TUFMetadata.Max(), limits.TUFMetadata.Max()
	u, err := updater.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("the initial root.json cannot be trusted: %w", foreign(err))
	}
	u.UnsafeSetRefTime(at)
	if err := u.Refresh(); err != nil {
		if errors.Is(err, &metadata.ErrExpiredMetadata{}) {
			err = whatExpired(u.GetTrustedMetadataSet().Root, r.used, at, err)
		}
		return nil, r.refusal(err)
	}
	return &verified{TrustedMetadata: u.GetTrustedMetadataSet(), used: r.used}, nil
}

// refusal tells a repository that is wrong from a server that is away. Each is quoted once.
func (r *recorder) refusal(err error) error {
	if absent := new(metadata.ErrDownloadHTTP); errors.As(err, &absent) && r.missing != nil {
		return r.missing
	}
	if away := new(unreachable); errors.As(err, &away) {
		return err
	}
	if own := new(readError); !errors.As(err, &own) {
		err = foreign(err)
	}
	return fmt.Errorf("the TUF repository is not accepted: %w", err)
}

// nowhere is a folder in which no file can be.
const nowhere = os.DevNull

// whatExpired puts the date into the refusal of expired metadata.
func whatExpired(root *metadata.Metadata[metadata.RootType], used files, at time.Time, err error) error {
	if root.Signed.IsExpired(at) {
		return &ExpiredError{What: "the TUF repository's root.json", When: root.Signed.Expires}
	}
	for name, data := range used {
		var m struct {
			Signed struct {
				Expires time.Time `json:"expires"`
			} `json:"signed"`
		}
		// A root between two others may have expired.
		if strings.HasSuffix(name, "root.json") || json.Unmarshal(data, &m) != nil || m.Signed.Expires.IsZero() {
			continue
		}
		if at.After(m.Signed.Expires) {
			return &ExpiredError{What: fmt.Sprintf("the TUF repository's %.80s", name), When: m.Signed.Expires}
		}
	}
	return err
}

// expires is when the metadata is not to be used any more: with the first of root, snapshot and targets. The timestamp is
// not among them, see Remote.
func (v *verified) expires() (what string, when time.Time) {
	what, when = metadata.ROOT, v.Root.Signed.Expires
	if e := v.Snapshot.Signed.Expires; e.Before(when) {
		what, when = metadata.SNAPSHOT, e
	}
	if e := v.Targets[metadata.TARGETS].Signed.Expires; e.Before(when) {
		what, when = metadata.TARGETS, e
	}
	return what, when
}

// fresh returns an error once the metadata is not to be used any more.
func (v *verified) fresh(now time.Time) error {
	if what, when := v.expires(); now.After(when) {
		return &ExpiredError{What: "the TUF repository's " + what + ".json", When: when}
	}
	return nil
}

// names are the metadata files of the repository, with every root after the trusted one.
func (v *verified) names(trusted int64) []string {
	var names []string
	for n := trusted + 1; n <= v.Root.Signed.Version; n++ {
		names = append(names, strconv.FormatInt(n, 10)+".root.json")
	}
	snapshot, targets := "", ""
	if v.Root.Signed.ConsistentSnapshot {
		snapshot = strconv.FormatInt(v.Snapshot.Signed.Version, 10) + "."
		targets = strconv.FormatInt(v.Targets[metadata.TARGETS].Signed.Version, 10) + "."
	}
	return append(names, "timestamp.json", snapshot+"snapshot.json", targets+"targets.json")
}

// String says which repository it is.
func (v *verified) String() string {
	return fmt.Sprintf("root %d, targets %d", v.Root.Signed.Version, v.Targets[metadata.TARGETS].Signed.Version)
}
