package manager

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
)

// signal is a message as systemd sends them to everybody.
func signal(t *testing.T) []byte {
	t.Helper()
	m := dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath: dbus.MakeVariant(dbus.ObjectPath("/org/freedesktop/systemd1")), dbus.FieldInterface: dbus.MakeVariant("org.freedesktop.systemd1.Manager"),
		dbus.FieldMember: dbus.MakeVariant("UnitNew"), dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf("")),
	}, Body: []any{strings.Repeat("x", 100)}}
	var text bytes.Buffer
	if err := m.EncodeTo(&text, binary.LittleEndian); err != nil {
		t.Fatal(err)
	}
	return text.Bytes()
}

// TestConnectionThatEndsWithinAMessage: wherever that is, it is an error and no panic of the library.
func TestConnectionThatEndsWithinAMessage(t *testing.T) {
	message := signal(t)
	for n := range len(message) + 1 {
		here, there := net.Pipe()
		go func() {
			_, _ = there.Write(message)     // a whole one first
			_, _ = there.Write(message[:n]) // the reader may be gone
			there.Close()
		}()
		w := &whole{Conn: here, begun: true}
		if _, err := dbus.DecodeMessage(w); err != nil {
			t.Fatalf("the message before: %v", err)
		}
		_, err := dbus.DecodeMessage(w)
		if whole := n == len(message); whole != (err == nil) {
			t.Errorf("%d of %d bytes: %v", n, len(message), err)
		}
		here.Close()
	}
}

func TestMessageLongerThanAllowed(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	go func() {
		head := signal(t)[:16]
		binary.LittleEndian.PutUint32(head[4:], 1<<31)
		_, _ = there.Write(head)
		there.Close()
	}()
	_, err := (&whole{Conn: here, begun: true}).Read(make([]byte, 1))
	if err == nil || errors.Is(err, io.EOF) || !strings.Contains(err.Error(), "longer") {
		t.Errorf("got %v", err)
	}
}
