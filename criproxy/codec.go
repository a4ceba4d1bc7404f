package criproxy

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/mem"
)

// frame is one gRPC message as it came from the wire, not looked into.
//
// A full frame owns one reference to its buffers. Marshal passes that reference
// on to gRPC; release gives it back where nothing was sent. Either may be
// followed by the other, so that "defer f.release()" is right on every path.
type frame struct {
	data mem.BufferSlice
	full bool
}

// frameOf makes a full frame of bytes that nothing else refers to.
func frameOf(b []byte) *frame {
	return &frame{data: mem.BufferSlice{mem.SliceBuffer(b)}, full: true}
}

// release gives the buffers back. It is safe to call more than once.
func (f *frame) release() {
	if f.full {
		f.data.Free()
	}
	f.data, f.full = nil, false
}

// bytes returns the content in one piece, for reading only, and a function that
// must be called when it is no longer read.
func (f *frame) bytes() ([]byte, func()) {
	buf := f.data.MaterializeToBuffer(mem.DefaultBufferPool())
	return buf.ReadOnlyData(), buf.Free
}

// rawCodec moves frames between connections without copying or decoding them.
//
// It is forced on both sides, and it must call itself "proto": any other name
// would be put on the wire as application/grpc+<name>, which no runtime knows.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

// Marshal hands the frame's buffers to gRPC, which frees them. A frame can be
// sent once; a second time would put an empty message, that is a request with
// every field at its default, in the place of the one that was read.
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*frame)
	if !ok {
		return nil, fmt.Errorf("raw codec cannot send a %T", v)
	}
	if !f.full {
		return nil, errors.New("raw codec cannot send a frame that was sent or never filled")
	}
	data := f.data
	f.data, f.full = nil, false
	return data, nil
}

// Unmarshal keeps the buffers. gRPC frees its own reference when this returns,
// so the frame takes one for itself.
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("raw codec cannot receive into a %T", v)
	}
	f.release()
	data.Ref()
	f.data, f.full = data, true
	return nil
}
