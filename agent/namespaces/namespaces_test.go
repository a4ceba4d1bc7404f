package namespaces

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// log is what was logged, and may be written and read at once.
type log struct{ bytes.Buffer }

func made(t *testing.T, o Options) (*Namespaces, *log) {
	t.Helper()
	l := &log{}
	o.Log = slog.New(slog.NewTextHandler(l, nil))
	n, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return n, l
}

func TestWhichNamespacesAreEnforced(t *testing.T) {
	for name, tc := range map[string]struct {
		o        Options
		enforced []string
		exempt   []string
	}{
		"all, unless told otherwise": {
			enforced: []string{"", "default", "kube-system"},
		},
		"by name, exactly": {
			o:        Options{Enforce: []string{"prod"}},
			enforced: []string{"", "prod"}, exempt: []string{"prod-2", "preprod", "pro", "Prod"},
		},
		"by pattern": {
			o:        Options{Enforce: []string{"team-*", "*-prod"}},
			enforced: []string{"", "team-", "team-a", "team-a-b", "x-prod", "-prod"}, exempt: []string{"team", "prod", "ateam-x"},
		},
		"exempt wins": {
			o:        Options{Enforce: []string{"team-*"}, Exempt: []string{"team-infra", "kube-*"}},
			enforced: []string{"", "team-a"}, exempt: []string{"team-infra", "kube-system", "other"},
		},
		"exempt alone": {
			o:        Options{Exempt: []string{"kube-system"}},
			enforced: []string{"", "default", "kube-system-2", "my-kube-system"}, exempt: []string{"kube-system"},
		},
		"an empty list enforces nothing that has a name": {
			o:        Options{Enforce: []string{}},
			enforced: []string{""}, exempt: []string{"default"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			n, _ := made(t, tc.o)
			check(t, n, tc.enforced, tc.exempt)
		})
	}
}

func check(t *testing.T, n *Namespaces, enforced, exempt []string) {
	t.Helper()
	for _, ns := range enforced {
		if !n.Enforced(ns) {
			t.Errorf("%q is not enforced", ns)
		}
	}
	for _, ns := range exempt {
		if n.Enforced(ns) {
			t.Errorf("%q is enforced", ns)
		}
	}
}

// match is compared with what its comment says, said as a regular expression.
func FuzzMatch(f *testing.F) {
	for _, s := range [][2]string{{"a*b*c", "abbc"}, {"*", ""}, {"a", "a"}, {"a*a", "a"}, {"*ab*ab", "abab"}, {"**", "x"}, {"a**b", "ab"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, glob, name string) {
		want := regexp.MustCompile(`(?s)\A` + strings.ReplaceAll(regexp.QuoteMeta(glob), `\*`, `.*`) + `\z`)
		if !validText(glob) || !validText(name) {
			return
		}
		if got := match(glob, name); got != want.MatchString(name) {
			t.Errorf("match(%q, %q) is %v", glob, name, got)
		}
	})
}

func validText(s string) bool { return strings.ToValidUTF8(s, "") == s }

func TestFilesInEachForm(t *testing.T) {
	for name, text := range map[string]string{
		"kubectl's YAML": printedYAML, "kubectl's JSON": printedJSON, "the API's own": ofTheAPI, "documents": documents,
		"kubectl's YAML after a line of dashes": "---\n" + printedYAML,
	} {
		t.Run(name, func(t *testing.T) {
			listed, err := Parse([]byte(text), true)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(map[string]bool{"kube-system": false, "legacy": false, "shop": true}, listed); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestFilesThatAreRefused(t *testing.T) {
	for name, tc := range map[string]struct{ text, says string }{
		"empty":                          {"", "no namespaces in it"},
		"nothing but comments":           {"# later\n---\n", "no namespaces in it"},
		"not YAML":                       {"{", "neither YAML nor JSON"},
		"text":                           {"kube-system\n", "neither YAML nor JSON"},
		"kubectl's table":                {"NAME STATUS AGE\ndefault Active 1d\n", "neither YAML nor JSON"},
		"pods":                           {"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n", `kind "Pod"`},
		"a list of pods":                 {"apiVersion: v1\nkind: List\nitems: [{kind: Pod, metadata: {name: a}}]\n", `item 0 is of kind "Pod"`},
		"a list of what is not said":     {"apiVersion: v1\nkind: List\nitems: [{metadata: {name: a}}]\n", `item 0 is of kind ""`},
		"pods among namespaces":          {"apiVersion: v1\nkind: NamespaceList\nitems: [{kind: Pod, metadata: {name: a}}]\n", `item 0 is of kind "Pod"`},
		"another group":                  {"apiVersion: x/v1\nkind: Namespace\nmetadata: {name: a}\n", "only namespaces of v1"},
		"a namespace without a name":     {"apiVersion: v1\nkind: Namespace\nmetadata: {labels: {a: b}}\n", "without a name"},
		"an item without a name":         {"apiVersion: v1\nkind: List\nitems: [{kind: Namespace}]\n", "item 0: a namespace without a name"},
		"labels twice":                   {"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  labels: {policy.sigstore.dev/include: \"true\"}\n  labels: {}\n", "already defined"},
		"an expansion bomb":              {"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nitems: *e\n", "neither YAML nor JSON"},
		"beyond its bound":               {"#" + strings.Repeat(" ", maxSize), "larger than"},
		"good documents and a bad one":   {documents + "kind: Pod\n", "only namespaces of v1"},
		"a JSON document and half a one": {ofTheAPI + `{"kind":`, "neither YAML nor JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			if listed, err := Parse([]byte(tc.text), true); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v, %v; want %q", listed, err, tc.says)
			}
		})
	}
}

// A file that is read while it is being written, or that a full disk cut off, must not exempt what the whole file does not.
func TestFileCutOffExemptsNothing(t *testing.T) {
	for name, text := range map[string]string{"YAML": printedYAML, "JSON": printedJSON, "the API's own": ofTheAPI} {
		whole, err := Parse([]byte(text), true)
		if err != nil {
			t.Fatal(err)
		}
		read := 0
		for i := range text {
			listed, err := Parse([]byte(text[:i]), true)
			if err != nil {
				continue
			}
			read++
			for ns, labelled := range listed {
				if was, ok := whole[ns]; !labelled && (was || !ok) {
					t.Errorf("%s cut off at byte %d of %d exempts %q", name, i, len(text), ns)
				}
			}
		}
		if read > len("metadata:\n  resourceVersion: \"\"\n") {
			t.Errorf("%s was taken for whole at %d places", name, read)
		}
	}
}

func TestNamespaceToldOfTwiceIsLabelledIfOnce(t *testing.T) {
	for _, order := range []string{`{a: b}}}, {kind: Namespace, metadata: {name: x, labels: {policy.sigstore.dev/include: "true"`, `{policy.sigstore.dev/include: "true"}}}, {kind: Namespace, metadata: {name: x, labels: {a: b`} {
		listed, err := Parse([]byte("apiVersion: v1\nkind: List\nitems: [{kind: Namespace, metadata: {name: x, labels: "+order+"}}}]\n"), true)
		if err != nil || !listed["x"] {
			t.Errorf("%v, %v", listed, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{printedYAML, printedJSON, ofTheAPI, documents} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		listed, err := Parse(data, true)
		if err != nil && listed != nil {
			t.Error("an answer beside an error")
		}
		if _, nameless := listed[""]; nameless {
			t.Error("a namespace without a name")
		}
	})
}

func put(t *testing.T, path, text string) {
	t.Helper()
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}

// TestWhatIsNotKnownIsEnforced goes through what can become of the file, in order.
func TestWhatIsNotKnownIsEnforced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "namespaces.yaml")
	n, log := made(t, Options{File: path, Exempt: []string{"kube-system"}})
	all, none := []string{"", "shop", "legacy", "new"}, []string{"kube-system"}
	step := func(what, state, says string, enforced, exempt []string) {
		t.Helper()
		log.Reset()
		n.Load()
		check(t, n, enforced, exempt)
		if s := n.State(); s.File != state || (s.Fault != "") != (state == Broken) {
			t.Errorf("%s: state %+v", what, s)
		}
		if !strings.Contains(log.String(), says) || says == "" && log.Len() > 0 {
			t.Errorf("%s: %q is not what is logged: %s", what, says, log.String())
		}
		log.Reset()
		n.Load()
		if log.Len() > 0 {
			t.Errorf("%s: told twice: %s", what, log.String())
		}
	}
	step("no file", Missing, "", all, none) // told by New
	put(t, path, "kind: Pod\n")
	step("broken from the start", Broken, "judged in all namespaces", all, none)
	put(t, path, printedYAML)
	step("good", Good, "namespaces in force", []string{"", "shop", "new"}, []string{"legacy", "kube-system"})
	if s := n.State(); s.Count != 3 || s.Labelled != 1 || s.Loaded.IsZero() {
		t.Errorf("state %+v", s)
	}
	put(t, path, printedYAML[:len(printedYAML)/2])
	step("cut off", Broken, "what it last said stays in force", []string{"", "shop", "new"}, []string{"legacy", "kube-system"})
	put(t, path, printedYAML+strings.Repeat("#", maxSize))
	step("oversized", Broken, "larger than", []string{"", "shop", "new"}, []string{"legacy", "kube-system"})
	put(t, path, strings.ReplaceAll(printedYAML, `"false"`, `"true"`))
	step("one more label", Good, "labelled=2", []string{"", "shop", "legacy", "new"}, none)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	step("gone", Missing, "there is no namespaces file", all, none)
	put(t, path, "kind: Pod\n")
	step("broken after it was gone", Broken, "judged in all namespaces", all, none)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	step("a pipe", Broken, "not a regular file", all, none)
}

func TestFileIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "namespaces.yaml")
	n, err := New(Options{File: path, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done, again := make(chan struct{}), make(chan os.Signal, 1)
	go func() { defer close(done); n.Watch(ctx, again) }()
	defer func() { cancel(); <-done }()
	put(t, path, printedYAML)
	eventually(t, func() bool { return !n.Enforced("legacy") })
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	eventually(t, func() bool { return n.Enforced("legacy") })
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in ten seconds")
		}
	}
}

func TestNewRefusesWhatIsAmbiguous(t *testing.T) {
	for name, o := range map[string]Options{
		"names and labels": {Enforce: []string{"a"}, File: "/f", Log: slog.New(slog.DiscardHandler)},
		"no log":           {},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
