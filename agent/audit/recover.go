package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// state is what the files on disk say about where writing goes on.
type state struct {
	last  Head   // last record that is sound by itself; genesis if there is none
	first uint64 // seq of the current file's first sound record, 0 without one
	size  int64  // end of the current file's last whole line
	torn  int64  // bytes after that
}

// readState finds the place to go on from: the last record that is
// sound by itself in the current file, or in the newest rotated file that has one.
//
// Whole lines after it that are not records are damage or tampering, not a
// crash. They stay where they are for VerifyDir to find: what Open
// tidied away nobody would look for.
func readState(dir string) (state, error) {
	s, err := readFileState(filepath.Join(dir, currentName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return state{}, err
	}
	if s.last.Seq > 0 {
		return s, nil
	}
	rotated, err := listRotated(dir)
	if err != nil {
		return state{}, err
	}
	for i := len(rotated) - 1; i >= 0; i-- {
		old, err := readFileState(filepath.Join(dir, rotated[i]))
		if err != nil {
			return state{}, err
		}
		if old.last.Seq > 0 {
			s.last = old.last
			return s, nil
		}
	}
	s.last = genesis
	return s, nil
}

func readFileState(path string) (state, error) {
	f, err := openRead(path)
	if err != nil {
		return state{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return state{}, fmt.Errorf("reading audit log: %w", err)
	}
	s, err := readTail(f, info.Size())
	if err != nil || s.last.Seq == 0 {
		return s, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return state{}, fmt.Errorf("reading audit log: %w", err)
	}
	in := newLines(f)
	for {
		line, err := in.next()
		if err == io.EOF || errors.Is(err, errTorn) {
			return s, nil
		}
		if err != nil && !errors.Is(err, errLong) {
			return state{}, err
		}
		if head, _, err := parseLine(line); err == nil {
			s.first = head.Seq
			return s, nil
		}
	}
}

// readTail looks at the last two lines' worth of bytes first: a start must not
// take longer the larger the file is. Only when no record is there it reads all of it.
func readTail(f *os.File, size int64) (state, error) {
	tail := make([]byte, min(size, 2*maxLine))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil && err != io.EOF {
		return state{}, fmt.Errorf("reading audit log: %w", err)
	}
	if end := bytes.LastIndexByte(tail, '\n') + 1; end > 0 {
		s := state{size: size - int64(len(tail)-end), torn: int64(len(tail) - end)}
		start := bytes.LastIndexByte(tail[:end-1], '\n') + 1
		if head, _, err := parseLine(tail[start : end-1]); err == nil {
			s.last = head
			return s, nil
		}
	}
	s := state{}
	in := newLines(f)
	for {
		line, err := in.next()
		s.size, s.torn = in.off, in.torn
		if err == io.EOF || errors.Is(err, errTorn) {
			return s, nil
		}
		if err != nil && !errors.Is(err, errLong) {
			return state{}, err
		}
		if head, _, err := parseLine(line); err == nil {
			s.last = head
		}
	}
}
