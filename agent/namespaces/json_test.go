package namespaces

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// filled is a file of full size: head, as many pieces as there is room for, and tail.
func filled(head, piece, tail string) []byte {
	n := (maxSize - len(head) - len(tail)) / len(piece)
	return []byte(head + strings.Repeat(piece, n) + tail)
}

// The file is read before the agent has its socket: one that takes memory or time without end takes the runtime from the node, and
// again after each start.
func TestAFileOfOthersCannotKeepTheAgentFromStarting(t *testing.T) {
	keys := &strings.Builder{}
	for i := 0; keys.Len() < maxSize-200; i++ {
		fmt.Fprintf(keys, `"%d":0,`, i)
	}
	const list = `{"apiVersion":"v1","kind":"NamespaceList","items":[`
	for name, tc := range map[string]struct {
		data []byte
		says string // empty: it is good
	}{
		"labels without end":   {[]byte(list + `{"metadata":{"name":"a","labels":{` + keys.String() + `"z":"z"}}}]}`), ""},
		"keys without end":     {[]byte(`{` + keys.String() + `"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}}`), ""},
		"values of no matter":  {filled(`{"x":[`, `{},`, `0],"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}}`), ""},
		"items without a name": {[]byte(list + `{}]}`), "without a name"},
		"more than there are":  {filled(list, `{"metadata":{"name":"a"}},`, `{"metadata":{"name":"a"}}]}`), "more than 65536 namespaces"},
		"documents":            {filled(``, `{"apiVersion":"v1"}`, ``), "more than 65536 namespaces"},
		"depth":                {filled(`{"x":`, `[`, ``), "exceeded max depth"},
		"depth of objects":     {filled(``, `{"items":[`, ``), "exceeded max depth"},
		"YAML":                 {filled("apiVersion: v1\nkind: List\nitems: [", "{a},", "]\n"), "has to be JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			listed, err := Parse(tc.data, false)
			runtime.ReadMemStats(&after)
			if tc.says == "" && (err != nil || len(listed) != 1) || tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)) {
				t.Errorf("%v, want %q", err, tc.says)
			}
			if taken := (after.TotalAlloc - before.TotalAlloc) / maxSize; taken > 32 {
				t.Errorf("%d times its size was allocated", taken)
			}
		})
	}
}

func TestWhatOthersWriteInJSON(t *testing.T) {
	for text, want := range map[string]map[string]bool{
		`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a","labels":null},"spec":{"x":[{}]},"status":null}`: {"a": false},
		`{"metadata":{"labels":{"policy.sigstore.dev/include":"true"},"name":"a"},"kind":"Namespace","apiVersion":"v1"}
		 {"apiVersion":"v1","kind":"List","items":null}`: {"a": true},
		// The same told twice: what says that images are judged holds.
		`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a","labels":{"policy.sigstore.dev/include":"true"},"labels":{}}}`:                                     {"a": true},
		`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a","labels":{"policy.sigstore.dev/include":"true","policy.sigstore.dev/include":"false"}}}`:           {"a": true},
		`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"},"metadata":{"labels":{"policy.sigstore.dev/include":"true"}}}`:                                    {"a": true},
		`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"},"metadata":{"name":"b"}}`:                                                                         nil,
		`{"apiVersion":"v1","kind":"Namespace","Metadata":{"name":"a"}}`:                                                                                                 nil,
		`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":7}}`:                                                                                                   nil,
		`{"apiVersion":"v1","kind":"Namespace","metadata":[]}`:                                                                                                           nil,
		`{"apiVersion":"v1","kind":"List","items":{}}`:                                                                                                                   nil,
		`{"apiVersion":"v1","kind":"List","items":[{"kind":"List","items":[{"kind":"Namespace","metadata":{"name":"a"}}]}]}`:                                             nil,
		`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}}]`:                                                                                                nil,
		`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a","labels":{"policy.sigstore.dev/include":true}}}`:                                                   nil,
		"{\"apiVersion\":\"v1\",\"kind\":\"NamespaceList\",\"items\":[{\"metadata\":{\"name\":\"a\"}},{\"metadata\":{\"name\":\"b\",\"labels\":{\"x\":\"true\"}}}]}\n\n": {"a": false, "b": false},
	} {
		listed, err := Parse([]byte(text), false)
		if diff := cmp.Diff(want, listed); diff != "" || (err == nil) != (want != nil) {
			t.Errorf("%s: %v\n%s", text, err, diff)
		}
	}
}
