package limits_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/cosentry/cosentry/verify/limits"
)

// zeros is an endless stream.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestReadAllErrsAndNeverTruncates(t *testing.T) {
	max := limits.Payload.Max()
	for _, c := range []struct {
		name string
		from io.Reader
		want int64 // -1: exceeded
	}{
		{"empty", strings.NewReader(""), 0},
		{"exactly the bound", bytes.NewReader(make([]byte, max)), max},
		{"exactly the bound, in single bytes' company", iotest.HalfReader(bytes.NewReader(make([]byte, max))), max},
		{"exactly the bound, end told with the data", iotest.DataErrReader(bytes.NewReader(make([]byte, max))), max},
		{"one byte beyond", bytes.NewReader(make([]byte, max+1)), -1},
		{"one byte beyond, end told with the data", iotest.DataErrReader(bytes.NewReader(make([]byte, max+1))), -1},
		{"endless", zeros{}, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			data, err := limits.Payload.ReadAll(c.from)
			if c.want >= 0 {
				if err != nil || int64(len(data)) != c.want {
					t.Fatalf("got %d bytes, %v; want %d bytes", len(data), err, c.want)
				}
				return
			}
			var exceeded *limits.Exceeded
			if !errors.As(err, &exceeded) || exceeded.Bound != limits.Payload {
				t.Fatalf("got %v, want the payload bound", err)
			}
			if data != nil {
				t.Fatalf("%d bytes were given beside the error", len(data))
			}
		})
	}
}

func TestReaderKeepsFailing(t *testing.T) {
	r := limits.Payload.Reader(zeros{})
	if _, err := io.Copy(io.Discard, r); err == nil {
		t.Fatal("an endless stream was read to its end")
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Fatalf("after the bound: %d bytes, %v", n, err)
	}
}

func TestReadAllPassesOtherErrors(t *testing.T) {
	boom := errors.New("boom")
	if _, err := limits.Manifest.ReadAll(iotest.ErrReader(boom)); !errors.Is(err, boom) {
		t.Fatalf("got %v", err)
	}
}

func TestCheckAndWords(t *testing.T) {
	if err := limits.Signatures.Check(128); err != nil {
		t.Errorf("128 signatures: %v", err)
	}
	err := limits.Signatures.Check(129)
	if err == nil || !strings.Contains(err.Error(), "number of signatures") || !strings.Contains(err.Error(), "128") {
		t.Errorf("129 signatures: %v; want the bound named", err)
	}
}

// TestCountElements: never fewer than what encoding/json makes of a document.
func TestCountElements(t *testing.T) {
	for document, want := range map[string]int64{
		``: 0, `1`: 0, `{}`: 1, `[{},{},{}]`: 6, `{"a":"","b":""}`: 2,
		`{"a":[1,2],"b":{"c":null}}`:      5,
		`{"a,{[":"\",[{","b\\":",{["}`:    2,
		`["\\",{}]`:                       3,
		`{"a":"` + "\\\\" + `","b":[{}]}`: 4,
	} {
		if got := limits.CountElements([]byte(document)); got != want {
			t.Errorf("%s: %d, want %d", document, got, want)
		}
	}
}

func FuzzCountElements(f *testing.F) {
	for _, seed := range []string{`{}`, `[1,[2,{"a":"\"","b":[]}]]`, `"\\"`, `{"\u0022,":","}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, document string) {
		var parsed any
		if json.Unmarshal([]byte(document), &parsed) != nil {
			return
		}
		if got, values := limits.CountElements([]byte(document)), countValues(parsed); got+1 < values {
			t.Errorf("%q: %d elements where there are %d values", document, got, values)
		}
	})
}

func countValues(v any) int64 {
	n := int64(1)
	switch v := v.(type) {
	case []any:
		for _, one := range v {
			n += countValues(one)
		}
	case map[string]any:
		for _, one := range v {
			n += countValues(one)
		}
	}
	return n
}

// TestCountAddsUpRepeatedNames: whoever parses a list twice has made values of the first one as well.
func TestCountAddsUpRepeatedNames(t *testing.T) {
	for document, want := range map[string]limits.Count{
		`{}`: 0, `{"subject":null}`: 0, `{"other":[{},{},{}]}`: 0, `{"subject":[{},{}]}`: 4,
		`{"subject":[{},{}],"SUBJECT":[],"subject":[{}]}`: 7,
	} {
		var s struct {
			Subject limits.Count `json:"subject"`
		}
		if err := json.Unmarshal([]byte(document), &s); err != nil || s.Subject != want {
			t.Errorf("%s: %d, %v; want %d", document, s.Subject, err, want)
		}
	}
}

func TestSumRefusesWhatIsBeyondAndKeepsOnCounting(t *testing.T) {
	s := limits.Sum{Bytes: limits.Material}
	bytes, elements := limits.Material.Max(), limits.Elements.Max()
	whole := make([]byte, bytes) // one blob, of which each piece is a repeat
	s.Takes(whole, 0)
	for i, c := range []struct {
		bytes, elements int64
		want            bool
	}{{bytes - 2, 0, true}, {3, 0, false}, {0, elements + 1, false}, {1, elements, true}, {1, 1, false}, {1, 0, true}, {1, 0, false}, {0, 0, true}} {
		if got := s.Takes(whole[:c.bytes], c.elements); got != c.want {
			t.Errorf("%d: %v", i, got)
		}
	}
}

// What is named for the first time was counted when it was read: another's repeated blob does not crowd it out.
func TestSumCountsRepeatsAlone(t *testing.T) {
	s := limits.Sum{Bytes: limits.Material}
	large, good := make([]byte, limits.Material.Max()), []byte("a good one")
	for i, c := range []struct {
		blob []byte
		want bool
	}{{large, true}, {large, true}, {large, false}, {good, true}, {good, false}, {[]byte("another"), true}} {
		if got := s.Takes(c.blob, 1); got != c.want {
			t.Errorf("%d: %v", i, got)
		}
	}
}
