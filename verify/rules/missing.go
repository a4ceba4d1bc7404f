package rules

import (
	"maps"
	"slices"
	"strings"

	"cuelang.org/go/cue"
	"cuelang.org/go/cue/cuecontext"

	"github.com/cosentry/cosentry/verify/rescue"
)

// inputs are the fields that attestations and results have. Other fields at the top of a CUE rule are its own.
var inputs = []string{"_type", "predicateType", "subject", "predicate", "authorityMatches", "config", "metadata", "typemeta"}

// maxMissing is how many fields a warning names.
const maxMissing = 10

// Warnings says what is dangerous about a rule that Check takes. There is one such thing: a CUE rule that names
// authorities reads as if it asked for them all, and is satisfied by any one that passed.
func Warnings(kind, text string) (warnings []string) {
	if kind != CUE || inBounds(kind, text) != nil {
		return nil
	}
	// A rule that cannot be read is Check's to refuse.
	_ = rescue.Do(nil, "reading a CUE rule", func() error {
		ctx := cuecontext.New()
		rule := ctx.CompileString(text)
		named := missing(rule, ctx.CompileString("authorityMatches: {}"))
		named = slices.DeleteFunc(named, func(path string) bool { return !strings.HasPrefix(path, "authorityMatches.") })
		if len(named) > 0 {
			warnings = append(warnings, "a CUE rule does not ask for what it names ("+strings.Join(named, ", ")+
				"): it is satisfied by an image that another authority accepts; docs/policy.md says how to ask")
		}
		return nil
	})
	return warnings
}

// missing gives the paths of what a rule names and the input does not have. What is below a field that is missing is not
// named, nor are fields that the rule has only for certain inputs, and those of a list's elements.
func missing(rule, given cue.Value) []string {
	var found []string
	fields := fieldsOf(rule)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if slices.Contains(inputs, name) {
			found = lacking(found, name, fields[name], given.LookupPath(cue.MakePath(cue.Str(name))))
		}
	}
	return found
}

func lacking(found []string, path string, rule, given cue.Value) []string {
	if len(found) >= maxMissing {
		return found
	}
	if !given.Exists() {
		return append(found, path)
	}
	fields := fieldsOf(rule)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		found = lacking(found, path+"."+name, fields[name], given.LookupPath(cue.MakePath(cue.Str(name))))
	}
	return found
}

// fieldsOf gives the fields that a struct names, optional ones left out.
func fieldsOf(v cue.Value) map[string]cue.Value {
	fields := map[string]cue.Value{}
	if v.IncompleteKind() != cue.StructKind {
		return fields
	}
	iter, err := v.Fields(cue.Optional(true))
	if err != nil {
		return fields
	}
	for iter.Next() {
		if iter.FieldType()&cue.OptionalConstraint == 0 {
			fields[iter.Selector().Unquoted()] = iter.Value()
		}
	}
	return fields
}
