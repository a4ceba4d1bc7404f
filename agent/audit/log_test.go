package audit

import (
	"fmt"
	"testing"
)

func sample(i int) Record {
	return Record{
		Node: "node-a", Action: ActionCreate, Decision: DecisionDeny,
		Pod:       Pod{Namespace: "prod", Name: fmt.Sprintf("web-%d", i), UID: "0e7c1d7e-0000-4000-8000-000000000001"},
		Container: "app", Image: "registry.example/app:1.2",
		Digest:   "sha256:ab12cd34ab12cd34ab12cd34ab12cd34ab12cd34ab12cd34ab12cd34ab12cd34",
		Policies: []PolicyResult{{Policy: "prod-signed", Mode: "enforce", Result: "fail", Authority: "release-key", KeyFingerprint: "SHA256:abcdef", Reason: "no signature by this key"}},
		Reason:   "refused by policy prod-signed", Mode: "enforce", Duration: 1500000, Revision: "r1",
	}
}

func BenchmarkAppend(b *testing.B) {
	l, err := Open(Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	r := sample(1)
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Append(r); err != nil {
			b.Fatal(err)
		}
	}
}
