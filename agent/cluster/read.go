package cluster

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cosentry/cosentry/agent/folders"
	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/policy"
	"github.com/cosentry/cosentry/verify/rescue"
	"github.com/cosentry/cosentry/verify/sigstore"
	"github.com/cosentry/cosentry/verify/trust"
)

// ErrNone is wrapped where sync has never put a set in force: a fresh node.
var ErrNone = errors.New("no set of the cluster's documents has come yet")

// Loaded is a set that was read and found good.
type Loaded struct {
	ID       string // its name in the folder of sets; empty from LoadSet
	Policies *policy.Set
	// Held are the Secrets and ConfigMaps that came with it. nil: documents must be signed, so none were taken, and what
	// policies refer to is what the node itself holds.
	Held *trust.Memory
	// Skipped are the documents that were not taken because they are not signed as they must be.
	Skipped []Skipped
}

// Skipped is a document that was not taken.
type Skipped struct {
	File string // its name
	Why  string
}

// CurrentID is the name of the set in force. An error wraps ErrNone if there never was one.
func CurrentID(dir string) (string, error) {
	top, err := openTop(dir)
	if err != nil {
		return "", err
	}
	defer top.Close()
	return current(top, dir)
}

// openTop opens the folder itself, whose path its owner chose. An error wraps ErrNone if it is not there.
func openTop(dir string) (*os.File, error) {
	top, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNone)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the folder of the cluster's documents: %w", err)
	}
	return top, nil
}

func current(top *os.File, dir string) (string, error) {
	id, err := currentID(top)
	if err == nil && id == "" {
		err = fmt.Errorf("%s: %w", dir, ErrNone)
	}
	return id, err
}

// Load reads the set in force, once through the link. With keys, only documents that one of them signed are taken, and
// neither Secrets nor ConfigMaps. It ends early with ctx.
func Load(ctx context.Context, dir string, keys []policy.PublicKey) (*Loaded, error) {
	top, err := openTop(dir)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	id, err := current(top, dir)
	if err != nil {
		return nil, err
	}
	l, err := loadIn(ctx, top, id, keys)
	if err != nil {
		return nil, fmt.Errorf("the cluster's documents, set %s: %w", id, err)
	}
	l.ID = id
	return l, nil
}

func loadIn(ctx context.Context, top *os.File, id string, keys []policy.PublicKey) (*Loaded, error) {
	set, err := openSet(top, id)
	if err != nil {
		return nil, err
	}
	defer set.Close()
	l, err := load(ctx, set, keys)
	if err != nil {
		return nil, err
	}
	// Sync removes sets that are two behind, file by file: what was read may be the half of one.
	if now, err := currentID(top); err != nil || now != id {
		return nil, errors.New("another was put in force while it was read")
	}
	return l, nil
}

// openSet opens the folder of a set. The folder of sets is sync's too, and may be anything.
func openSet(top *os.File, id string) (*os.File, error) {
	sets, err := folders.Open(top, Sets)
	if err != nil {
		return nil, fmt.Errorf("opening the folder of sets: %w", err)
	}
	defer sets.Close()
	set, err := folders.Open(sets, id)
	if err != nil {
		return nil, fmt.Errorf("opening its folder: %w", err)
	}
	return set, nil
}

// LoadSet reads the set in a folder, before or without a link leading to it.
func LoadSet(ctx context.Context, folder string, keys []policy.PublicKey) (*Loaded, error) {
	set, err := os.OpenFile(folder, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("opening a set of the cluster's documents: %w", err)
	}
	defer set.Close()
	l, err := load(ctx, set, keys)
	if err != nil {
		return nil, fmt.Errorf("the cluster's documents: %w", err)
	}
	return l, nil
}

func load(ctx context.Context, set *os.File, keys []policy.PublicKey) (l *Loaded, err error) {
	// The bytes are a stranger's, and a panic at start would take the runtime's socket from the node, again and again.
	err = rescue.Do(nil, "reading the cluster's documents", func() error {
		files, err := readSet(ctx, set)
		if err != nil {
			return err
		}
		c, err := contents(files)
		if err != nil {
			return err
		}
		l, err = c.load(ctx, keys)
		return err
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// load makes policies of documents.
func (c Contents) load(ctx context.Context, keys []policy.PublicKey) (*Loaded, error) {
	l := &Loaded{}
	var all []policy.Documents
	var faults policy.Errors
	parts := 0
	for _, d := range c.Documents {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("reading them took too long: %w", context.Cause(ctx))
		}
		name, err := PolicyFile(d.Kind, d.Name)
		if err != nil {
			return nil, err
		}
		if keys != nil {
			if why := unsigned(keys, d); why != "" {
				l.Skipped = append(l.Skipped, Skipped{name, why})
				continue
			}
		}
		found, err := policy.Parse(name, d.Data)
		var wrong policy.Errors
		if errors.As(err, &wrong) {
			faults = append(faults, wrong[:min(len(wrong), maxFaults-min(len(faults), maxFaults))]...)
			continue
		}
		if err != nil {
			return nil, err
		}
		if why := named(d, found); why != "" {
			if keys == nil {
				return nil, fmt.Errorf("%s: %s", name, why)
			}
			// Whoever can write objects can put what the key signed under another name as well. It is there once under its own.
			l.Skipped = append(l.Skipped, Skipped{name, why})
			continue
		}
		// Compiled, a few bytes of a document take a hundred times their size.
		if parts += found.Parts(); limits.SyncedParts.Check(int64(parts)) != nil {
			return nil, &limits.Exceeded{Bound: limits.SyncedParts}
		}
		all = append(all, found)
	}
	if len(faults) > 0 {
		return nil, faults
	}
	set, err := policy.NewSet(all...)
	if err != nil {
		return nil, err
	}
	if err := limits.SyncedFetches.Check(int64(trust.Fetched(set))); err != nil {
		return nil, err
	}
	l.Policies = set
	if keys != nil {
		return l, nil
	}
	l.Held, err = c.held()
	return l, err
}

// maxFaults bounds what is said of a set that is wrong.
const maxFaults = 100

// unsigned says why a document is not taken where documents must be signed; empty: it is.
func unsigned(keys []policy.PublicKey, d File) string {
	if d.Signature == nil {
		return "it is not signed, and clusterPolicies.publicKey takes only what is"
	}
	if err := sigstore.VerifyBlob(keys, d.Data, d.Signature); err != nil {
		return err.Error()
	}
	return ""
}

// named says what is wrong if a file holds anything but the one document that it is named after; empty: nothing.
func named(d File, found policy.Documents) string {
	if len(found.Policies)+len(found.TrustRoots) != 1 {
		return fmt.Sprintf("it holds %d documents, and must hold one", len(found.Policies)+len(found.TrustRoots))
	}
	kind, name := KindTrustRoot, ""
	for _, p := range found.Policies {
		kind, name = KindPolicy, p.Name
	}
	for _, t := range found.TrustRoots {
		name = t.Name
	}
	if kind != d.Kind || name != d.Name {
		return fmt.Sprintf("it holds %s %q and is named after %s %q", kind, name, d.Kind, d.Name)
	}
	return ""
}

// held has the Secrets and ConfigMaps in memory, so that all of a set is of one moment also when it is replaced on disk.
func (c Contents) held() (*trust.Memory, error) {
	m := &trust.Memory{}
	for kind, objects := range map[string]map[Object]map[string][]byte{trust.KindSecret: c.Secrets, trust.KindConfigMap: c.ConfigMaps} {
		for o, data := range objects {
			for key, value := range data {
				if err := m.Add(kind, o.Namespace, o.Name, key, value); err != nil {
					return nil, err
				}
			}
		}
	}
	return m, nil
}

// currentID is the name of the set that current leads to; empty: there is no link.
func currentID(top *os.File) (string, error) {
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(top.Fd()), Current, target)
	if errors.Is(err, unix.ENOENT) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading which set is in force: %w", err)
	}
	id, ok := strings.CutPrefix(string(target[:n]), Sets+"/")
	if !ok || !isID(id) {
		return "", fmt.Errorf("%s leads to %.128q, which is no set", Current, target[:n])
	}
	return id, nil
}

// isID reports whether a set may have the name: it is one component, not hidden, and printed in logs and metrics.
func isID(id string) bool {
	return len(id) <= 64 && id != "" && id[0] != '.' && !strings.ContainsFunc(id, func(r rune) bool {
		return !(r == '.' || r == '-' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z')
	})
}

// maxHeartbeat is more bytes than an RFC 3339 time has.
const maxHeartbeat = 64

// defaultHash is what cosign signs with where a key says nothing else.
const defaultHash = crypto.SHA256

// Beat is when sync last knew itself to be up to date. An error wraps ErrNone if it never said so.
func Beat(dir string) (time.Time, error) {
	top, err := openTop(dir)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the heartbeat of sync: %w", err)
	}
	defer top.Close()
	data, err := readFile(top, Heartbeat, maxHeartbeat)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, fmt.Errorf("%s: %w", filepath.Join(dir, Heartbeat), ErrNone)
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the heartbeat of sync: %w", err)
	}
	t, err := time.Parse(time.RFC3339, strings.TrimSpace(string(data)))
	if err != nil {
		return time.Time{}, fmt.Errorf("the heartbeat of sync is no time: %.64q", data)
	}
	return t, nil
}

// ParseKeys reads the keys of clusterPolicies.publicKey, PEM. nil: the setting is empty, and documents need no signature.
func ParseKeys(pem string) ([]policy.PublicKey, error) {
	if pem == "" {
		return nil, nil
	}
	keys, err := policy.ParsePublicKeys([]byte(pem), defaultHash, false)
	if err != nil {
		return nil, fmt.Errorf("clusterPolicies.publicKey: %w", err)
	}
	return slices.Clip(keys), nil
}
