package manager

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
)

// maxMessage is D-Bus's own bound for a message, in bytes.
const maxMessage = 128 << 20

// whole hands the D-Bus library messages that have arrived as a whole. The library panics, in a goroutine of its own, when a
// connection ends in the middle of one; systemd sends its signals to everybody, and so also while a connection is being closed.
type whole struct {
	net.Conn
	begun   bool // greetings are lines, and before all messages
	message bytes.Buffer
}

func (w *whole) Write(data []byte) (int, error) {
	if bytes.Equal(data, []byte("BEGIN\r\n")) {
		w.begun = true
	}
	return w.Conn.Write(data)
}

func (w *whole) Read(into []byte) (int, error) {
	if !w.begun {
		return w.Conn.Read(into)
	}
	if w.message.Len() == 0 {
		if err := w.next(); err != nil {
			w.message.Reset()
			return 0, err
		}
	}
	return w.message.Read(into)
}

// next reads one message: 16 bytes that are always there, of which the last four say how long the header's fields are, which
// are followed by zeros up to a multiple of 8, and then a body of the length that bytes 4 to 7 say.
func (w *whole) next() error {
	var head [16]byte
	if _, err := io.ReadFull(w.Conn, head[:]); err != nil {
		return err
	}
	var order binary.ByteOrder = binary.LittleEndian
	if head[0] == 'B' {
		order = binary.BigEndian
	}
	body, fields := uint64(order.Uint32(head[4:])), uint64(order.Uint32(head[12:]))
	rest := (fields+7)/8*8 + body
	if rest > maxMessage {
		return errors.New("a message that is longer than D-Bus allows")
	}
	w.message.Reset()
	w.message.Write(head[:])
	_, err := io.CopyN(&w.message, w.Conn, int64(rest))
	return err
}
