// Package breakglass lets root on a node have everything run for a while that its policies would refuse.
//
// It promises: whoever breaks the glass says why and for how long, a day at most; the agent records both, and who it was,
// in its audit log, as it records the end; each decision goes on being made and recorded; and it ends by itself, at the
// latest when the node is started anew, because the file that says it is on a file system that lives in memory.
//
// It refuses a file that anybody but the agent's own user could have written, or put there, and one that it does not wholly
// understand: whatever is wrong with the file, the glass is whole. No pod, no cluster and no network can break it.
//
// It goes by the time since this boot alone ([Moment]), which nobody sets and which goes on while the node is suspended:
// whoever answers for the network's time neither lengthens a glass nor has one break again that was over. So a file that
// is over stays where it is, to say what was; the agent's unit may not write there.
//
// The file is JSON: what [Glass] is. It lies beside the socket that the agent serves.
package breakglass

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Bounds.
const (
	// MinTime and MaxTime are for how long a glass can be broken.
	MinTime, MaxTime = time.Minute, 24 * time.Hour
	// MaxReason is the length of a reason in bytes.
	MaxReason = 512
	// maxFile is the length of the file in bytes.
	maxFile = 8 << 10
)

// Path is where the file is, for an agent whose socket is at socket.
func Path(socket string) string { return filepath.Join(filepath.Dir(socket), "break-glass.json") }

// Who is who broke a glass, or ended it.
type Who struct {
	// UID is the user, LoginUID the one who logged in and became that user; -1 if nobody did, as for a process that
	// no login began.
	UID      int `json:"uid"`
	LoginUID int `json:"loginUid"`
}

func (w Who) String() string {
	if w.LoginUID < 0 {
		return fmt.Sprintf("uid %d (no login)", w.UID)
	}
	return fmt.Sprintf("uid %d (logged in as uid %d)", w.UID, w.LoginUID)
}

// Glass is a glass that was broken.
type Glass struct {
	// Begun and Until are for people, by the node's clock as it was then.
	Begun time.Time `json:"begun"`
	Until time.Time `json:"until"`
	// Boot, BegunUp and UntilUp are what counts: a boot, and nanoseconds since it.
	Boot    string        `json:"boot"`
	BegunUp time.Duration `json:"begunUp"`
	UntilUp time.Duration `json:"untilUp"`
	Reason  string        `json:"reason"`
	By      Who           `json:"by"`
	// Ended is there once somebody ended it before its time.
	Ended *Ended `json:"ended,omitempty"`
}

// Ended says who ended a glass, and when.
type Ended struct {
	At time.Time `json:"at"`
	By Who       `json:"by"`
}

// Open reports whether everything is let through at that time.
func (g Glass) Open(now Moment) bool {
	return g.Ended == nil && g.Boot == now.Boot && g.BegunUp <= now.Up && now.Up < g.UntilUp
}

// check says what makes g no glass.
func (g Glass) check(now Moment) error {
	switch length := g.UntilUp - g.BegunUp; {
	case strings.TrimSpace(g.Reason) == "":
		return errors.New("no reason is given")
	case len(g.Reason) > MaxReason:
		return fmt.Errorf("the reason has %d bytes, at most %d are taken", len(g.Reason), MaxReason)
	case !utf8.ValidString(g.Reason):
		return errors.New("the reason is not text")
	case g.Boot == "":
		return errors.New("it does not say in which boot it was written")
	case g.BegunUp < 0 || length < MinTime || length > MaxTime:
		return fmt.Errorf("%v is not between %v and %v", length, MinTime, MaxTime)
	case g.Until.Sub(g.Begun) != length:
		return fmt.Errorf("it tells people of %v, and is for %v", g.Until.Sub(g.Begun), length)
	case g.Boot == now.Boot && g.BegunUp > now.Up:
		return fmt.Errorf("it begins %v after this boot, which is still to come", g.BegunUp)
	}
	return nil
}

// Begin breaks the glass at path. An older one is replaced.
func Begin(path, reason string, length time.Duration, by Who, now Moment) (Glass, error) {
	wall := now.Wall.UTC().Truncate(time.Second)
	g := Glass{Begun: wall, Until: wall.Add(length), Boot: now.Boot, BegunUp: now.Up, UntilUp: now.Up + length, Reason: reason, By: by}
	if err := g.check(now); err != nil {
		return Glass{}, fmt.Errorf("breaking the glass: %w", err)
	}
	if err := write(path, g); err != nil {
		return Glass{}, fmt.Errorf("breaking the glass: %w", err)
	}
	return g, nil
}

// ErrWhole is wrapped by End where there is nothing to end.
var ErrWhole = errors.New("the glass is not broken")

// End ends the glass at path before its time. The file stays, to say who did.
func End(path string, by Who, now Moment) (Glass, error) {
	g, err := Read(path, now)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !g.Open(now) {
		return Glass{}, ErrWhole
	}
	if err != nil {
		return Glass{}, err
	}
	g.Ended = &Ended{At: now.Wall.UTC().Truncate(time.Second), By: by}
	if err := write(path, g); err != nil {
		return Glass{}, fmt.Errorf("mending the glass: %w", err)
	}
	return g, nil
}

// write puts the file in place in one piece.
func write(path string, g Glass) error {
	dir := filepath.Dir(path)
	if err := private(dir); err != nil {
		return err
	}
	data, err := json.Marshal(g)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".break-glass-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // renamed, as a rule
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Read reads the glass at path, which may be over. An error that is not fs.ErrNotExist says that there is a file and it
// counts for nothing.
func Read(path string, now Moment) (Glass, error) {
	// Nothing is followed or waited for: whoever could put a link or a pipe there could not write the file itself.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return Glass{}, err
	}
	defer f.Close()
	if err := errors.Join(private(filepath.Dir(path)), ownFile(f)); err != nil {
		return Glass{}, fmt.Errorf("%s counts for nothing: %w", path, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Glass{}, fmt.Errorf("reading %s: %w", path, err)
	}
	g, err := parse(data)
	if err == nil {
		err = g.check(now)
	}
	if err != nil {
		return Glass{}, fmt.Errorf("%s counts for nothing: %w", path, err)
	}
	return g, nil
}

func parse(data []byte) (g Glass, err error) {
	if len(data) > maxFile {
		return Glass{}, fmt.Errorf("it is longer than %d bytes", maxFile)
	}
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&g); err != nil {
		return Glass{}, fmt.Errorf("it is no glass: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Glass{}, errors.New("something follows the glass")
	}
	return g, nil
}

// private returns nil if only this user can put files into dir.
func private(dir string) error {
	fi, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !ok || !fi.IsDir() || int(st.Uid) != os.Geteuid() || fi.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s is not a folder in which this user (uid %d) alone can write", dir, os.Geteuid())
	}
	return nil
}

// ownFile returns nil if f is a plain file that only this user can have written.
func ownFile(f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || !fi.Mode().IsRegular() || int(st.Uid) != os.Geteuid() || fi.Mode().Perm()&0o022 != 0 || st.Nlink != 1 {
		return fmt.Errorf("%v is not a file of this user (uid %d) alone", fi.Mode(), os.Geteuid())
	}
	return nil
}
