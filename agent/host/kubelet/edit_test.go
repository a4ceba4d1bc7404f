package kubelet

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestEnvironmentFile goes by what systemd.exec(5) says of EnvironmentFile= and by systemd's own reader.
func TestEnvironmentFile(t *testing.T) {
	tests := map[string]struct {
		file string
		want map[string]string
	}{
		"quotes, both kinds":                      {"A='x y'\nB=\"x y\"\n", map[string]string{"A": "x y", "B": "x y"}},
		"quotes within a value are text":          {`A=x "y"`, map[string]string{"A": `x "y"`}},
		"white space around, not within":          {"A= \t x  y \t\r\nB=z", map[string]string{"A": "x  y", "B": "z"}},
		"comments and lines that assign nothing":  {"# A=1\n;A=2\nnothing\nA=3\n", map[string]string{"A": "3"}},
		"the last one wins":                       {"A=1\nA=2\n", map[string]string{"A": "2"}},
		"a backslash joins lines":                 {"A=x \\\n  y\nB=1", map[string]string{"A": "x   y", "B": "1"}},
		"and within double quotes":                {"A=\"x\\\ny\"", map[string]string{"A": "xy"}},
		"escapes in double quotes, only some":     {`A="\"\$\n"`, map[string]string{"A": `"$\n`}},
		"none in single quotes":                   {`A='\"'`, map[string]string{"A": `\"`}},
		"a quoted part after a quoted part":       {`A="x" 'y'`, map[string]string{"A": "xy"}},
		"an empty value":                          {"A=\nB=", map[string]string{"A": "", "B": ""}},
		"a line break within quotes":              {"A='x\ny'", map[string]string{"A": "x\ny"}},
		"a backslash outside of quotes is no end": {`A=x\ y`, map[string]string{"A": "x y"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f, err := parseEnv("/e", []byte(test.file))
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for name, value := range f.vars {
				got[name] = text(value)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, broken := range []string{"A='x", "A=\"x\\\"", "#\\\nA=1"} {
		if f, err := parseEnv("/e", []byte(broken)); err == nil {
			t.Errorf("%q was read: %v", broken, f.vars)
		}
	}
}

// TestVariables is how systemd.service(5) replaces variables in a command line.
func TestVariables(t *testing.T) {
	vars := map[string][]char{"A": literal(`--x "y z" 'w'`), "E": literal("")}
	for argument, want := range map[string][]string{
		"$A": {"--x", "y z", "w"}, "${A}": {`--x "y z" 'w'`}, "-${E}-": {"--"}, "$E": nil, "$NONE": nil, "a$A": {"a$A"}, "$$A": {"$A"}, "${A": {"${A"},
	} {
		out, err := expandWord(argument, vars)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, w := range out {
			got = append(got, text(w))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", argument, diff)
		}
	}
}

// FuzzSetField: whatever a configuration file looks like, an edit sets the one field to what was asked for, keeps what
// stood around it, and can be made again; or there is no edit.
func FuzzSetField(f *testing.F) {
	for _, s := range []string{
		head, head + "containerRuntimeEndpoint: x # y\n", "{\"kind\": \"K\",\n\t\"containerRuntimeEndpoint\": \"\"}", "containerRuntimeEndpoint:\r\nkind: x\r\n",
		"é: ü\ncontainerRuntimeEndpoint: 'a''b'\n", "{}", "{a: b}", "- a", "? containerRuntimeEndpoint\n: x", "  a: 1\n  b: 2\n", "containerRuntimeEndpoint: !!str x",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		after, err := setField(data, runtimeField, ours)
		if err != nil {
			return
		}
		d, err := parseFields(after)
		if err != nil {
			t.Fatal(err)
		}
		if value, err := d.get(runtimeField); err != nil || value != ours {
			t.Fatalf("%q, %v", value, err)
		}
		if again, err := setField(after, runtimeField, ours); err != nil || !bytes.Equal(again, after) {
			t.Errorf("set twice: %q, then %q (%v)", after, again, err)
		}
	})
}

// FuzzEnvironment: an environment file's flag is changed to what was asked for, or not at all.
func FuzzEnvironment(f *testing.F) {
	for _, s := range []string{
		"A=--container-runtime-endpoint=x", "A=\"--container-runtime-endpoint \\\"x\\\" --b\"\nB=1", "A='--container-runtime-endpoint=x\\y'", "A=--container-runtime-endpoint=\\\nx",
		"A=\"--container-runtime-endpoint='x'y\"",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		found := func(data []byte) (source, bool) {
			env, err := parseEnv("/e", data)
			if err != nil {
				return source{}, false
			}
			split, err := words(env.vars["A"])
			if err != nil {
				return source{}, false
			}
			return (command{words: split}).source(runtimeFlag)
		}
		s, ok := found(data)
		if !ok || s.set == nil {
			return
		}
		after, err := s.set(data, ours)
		if err != nil {
			return
		}
		if is, ok := found(after); !ok || is.value != ours {
			t.Errorf("%q became %q, which says %q", data, after, is.value)
		}
		if strings.Count(string(after), "\n") > strings.Count(string(data), "\n") {
			t.Errorf("%q became %q", data, after)
		}
	})
}
