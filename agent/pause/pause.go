// Package pause watches the image of which the runtime makes the sandboxes of pods, the "pause" image.
//
// No call names this image: the runtime takes it by a name of its own settings, and pulls it past the socket. So nothing that is
// judged call by call ever sees it, and whoever replaces it under its name has a process of his in every pod, in the pod's
// network and, with a shared one, its process namespace.
//
// It promises that the image is judged at the start, when the policies or an image on the node change, and every minute;
// that each change of the outcome is one audit record; and that an image that is refused on a node that enforces
// is told again and again. It refuses nothing itself: that is the gate's, where the owner asked for it.
package pause

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/cosentry/cosentry/agent/gate"
)

const (
	// lookEvery is how often it is looked whether something changed, judgeEvery how often the image is judged without that,
	// and againAfter when it is tried again after the runtime gave no answer.
	lookEvery, judgeEvery, againAfter = time.Second, time.Minute, 5 * time.Second
	// sayAgain is how often a refused image is told again.
	sayAgain = 10 * time.Minute
	// askTimeout bounds the questions to the runtime.
	askTimeout = 30 * time.Second
)

// Options configure a Watch. All but Enforcing are required.
type Options struct {
	// Names are those of the images that the runtime may take. None: it does not tell.
	Names func(ctx context.Context) ([]string, error)
	// Judge judges one, Record writes down what came of it.
	Judge  func(ctx context.Context, name string) gate.SandboxImage
	Record func(gate.SandboxImage) error
	// Changed is what an outcome rests on: it is judged anew when that is another.
	Changed func() Inputs
	// Enforcing says that this node refuses what policy refuses.
	Enforcing bool
	Log       *slog.Logger
}

// Inputs are what an outcome rests on, as far as it is known without asking.
type Inputs struct {
	Revision string // of the policies
	Images   uint64 // changes of images on the node
}

// State is what was found out last.
type State struct {
	Images []gate.SandboxImage
	// Looked is when; zero: not yet.
	Looked time.Time
	// Fault is why the image is not known now; Images are then what was known before.
	Fault string
}

// Watch knows how things stand with the image.
type Watch struct {
	o Options

	mu    sync.Mutex
	state State

	told map[string]time.Time // when each refused image was told last; of Run's goroutine
}

// New returns a Watch that has not looked yet.
func New(o Options) *Watch { return &Watch{o: o, told: map[string]time.Time{}} }

// State tells what was found out last.
func (w *Watch) State() State {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.state
	s.Images = slices.Clone(s.Images)
	return s
}

// Run judges until ctx ends.
func (w *Watch) Run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var last Inputs
	var due time.Time
	for {
		if now := w.o.Changed(); now != last || !time.Now().Before(due) {
			last = now // what changes while it is judged is seen the next time
			due = time.Now().Add(w.look(ctx))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// look finds the images, judges them and tells what is new. It returns when to look again at the latest.
func (w *Watch) look(ctx context.Context) time.Duration {
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	names, err := w.o.Names(asking)
	cancel()
	if ctx.Err() != nil {
		return 0
	}
	before := w.State()
	state := State{Looked: time.Now()}
	switch {
	case err != nil:
		names, state.Images, state.Fault = nil, before.Images, err.Error()
	case len(names) == 0:
		state.Fault = "the runtime does not tell which image it makes sandboxes of; name it in this node's settings, sandbox.image"
	}
	for _, name := range names {
		s := w.o.Judge(ctx, name)
		if ctx.Err() != nil {
			return 0
		}
		state.Images = append(state.Images, s)
		w.tell(before.Images, s)
	}
	if state.Fault != "" && state.Fault != before.Fault {
		w.o.Log.Warn("the image of sandboxes is not judged", "error", state.Fault)
	}
	w.mu.Lock()
	w.state = state
	w.mu.Unlock()
	if err != nil {
		return againAfter
	}
	return judgeEvery
}

// tell records s if it is news, and logs it; a refused image is logged again after a while.
func (w *Watch) tell(before []gate.SandboxImage, s gate.SandboxImage) {
	news := !slices.ContainsFunc(before, func(b gate.SandboxImage) bool {
		return b.Name == s.Name && b.Digest == s.Digest && b.Allowed == s.Allowed && b.Absent == s.Absent && b.Reason == s.Reason
	})
	if news && !s.Absent {
		// The log of decisions tells its own trouble.
		_ = w.o.Record(s)
	}
	log, what := w.o.Log.With("image", s.Name, "digest", s.Digest, "reason", s.Reason), ""
	switch {
	case s.Allowed:
		delete(w.told, s.Name)
		if news {
			log.Info("the image of sandboxes is accepted")
		}
		return
	case s.Absent:
		if news {
			log.Info("the image of sandboxes is not on this node yet")
		}
		return
	case w.o.Enforcing:
		what = "THE IMAGE OF SANDBOXES IS NOT ACCEPTED: every pod on this node has a process of it"
	default:
		what = "the image of sandboxes would not be accepted"
	}
	if at, ok := w.told[s.Name]; !news && ok && time.Since(at) < sayAgain {
		return
	}
	w.told[s.Name] = time.Now()
	level := slog.LevelWarn
	if w.o.Enforcing {
		level = slog.LevelError
	}
	log.Log(context.Background(), level, what)
}
