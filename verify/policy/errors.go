package policy

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Errors is every fault found in the policies that were read. It is never
// empty when returned.
type Errors []Fault

// Fault is one thing that is wrong with a policy file.
type Fault struct {
	File string
	// Line counts from 1; 0 where the fault is the file's own.
	Line int
	// Field is the path to the field, such as spec.authorities[0].key.data;
	// empty where the fault belongs to no field.
	Field string
	// Text says what is wrong and what to do about it. Text taken from the file
	// is quoted and cut.
	Text string
}

// String is the fault as file:line: field: text.
func (f Fault) String() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(plain(f.File))
		if f.Line > 0 {
			b.WriteString(":" + strconv.Itoa(f.Line))
		}
		b.WriteString(": ")
	}
	if f.Field != "" {
		b.WriteString(f.Field + ": ")
	}
	b.WriteString(f.Text)
	return b.String()
}

// Error lists the faults, one a line, cut at 16 KiB with the number of those
// left out.
func (e Errors) Error() string {
	var b strings.Builder
	for i, f := range e {
		line := f.String()
		if b.Len()+len(line) > maxErrorText {
			fmt.Fprintf(&b, "\nand %d more", len(e)-i)
			break
		}
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(line)
	}
	return b.String()
}

// add records a fault, up to maxFaults: a hostile file must not fill memory
// with complaints about itself.
func (e *Errors) add(f Fault) {
	switch {
	case len(*e) < maxFaults:
		*e = append(*e, f)
	case len(*e) == maxFaults:
		*e = append(*e, Fault{File: f.File, Text: "more faults follow: mend these first"})
	}
}

// inOrder puts the faults of each file in order of their lines, what is the file's own after them. What add says about
// those left out stays last.
func (e Errors) inOrder() {
	line := func(f Fault) int {
		if f.Line == 0 {
			return math.MaxInt
		}
		return f.Line
	}
	slices.SortStableFunc(e[:min(len(e), maxFaults)], func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(line(a), line(b)))
	})
}

// quote shows foreign text: escaped, so that it cannot forge a line of a log,
// and cut.
func quote(s string) string {
	if len(s) <= maxQuoted {
		return strconv.QuoteToASCII(s)
	}
	cut := maxQuoted
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strconv.QuoteToASCII(s[:cut]) + "…"
}

// plain leaves ordinary text as it is and quotes the rest.
func plain(s string) string {
	if q := strconv.QuoteToASCII(s); q != `"`+s+`"` || len(s) > maxNameLen {
		return quote(s)
	}
	return s
}
