package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// rooms are the packages of the tree, by folder, with what each imports of the others. Tests count where there is nothing
// else, and in integration, which is nothing else.
func rooms(t *testing.T) map[string][]string {
	t.Helper()
	const module = "github.com/cosentry/cosentry/"
	product, tests := map[string]map[string]bool{}, map[string]map[string]bool{}
	err := filepath.WalkDir("..", func(file string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && file != ".." && (strings.HasPrefix(e.Name(), ".") || e.Name() == "testdata" || e.Name() == "bin") {
			return fs.SkipDir
		}
		if e.IsDir() || path.Ext(file) != ".go" {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		dir, all := filepath.ToSlash(filepath.Dir(file)[len("../"):]), product
		if strings.HasSuffix(file, "_test.go") && !strings.HasPrefix(dir, "integration") {
			all = tests
		}
		if all[dir] == nil {
			all[dir] = map[string]bool{}
		}
		for _, i := range parsed.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			if other, ours := strings.CutPrefix(name, module); ours && other != dir {
				all[dir][other] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	knows := map[string][]string{}
	for dir, imports := range tests {
		knows[dir] = slices.Sorted(maps.Keys(imports))
	}
	for dir, imports := range product {
		knows[dir] = slices.Sorted(maps.Keys(imports))
	}
	return knows
}

// TestEachPackageKnowsWhatItsRowSays: docs/architecture.md has a row for each package, and its last column names those of the others
// that it imports, and no more.
func TestEachPackageKnowsWhatItsRowSays(t *testing.T) {
	text, err := os.ReadFile("../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "## The rooms")
	if !found {
		t.Fatal("there is no table of packages")
	}
	table, _, _ = strings.Cut(table, "\n## ")
	knows := rooms(t)
	said := map[string][]string{}
	named := regexp.MustCompile("`([a-z0-9/]+)`")
	for line := range strings.Lines(table) {
		columns := strings.Split(line, "|")
		if len(columns) != 5 {
			continue
		}
		var row, others []string
		for _, m := range named.FindAllStringSubmatch(columns[1], -1) {
			row = append(row, strings.TrimSuffix(m[1], "/"))
		}
		for _, m := range named.FindAllStringSubmatch(columns[3], -1) {
			name := strings.TrimSuffix(m[1], "/")
			if _, ok := knows[name]; !ok {
				t.Errorf("%s: %s is no package", row, name)
				continue
			}
			others = append(others, name)
		}
		slices.Sort(others)
		for _, dir := range row {
			said[dir] = others
		}
		if len(row) < 2 {
			continue
		}
		// A row of several tells what they know together.
		together := map[string]bool{}
		for _, dir := range row {
			for _, other := range knows[dir] {
				together[other] = !slices.Contains(row, other)
			}
		}
		maps.DeleteFunc(together, func(_ string, other bool) bool { return !other })
		for _, dir := range row {
			knows[dir] = slices.Sorted(maps.Keys(together))
		}
	}
	for dir, imports := range knows {
		others, there := said[dir]
		switch {
		case !there:
			t.Errorf("%s has no row", dir)
		case dir == "agent":
			if len(others) > 0 {
				t.Error("the command knows everything")
			}
		default:
			if diff := cmp.Diff(others, imports, cmp.Transformer("none", func(s []string) []string { return append([]string{}, s...) })); diff != "" {
				t.Errorf("%s: -row +imports:\n%s", dir, diff)
			}
		}
	}
}
