package evidence_test

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/rescue"
)

// A panic on any goroutine of a question ends the process unless it is caught on that goroutine: one crafted manifest
// would take the runtime's socket from the node. Observe stands in for a parser here, as it is called where an
// answer has just come.
func TestAPanicIsAnErrorOfItsQuestionAlone(t *testing.T) {
	for operation, c := range map[string]struct {
		api        bool
		signatures int // found all the same
		bundles    []string
	}{
		"signature tag": {bundles: []string{"B"}},
		"referrers tag": {signatures: 2},
		"referrers":     {api: true, signatures: 2},
		"manifest":      {signatures: 2},
		"blob":          {},
	} {
		t.Run(operation, func(t *testing.T) {
			r := newReg(t, registry.WithReferrersSupport(c.api))
			r.sign("app", 2)
			if c.api {
				r.refer("app", "B")
			} else {
				r.attach("app", "B")
			}
			var panics atomic.Int32
			f := newFetcher(t, evidence.Options{Observe: func(_, now string, _ int, _ time.Duration, _ error) {
				if now == operation {
					panics.Add(1)
					panic("parser\nbroke")
				}
			}})
			e := fetch(t, f, r.host+"/app", evidence.Credentials{})
			if panics.Load() == 0 {
				t.Fatal("nothing panicked")
			}
			want(t, e, c.signatures, c.bundles...)
			if !errors.Is(e.Incomplete, rescue.ErrPanicked) {
				t.Errorf("incomplete: %v", e.Incomplete)
			}
		})
	}
}

// The same payload or manifest may be asked for by several at once, of whom one does the work.
func TestAPanicIsNotRepeatedToThoseWhoWait(t *testing.T) {
	r := newReg(t)
	payload := `{"critical":{}}`
	layer := descriptorOf(simpleSigning, r.blob("app", []byte(payload)), len(payload))
	r.signatureManifest("app", []object{layer, layer, layer, layer})
	f := newFetcher(t, evidence.Options{Observe: func(_, operation string, _ int, _ time.Duration, _ error) {
		if operation == "blob" {
			panic("parser broke")
		}
	}})
	e := fetch(t, f, r.host+"/app", evidence.Credentials{})
	want(t, e, 0)
	if !errors.Is(e.Incomplete, rescue.ErrPanicked) {
		t.Errorf("incomplete: %v", e.Incomplete)
	}
}

func TestAPanicWhileResolvingIsAnError(t *testing.T) {
	r := newReg(t)
	f := newFetcher(t, evidence.Options{Observe: func(string, string, int, time.Duration, error) { panic("parser broke") }})
	d, err := f.Resolve(testContext(t), r.host+"/app", "1", evidence.Credentials{})
	if d != "" || !errors.Is(err, rescue.ErrPanicked) {
		t.Errorf("%q, %v", d, err)
	}
}

// Goroutines are started in one place, where panics are caught.
func TestGoroutinesAreStartedInOnePlace(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 10 {
		t.Fatal(files, err)
	}
	started := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			_, starts := n.(*ast.GoStmt)
			if s, ok := n.(*ast.SelectorExpr); ok {
				starts = s.Sel.Name == "Go" || s.Sel.Name == "AfterFunc"
			}
			if starts {
				started++
				if name != "together.go" {
					t.Errorf("%s: a goroutine whose panic nobody catches", fset.Position(n.Pos()))
				}
			}
			return true
		})
	}
	if started != 1 {
		t.Errorf("%d places, want the one", started)
	}
}
