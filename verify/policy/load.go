package policy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Load reads the policies and TrustRoots of every *.yaml, *.yml and *.json file in a folder,
// in the order of their names. Subfolders and names that begin with a dot are left out
// (a mounted ConfigMap keeps its data in one, and links to it); links to files are
// followed. A folder without policies is a valid set of none. Other files are left out, with a warning.
//
// A file that cannot be read is a fault like one that cannot be parsed: a
// policy that vanished with its file would be one not enforced. An error about
// the files' content is of type Errors and lists the faults of all of them.
func Load(dir string) (*Set, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read the policy folder: %w", err)
	}
	var all Documents
	var faults Errors
	files, rules := 0, &ruleChecks{}
	for _, e := range entries {
		if !isPolicyFile(e.Name()) {
			continue
		}
		if files++; files > MaxPolicies {
			faults.add(Fault{File: dir, Text: fmt.Sprintf("the folder holds more than %d policy files", MaxPolicies)})
			break
		}
		found, wrong := loadFile(filepath.Join(dir, e.Name()), rules)
		for _, f := range wrong {
			faults.add(f)
		}
		all.Policies = append(all.Policies, found.Policies...)
		all.TrustRoots = append(all.TrustRoots, found.TrustRoots...)
	}
	// Documents that are sound in themselves are compared even if other files are
	// not, so that one run shows everything there is to mend.
	for _, f := range check(all) {
		faults.add(f)
	}
	if len(faults) > 0 {
		faults.inOrder()
		return nil, faults
	}
	s, err := NewSet(all)
	if err != nil {
		return nil, err
	}
	s.unread = unread(dir, entries)
	return s, nil
}

// Unread warns if path is a file that a policy folder might as well not hold, because of its name, or a folder that
// holds such files: a policy that is left out is one not enforced, and nothing else says so.
func Unread(path string) []Warning {
	entries, err := os.ReadDir(path)
	if err == nil {
		return unread(path, entries)
	}
	if isPolicyFile(filepath.Base(path)) {
		return nil
	}
	return []Warning{{Source: path, Text: "in a policy folder this file is not read, because of its name: " + readNames}}
}

const readNames = "names must end in .yaml, .yml or .json, and not begin with a dot"

// unread looks at regular files and links to them alone. Hidden files are meant to be left out.
func unread(dir string, entries []fs.DirEntry) []Warning {
	var names []string
	count := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || isPolicyFile(e.Name()) {
			continue
		}
		if info, err := os.Stat(filepath.Join(dir, e.Name())); err != nil || !info.Mode().IsRegular() {
			continue
		}
		if count++; count <= maxUnread {
			names = append(names, plain(e.Name()))
		}
	}
	if count > maxUnread {
		names = append(names, fmt.Sprintf("%d more", count-maxUnread))
	}
	if count == 0 {
		return nil
	}
	return []Warning{{Source: dir, Text: "not read, because of their names: " + enumerate(names, "and") + "; " + readNames}}
}

func isPolicyFile(name string) bool {
	return !strings.HasPrefix(name, ".") &&
		slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(filepath.Ext(name)))
}

// LoadFile reads the documents of one file, with the bounds of Load: a pipe or a device is refused
// without waiting for it. An error about the file's content is of type Errors; one of
// any other type means that it could not be read.
func LoadFile(path string) (Documents, error) {
	data, err := readFile(path)
	if err != nil {
		return Documents{}, fmt.Errorf("%s: %w", path, err)
	}
	return Parse(path, data)
}

func loadFile(path string, rules *ruleChecks) (Documents, Errors) {
	data, err := readFile(path)
	if err != nil {
		return Documents{}, Errors{{File: path, Text: err.Error()}}
	}
	return parse(path, data, rules)
}

// readFile reads a regular file of at most MaxFileSize and one byte, which
// Parse then refuses. A pipe is opened without waiting for its writer, so that it is
// refused rather than hanging the agent.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, unreadable(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, unreadable(err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("not a regular file (%s), and none that policies are read from", info.Mode().Type())
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return nil, unreadable(err)
	}
	return data, nil
}

// unreadable words an error of the file system without the path, which the
// fault names already.
func unreadable(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return fmt.Errorf("the file cannot be read: %w", err)
}
