package rules

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/cuecontext"
	"cuelang.org/go/cue/parser"
)

// checkCUE compiles a CUE rule as cosign's evaluator will.
func checkCUE(text string) error {
	if err := refuseCUE(text); err != nil {
		return err
	}
	if err := cuecontext.New().CompileString(text).Err(); err != nil {
		return fmt.Errorf("the rule does not compile: %s", words(err.Error()))
	}
	return nil
}

// evaluateCUE does what cosign's pkg/policy does with a CUE rule: rule and input are unified, and nothing in the
// result may contradict. It is done here rather than by that package because that brings the command line of cosign
// with it, and the registry credential helpers of four clouds; a test holds the two against each other.
//
// What is not there contradicts nothing: a field that the rule names and the input lacks passes, with "!" or
// without. That is the meaning that these rules have everywhere, so it is kept, and said in the warning.
func evaluateCUE(text string, input []byte) (warning string, err error) {
	ctx := cuecontext.New()
	rule := ctx.CompileString(text)
	if err := rule.Err(); err != nil {
		return "", fmt.Errorf("the rule does not compile: %s", words(err.Error()))
	}
	given := ctx.CompileBytes(input)
	if err := given.Err(); err != nil {
		return "", fmt.Errorf("the input cannot be read: %s", words(err.Error()))
	}
	if err := rule.Unify(given).Validate(); err != nil {
		return "", &saysNo{reason: err.Error()}
	}
	if lacking := missing(rule, given); len(lacking) > 0 {
		warning = "not there, and CUE does not ask for what a rule names: " + strings.Join(lacking, ", ")
	}
	return warning, nil
}

// refuseCUE looks for what no CUE rule may do here. The evaluator is given text without a module, so it neither
// reads files nor runs commands, whatever the text imports; an evaluator of a later version might. So this is looked
// for in what was written.
func refuseCUE(text string) error {
	file, err := parser.ParseFile("rule", text)
	if err != nil {
		return fmt.Errorf("the rule does not compile: %s", words(err.Error()))
	}
	if !demands(file) {
		return errors.New("the rule demands nothing: every input would pass")
	}
	var refused error
	ast.Walk(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			path, err := strconv.Unquote(n.Path.Value)
			if err != nil {
				path = n.Path.Value
			}
			if path == "tool" || strings.HasPrefix(path, "tool/") {
				refused = fmt.Errorf("line %d: rules may not import %q: nothing is run, read or fetched for a rule", n.Pos().Line(), words(path))
			}
		case *ast.Attribute:
			if name, _ := n.Split(); name == "embed" || name == "extern" {
				refused = fmt.Errorf("line %d: rules may not use @%s: no file is read for a rule", n.Pos().Line(), name)
			}
		}
		return refused == nil
	}, nil)
	return refused
}

// demands reports whether the file holds anything but comments, a package clause, imports and definitions. Without
// more, everything unifies with it.
func demands(file *ast.File) bool {
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.Package, *ast.ImportDecl, *ast.CommentGroup, *ast.Attribute, *ast.LetClause:
		case *ast.Field:
			if !definition(d.Label) {
				return true
			}
		default:
			return true
		}
	}
	return false
}

// definition reports whether a label is of a definition or a hidden field, which no input has.
func definition(l ast.Label) bool {
	id, ok := l.(*ast.Ident)
	return ok && (strings.HasPrefix(id.Name, "#") || strings.HasPrefix(id.Name, "_"))
}
