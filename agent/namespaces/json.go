package namespaces

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxNamespaces bounds those of a file. Ten thousand are what Kubernetes is made for.
const maxNamespaces = 1 << 16

// decodeJSON reads all documents of data. What sync writes is read in this form alone: a sync that was taken over chooses each byte,
// and the agent reads the file before it has its socket. So a value that is of no interest is passed over where it stands, and time and
// memory grow with the bytes of the file and with nothing else: neither with how many keys an object has nor with how many values there are.
func decodeJSON(data []byte) (objects []*object, err error) {
	r := &reader{dec: json.NewDecoder(bytes.NewReader(data))}
	for {
		var o object
		err := r.object(true, func(key string) error { return r.field(&o, key, true) })
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		if err := r.another(); err != nil {
			return nil, err
		}
		objects = append(objects, &o)
	}
}

// reader reads objects piece by piece.
type reader struct {
	dec   *json.Decoder
	over  json.RawMessage // what was passed over last: its room is used again
	found int
}

// another counts an object that is kept.
func (r *reader) another() error {
	if r.found++; r.found > maxNamespaces {
		return fmt.Errorf("more than %d namespaces", maxNamespaces)
	}
	return nil
}

// field reads what belongs to a key of a namespace or, if it may have items, of a list of them.
func (r *reader) field(o *object, key string, list bool) error {
	switch {
	case key == "apiVersion":
		return r.text(key, &o.APIVersion)
	case key == "kind":
		return r.text(key, &o.Kind)
	case key == "metadata":
		return r.object(false, func(key string) error { return r.metadata(o, key) })
	case key == "items" && list:
		return r.items(o)
	}
	return r.pass()
}

func (r *reader) metadata(o *object, key string) error {
	switch key {
	case "name":
		return r.text(key, &o.Metadata.Name)
	case "labels":
		return r.object(false, func(key string) error {
			if key != include {
				return r.pass()
			}
			value := ""
			err := r.text(key, &value)
			if value == included { // told twice, it is labelled if it is so once
				o.Metadata.Labels = map[string]string{include: value}
			}
			return err
		})
	}
	return r.pass()
}

func (r *reader) items(o *object) error {
	start, err := r.token()
	if start == nil || err != nil {
		return err
	}
	if start != json.Delim('[') {
		return fmt.Errorf("items: %s where a list should begin", sort(start))
	}
	for r.dec.More() {
		var item object
		if err := r.object(false, func(key string) error { return r.field(&item, key, false) }); err != nil {
			return err
		}
		if err := r.another(); err != nil {
			return err
		}
		o.Items = append(o.Items, item)
	}
	_, err = r.token()
	return err
}

// object calls field with each key of an object, to read what belongs to it. null is an object without keys. Before the first byte
// of a document the end of the input is io.EOF.
func (r *reader) object(document bool, field func(key string) error) error {
	start, err := r.dec.Token()
	switch {
	case document && err == io.EOF:
		return io.EOF
	case err != nil:
		return cutOff(err)
	case start == nil:
		return nil
	case start != json.Delim('{'):
		return fmt.Errorf("%s where an object should begin", sort(start))
	}
	for r.dec.More() {
		key, err := r.token()
		if err != nil {
			return err
		}
		name, _ := key.(string)
		if err := field(name); err != nil {
			return err
		}
	}
	_, err = r.token()
	return err
}

// text reads a string that is told once.
func (r *reader) text(key string, to *string) error {
	value, err := r.token()
	if value == nil || err != nil {
		return err
	}
	s, ok := value.(string)
	if !ok {
		return fmt.Errorf("%s: %s where text should be", key, sort(value))
	}
	if *to != "" {
		return fmt.Errorf("%s twice", key)
	}
	*to = s
	return nil
}

func (r *reader) pass() error { return cutOff(r.dec.Decode(&r.over)) }

func (r *reader) token() (json.Token, error) {
	t, err := r.dec.Token()
	return t, cutOff(err)
}

// sort says what a value is. Its own text is a stranger's.
func sort(t json.Token) string {
	switch t := t.(type) {
	case json.Delim:
		return t.String()
	case string:
		return "text"
	case bool:
		return "true or false"
	}
	return "a number"
}

// cutOff is an error inside a document: there, the end of the input is one.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
