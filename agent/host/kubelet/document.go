package kubelet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The fields of a KubeletConfiguration that name a socket.
const (
	runtimeField = "containerRuntimeEndpoint"
	imageField   = "imageServiceEndpoint"
)

// document is a KubeletConfiguration as YAML or JSON, which is YAML too.
type document struct {
	data []byte
	root *yaml.Node
}

// parseDocument reads one KubeletConfiguration and refuses everything else.
func parseDocument(data []byte) (document, error) {
	d, err := parseFields(data)
	if err != nil {
		return document{}, err
	}
	for _, want := range [][2]string{{"kind", "KubeletConfiguration"}, {"apiVersion", "kubelet.config.k8s.io/v1beta1"}} {
		value, err := d.get(want[0])
		if err != nil {
			return document{}, err
		}
		if value != want[1] {
			return document{}, fmt.Errorf("%s is %s, not %s", want[0], shown(value), want[1])
		}
	}
	return d, nil
}

// parseFields reads one object, with or without a kind: kubeadm's instance-config.yaml has none. Of several documents it
// would be unclear which one counts.
func parseFields(data []byte) (document, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var node, more yaml.Node
	if err := decoder.Decode(&node); err != nil {
		return document{}, fmt.Errorf("not YAML or JSON: %w", err)
	}
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		return document{}, errors.New("more than one YAML document")
	}
	if len(node.Content) != 1 || node.Content[0].Kind != yaml.MappingNode || len(node.Content[0].Content) == 0 {
		return document{}, errors.New("no object with fields")
	}
	return document{data: data, root: node.Content[0]}, nil
}

// node finds a field's key and value; nil where it is not there.
func (d document) node(field string) (key, value *yaml.Node, err error) {
	for i := 0; i+1 < len(d.root.Content); i += 2 {
		switch k := d.root.Content[i]; {
		case k.Tag == "!!merge":
			return nil, nil, errors.New("a merge key (<<), which may hold any field")
		case k.Value != field:
		case key != nil:
			return nil, nil, fmt.Errorf("%s is there twice", field)
		default:
			key, value = k, d.root.Content[i+1]
		}
	}
	return key, value, nil
}

// get reads a field of text; empty where it is absent, null or empty, which kubelet holds to be the same.
func (d document) get(field string) (string, error) {
	_, value, err := d.node(field)
	if err != nil || value == nil || value.Kind == yaml.ScalarNode && value.Tag == "!!null" {
		return "", err
	}
	if value.Kind != yaml.ScalarNode || value.Tag != "!!str" || value.Anchor != "" {
		return "", fmt.Errorf("%s is no plain text", field)
	}
	return value.Value, nil
}

// has says whether a field is there at all: in a drop-in an empty one takes back what an earlier file set.
func (d document) has(field string) bool {
	key, _, err := d.node(field)
	return err == nil && key != nil
}

// setField gives a field a value and leaves every other byte as it is. Text is what is edited, because writing the
// parsed document anew would lose the owner's comments and order. The result is parsed and compared, so that an edit at
// a wrong place is an error.
func setField(data []byte, field, to string) ([]byte, error) {
	d, err := parseFields(data)
	if err != nil {
		return nil, err
	}
	if _, err := d.get(field); err != nil {
		return nil, err
	}
	after, err := d.edited(field, to)
	if err != nil {
		return nil, err
	}
	var was, is map[string]any
	if err := yaml.Unmarshal(data, &was); err != nil {
		return nil, err
	}
	if err := yaml.Unmarshal(after, &is); err != nil {
		return nil, fmt.Errorf("%s cannot be set by changing its value alone: %w", field, err)
	}
	was[field] = to
	if !reflect.DeepEqual(was, is) {
		return nil, fmt.Errorf("%s cannot be set by changing its value alone", field)
	}
	return after, nil
}

func (d document) edited(field, to string) ([]byte, error) {
	key, value, err := d.node(field)
	if err != nil {
		return nil, err
	}
	if key == nil {
		return d.inserted(field, to)
	}
	start, end, err := d.extent(key, value)
	if err != nil {
		return nil, err
	}
	text := to
	switch {
	case value.Style&yaml.DoubleQuotedStyle != 0:
		text = `"` + to + `"`
	case value.Style&yaml.SingleQuotedStyle != 0:
		text = "'" + to + "'"
	case d.root.Style&yaml.FlowStyle != 0:
		text = `"` + to + `"` // JSON's null
	}
	if start == end {
		text = " " + text // "field:" with nothing behind it
	}
	return splice(d.data, start, end, text), nil
}

// inserted puts a field that is not there before the first one, indented and, in JSON, separated as that is.
func (d document) inserted(field, to string) ([]byte, error) {
	first := d.root.Content[0]
	at, err := d.offset(first.Line, first.Column)
	if err != nil {
		return nil, err
	}
	if d.root.Style&yaml.FlowStyle != 0 {
		open := bytes.LastIndexByte(d.data[:at], '{')
		if open < 0 || len(bytes.TrimSpace(d.data[open+1:at])) > 0 {
			return nil, fmt.Errorf("%s cannot be added: the object does not begin with a field", field)
		}
		return splice(d.data, at, at, fmt.Sprintf("%q: %q,%s", field, to, d.data[open+1:at])), nil
	}
	line := bytes.LastIndexByte(d.data[:at], '\n') + 1
	end := "\n"
	if i := bytes.IndexByte(d.data[at:], '\n'); i > 0 && d.data[at+i-1] == '\r' {
		end = "\r\n"
	}
	return splice(d.data, line, line, string(d.data[line:at])+field+": "+to+end), nil
}

// extent is where the value's text stands, its quotes included.
func (d document) extent(key, value *yaml.Node) (start, end int, err error) {
	if value.Tag == "!!null" && value.Value == "" {
		at, err := d.offset(key.Line, key.Column)
		if err != nil {
			return 0, 0, err
		}
		colon := bytes.IndexByte(d.data[at:], ':')
		if colon < 0 {
			return 0, 0, fmt.Errorf("%s has no value", key.Value)
		}
		return at + colon + 1, at + colon + 1, nil
	}
	if start, err = d.offset(value.Line, value.Column); err != nil {
		return 0, 0, err
	}
	rest := d.data[start:]
	switch {
	case value.Style&yaml.DoubleQuotedStyle != 0 && rest[0] == '"':
		for i := 1; i < len(rest); i++ {
			switch rest[i] {
			case '\\':
				i++
			case '"':
				return start, start + i + 1, nil
			}
		}
	case value.Style&yaml.SingleQuotedStyle != 0 && rest[0] == '\'':
		if i := bytes.IndexByte(rest[1:], '\''); i >= 0 {
			return start, start + i + 2, nil
		}
	case value.Style&(yaml.LiteralStyle|yaml.FoldedStyle) == 0 && bytes.HasPrefix(rest, []byte(value.Value)):
		return start, start + len(value.Value), nil
	}
	return 0, 0, fmt.Errorf("%s is written in a way that is not edited", key.Value)
}

// offset turns the parser's line and column, which counts characters, into a place in the bytes.
func (d document) offset(line, column int) (int, error) {
	at := 0
	for ; line > 1; line-- {
		i := bytes.IndexByte(d.data[at:], '\n')
		if i < 0 {
			return 0, errors.New("lines are not told apart by newlines")
		}
		at += i + 1
	}
	for i := range string(d.data[at:]) {
		if column == 1 {
			return at + i, nil
		}
		column--
	}
	return 0, errors.New("the document ends too soon")
}

func splice(data []byte, start, end int, text string) []byte {
	var b strings.Builder
	b.Write(data[:start])
	b.WriteString(text)
	b.Write(data[end:])
	return []byte(b.String())
}
