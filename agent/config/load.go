package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v3"

	"github.com/cosentry/cosentry/verify/rescue"
)

// maxSize bounds the settings file. A real one is under 2 KiB.
const maxSize = 1 << 20

// FaultyError says that a settings file was read and cannot be used.
type FaultyError struct {
	Path string
	Err  error // all faults that were found, a line each
}

func (e *FaultyError) Error() string { return fmt.Sprintf("settings %s: %v", e.Path, e.Err) }
func (e *FaultyError) Unwrap() error { return e.Err }

// Load reads the settings at path. An empty path gives the defaults. Its error is a *FaultyError if
// the file could be read.
func Load(path string) (Config, error) {
	c, _, err := Read(path)
	return c, err
}

// Read is Load, and gives the bytes that the settings are made of.
func Read(path string) (Config, []byte, error) {
	if path == "" {
		return Default(), nil, nil
	}
	data, err := read(path)
	if err != nil {
		return Config{}, nil, err
	}
	c, err := parse(data)
	if err != nil {
		return Config{}, nil, &FaultyError{Path: path, Err: err}
	}
	return c, data, nil
}

// parse is Parse where a panic would take the runtime's socket from the node.
func parse(data []byte) (c Config, err error) {
	err = rescue.Do(nil, "reading the settings", func() (err error) { c, err = Parse(data); return err })
	return c, err
}

// read opens without waiting: a pipe in the file's place would hang the start for ever.
func read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("reading settings: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading settings: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("reading settings: %s is not a regular file (%s)", path, info.Mode().Type())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading settings: %w", err)
	}
	if len(data) > maxSize {
		return nil, &FaultyError{Path: path, Err: fmt.Errorf("the file is larger than %d bytes", maxSize)}
	}
	return data, nil
}

// Parse reads one NodeConfig document; what it leaves out keeps its default.
func Parse(data []byte) (Config, error) {
	c := Default()
	c.APIVersion, c.Kind = "", "" // must be said
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil {
		if errors.Is(err, io.EOF) {
			return Config{}, errors.New("the file is empty: it must at least say apiVersion and kind")
		}
		return Config{}, inWords(err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return Config{}, errors.New("more than one document: a node has one NodeConfig")
	}
	return c, c.validate()
}

// How yaml says that a key is not known, and that a value is of another kind than its setting.
var (
	unknownField = regexp.MustCompile(`field (\S+) not found in type \S+`)
	wrongKind    = regexp.MustCompile("cannot unmarshal !!(\\S+)(?: `(.*)`)? into (\\S+)$")
)

// inWords lists what is wrong, each with its line, without naming Go types.
func inWords(err error) error {
	var typed *yaml.TypeError
	if !errors.As(err, &typed) {
		return err
	}
	var faults []error
	for _, text := range typed.Errors {
		text = unknownField.ReplaceAllString(text, "unknown setting $1; docs/settings.md lists them")
		faults = append(faults, errors.New(wrongKind.ReplaceAllStringFunc(text, kindInWords)))
	}
	return errors.Join(faults...)
}

func kindInWords(text string) string {
	part := wrongKind.FindStringSubmatch(text)
	have, ok := map[string]string{"seq": "a list", "map": "a group of settings"}[part[1]]
	if !ok {
		have = fmt.Sprintf("%q", part[2])
	}
	want := "text"
	switch {
	case part[3] == "bool":
		want = "true or false"
	case part[3] == "config.Globs" || part[3] == "config.RootFiles":
		want = "a list"
	case strings.HasPrefix(part[3], "config.") && part[3] != "config.Mode":
		want = "a group of settings, one a line"
	}
	return have + " stands where " + want + " belongs"
}
