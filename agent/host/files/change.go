// Package files reads and changes the files of a host, below the folder at which the host's root is mounted.
//
// A [Change] is a file as it is and as it shall be, so that what will be done can be shown before it is done, and
// undone afterwards. What it promises: a reader of a changed file sees the old text or the new one and never a part
// (temporary file, fsync, rename); a file that is there keeps its mode, its owner and its SELinux label; a file that
// is no longer as the change found it is not written; and no link leads out of the host's root: absolute links are
// the host's own, whatever process looks at them.
package files

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"unicode"

	"github.com/pmezard/go-difflib/difflib"
)

// Change is one file of a host as it is and as it shall be. With Before and After exchanged it is its own undoing.
type Change struct {
	// Path is absolute, as the host sees it: without the folder at which the host's root is mounted.
	Path string
	// Before and After are the file's bytes; nil: there is no file. An empty file is empty and not nil.
	Before, After []byte
	// BeforeLink and AfterLink are where Path leads if it is, or shall be, a symbolic link. Where both are empty and
	// Path is a link, what it leads to is changed and the link stays.
	BeforeLink, AfterLink string
	// Mode is that of a file that is made anew; 0 is 0644. A file that is there keeps its own.
	Mode fs.FileMode
	// Secret keeps the text out of a diff.
	Secret bool
}

// Nothing says that the change changes nothing.
func (c Change) Nothing() bool {
	return c.BeforeLink == c.AfterLink && (c.Before == nil) == (c.After == nil) && bytes.Equal(c.Before, c.After)
}

// Undo is the change that takes this one back.
func (c Change) Undo() Change {
	c.Before, c.After = c.After, c.Before
	c.BeforeLink, c.AfterLink = c.AfterLink, c.BeforeLink
	return c
}

func (c Change) link() bool { return c.BeforeLink != "" || c.AfterLink != "" }

func (c Change) check() error {
	switch {
	case !path.IsAbs(c.Path) || path.Clean(c.Path) != c.Path || c.Path == "/":
		return fmt.Errorf("%q is not the absolute path of a file", c.Path)
	case c.BeforeLink != "" && c.Before != nil, c.AfterLink != "" && c.After != nil:
		return fmt.Errorf("%s cannot be a file and a link at once", c.Path)
	}
	return nil
}

// ChangedError says that a file is not as it was when the change was thought out: somebody else wrote it since.
type ChangedError struct{ Path string }

func (e *ChangedError) Error() string {
	return fmt.Sprintf("%s was changed by somebody else in the meantime: look at it, and try again", e.Path)
}

// Hash is how a file's bytes are remembered, in hexadecimal.
func Hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Diff shows the change as `diff -u` would; "" if it changes nothing. Text of a file is shown escaped, because a
// terminal obeys what is printed on it.
func (c Change) Diff() string {
	switch {
	case c.Nothing():
		return ""
	case c.link():
		return fmt.Sprintf("--- %s\n+++ %s\n%s%s", side(c.BeforeLink == "" && c.Before == nil, c.Path), side(c.AfterLink == "" && c.After == nil, c.Path),
			linkLine("-", c.BeforeLink), linkLine("+", c.AfterLink))
	case c.Secret:
		return fmt.Sprintf("--- %s\n+++ %s\n(not shown)\n", side(c.Before == nil, c.Path), side(c.After == nil, c.Path))
	}
	text, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: lines(c.Before), B: lines(c.After),
		FromFile: side(c.Before == nil, c.Path), ToFile: side(c.After == nil, c.Path),
		Context: 3,
	})
	if err != nil {
		return fmt.Sprintf("--- %s\n(no diff: %v)\n", c.Path, err)
	}
	if text == "" { // an empty file that appears or goes
		text = fmt.Sprintf("--- %s\n+++ %s\n", side(c.Before == nil, c.Path), side(c.After == nil, c.Path))
	}
	return text
}

func linkLine(sign, to string) string {
	if to == "" {
		return ""
	}
	return sign + "-> " + printable(to) + "\n"
}

func side(absent bool, name string) string {
	if absent {
		return "/dev/null"
	}
	return printable(name)
}

func lines(data []byte) []string {
	if len(data) == 0 {
		return nil
	}
	all := strings.SplitAfter(printable(string(data)), "\n")
	if last := len(all) - 1; all[last] == "" {
		all = all[:last]
	} else {
		all[last] += "\n\\ no newline at the end of the file\n"
	}
	return all
}

// printable escapes what is not to be printed, lines and tabs aside.
func printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			b.WriteRune(r)
			continue
		}
		fmt.Fprintf(&b, "\\u%04x", r)
	}
	return b.String()
}

// errNotRegular says that something in a file's place is none.
var errNotRegular = errors.New("is not a regular file")
