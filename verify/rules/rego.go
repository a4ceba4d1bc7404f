package rules

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/sigstore/cosign/v2/pkg/cosign/rego"
)

// The package and the rule of it that cosign asks for.
const (
	regoPackage = "sigstore"
	regoRule    = "isCompliant"
)

// harmless are the built-in functions of which OPA says that they do not give the same answer each time, and that
// reach for nothing outside: a clock, and random numbers. All others of that sort are refused, those of a later
// version included.
var harmless = []string{"time.now_ns", "rand.intn", "uuid.rfc4122", "io.jwt.encode_sign", "io.jwt.encode_sign_raw", "io.jwt.decode_verify"}

// fetching are those that fetch what a JSON schema refers to, over the network and from files, and of which OPA does
// not say so.
var fetching = []string{"json.match_schema", "json.verify_schema"}

// checkRego compiles a Rego rule as cosign's evaluator will.
func checkRego(text string) error {
	if err := refuseRego(text); err != nil {
		return err
	}
	module, err := parseRego(text)
	if err != nil {
		return err
	}
	compiler := ast.NewCompiler().WithCapabilities(capabilities())
	compiler.Compile(map[string]*ast.Module{"rule": module})
	if compiler.Failed() {
		return fmt.Errorf("the rule does not compile: %s", words(compiler.Errors.Error()))
	}
	return nil
}

// notCompliant is how cosign's evaluator begins its error for a rule that was evaluated and says no. By nothing else does
// that differ from its errors for a rule that could not be evaluated.
const notCompliant = "policy is not compliant for query "

// evaluateRego asks cosign's own evaluator.
func evaluateRego(text string, input []byte) error {
	said, err := rego.ValidateJSONWithModuleInput(input, text)
	switch {
	case err == nil && said == nil:
		return nil
	case err == nil:
		// To policy-controller a rule that passes with a warning is not satisfied.
		return &saysNo{reason: said.Error()}
	}
	rest, evaluated := strings.CutPrefix(err.Error(), notCompliant)
	if !evaluated {
		return errors.New(words(err.Error()))
	}
	_, reason, _ := strings.Cut(rest, " with errors: ")
	if said != nil && said.Error() != "" {
		reason = strings.TrimPrefix(reason+"; warning: "+said.Error(), "; ")
	}
	return &saysNo{reason: reason}
}

func parseRego(text string) (*ast.Module, error) {
	module, err := ast.ParseModuleWithOpts("rule", text, ast.ParserOptions{RegoVersion: ast.RegoV0})
	if err != nil {
		return nil, fmt.Errorf("the rule does not compile: %s", words(err.Error()))
	}
	if module == nil {
		return nil, errors.New("the rule is empty")
	}
	return module, nil
}

// refuseRego looks for what no Rego rule may do here, and for what cosign's evaluator asks of every rule: one that it
// does not find it takes for undefined, and refuses each image.
func refuseRego(text string) error {
	module, err := parseRego(text)
	if err != nil {
		return err
	}
	if want := ast.MustParseRef("data." + regoPackage); !module.Package.Path.Equal(want) {
		return fmt.Errorf("the rule's package must be %s, not %s", regoPackage, words(module.Package.Path.String()))
	}
	if !slices.ContainsFunc(module.Rules, func(r *ast.Rule) bool { return r.Head.Name.String() == regoRule || r.Head.Ref().String() == regoRule }) {
		return fmt.Errorf("the rule must define %s: without it no image would ever pass", regoRule)
	}
	var refused error
	ast.WalkRefs(module, func(ref ast.Ref) bool {
		if name := ref.ConstantPrefix().String(); refusedBuiltin(name) {
			refused = fmt.Errorf("line %d: rules may not call %s: nothing is fetched or looked up for a rule", line(ref), name)
		}
		return refused != nil
	})
	return refused
}

func line(ref ast.Ref) int {
	if len(ref) > 0 && ref[0].Location != nil {
		return ref[0].Location.Row
	}
	return 0
}

// refusedBuiltin reports whether a built-in function may not be called.
func refusedBuiltin(name string) bool {
	if slices.Contains(fetching, name) {
		return true
	}
	b, ok := ast.BuiltinMap[name]
	return ok && b.Nondeterministic && !slices.Contains(harmless, name)
}

// capabilities are those of the evaluator without the functions that are refused: what the walk over the text did
// not see, the compiler does not know.
func capabilities() *ast.Capabilities {
	all := ast.CapabilitiesForThisVersion()
	all.Builtins = slices.DeleteFunc(slices.Clone(all.Builtins), func(b *ast.Builtin) bool { return refusedBuiltin(b.Name) })
	all.AllowNet = []string{}
	return all
}
