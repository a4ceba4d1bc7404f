package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	maxLine = 64 << 10      // with the newline
	maxBody = maxLine - 256 // what seq, prev and hash leave

	seqKey  = `{"seq":`
	prevKey = `,"prev":"`
	hashKey = `,"hash":"`
	hexLen  = 2 * sha256.Size
	tailLen = len(hashKey) + hexLen + len(`"}`)
)

// Head is a place in the chain: a record's number and its hash. Before the first
// record they are 0 and 64 zeros.
type Head struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"` // 64 lower-case hex digits
}

var genesis = Head{Hash: strings.Repeat("0", hexLen)}

// String gives "<seq>:<hash>", which ParseHead reads.
func (h Head) String() string { return strconv.FormatUint(h.Seq, 10) + ":" + h.Hash }

// ParseHead reads what Head.String wrote.
func ParseHead(s string) (Head, error) {
	seq, hash, ok := strings.Cut(s, ":")
	n, valid := parseSeq([]byte(seq))
	if !ok || !valid || !isHex([]byte(hash)) {
		return Head{}, fmt.Errorf("audit head %q is not <seq>:<64 lower-case hex digits>", cut(s, 128))
	}
	return Head{n, hash}, nil
}

// appendLine appends the line of the record that follows prev, newline
// included, and gives the new head.
func appendLine(dst []byte, prev Head, body []byte) ([]byte, Head) {
	start := len(dst)
	dst = append(dst, seqKey...)
	dst = strconv.AppendUint(dst, prev.Seq+1, 10)
	dst = append(dst, prevKey...)
	dst = append(dst, prev.Hash...)
	dst = append(dst, `",`...)
	dst = append(dst, body...)
	sum := sha256.Sum256(dst[start:])
	hash := hex.EncodeToString(sum[:])
	dst = append(dst, hashKey...)
	dst = append(dst, hash...)
	dst = append(dst, "\"}\n"...)
	return dst, Head{prev.Seq + 1, hash}
}

var (
	errShape = errors.New("not an audit record")
	errHash  = errors.New("hash is not that of the line")
)

// parseLine takes a line (without its newline) apart by position, never by
// decoding: which bytes are seq, prev and hash does not depend on a JSON
// parser's idea of duplicate members. With errHash the parts are still given.
func parseLine(line []byte) (head Head, prev string, err error) {
	rest, ok := bytes.CutPrefix(line, []byte(seqKey))
	n := bytes.IndexByte(rest, ',')
	if !ok || n < 0 {
		return Head{}, "", errShape
	}
	seq, ok := parseSeq(rest[:n])
	if !ok {
		return Head{}, "", errShape
	}
	rest, ok = bytes.CutPrefix(rest[n:], []byte(prevKey))
	if !ok || len(rest) < hexLen+2+tailLen || !isHex(rest[:hexLen]) || string(rest[hexLen:hexLen+2]) != `",` {
		return Head{}, "", errShape
	}
	prev = string(rest[:hexLen])
	covered, tail := line[:len(line)-tailLen], line[len(line)-tailLen:]
	hash, ok := bytes.CutPrefix(tail, []byte(hashKey))
	if !ok || !isHex(hash[:hexLen]) || string(hash[hexLen:]) != `"}` {
		return Head{}, "", errShape
	}
	head = Head{seq, string(hash[:hexLen])}
	if sum := sha256.Sum256(covered); hex.EncodeToString(sum[:]) != head.Hash {
		return head, prev, errHash
	}
	return head, prev, nil
}

// decodeRecord reads the record out of a line that parseLine accepted.
func decodeRecord(line []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(line, &r); err != nil {
		return Record{}, fmt.Errorf("%w: %w", errShape, err)
	}
	return r, nil
}

// parseSeq accepts the one way of writing a number that appendLine has.
func parseSeq(b []byte) (uint64, bool) {
	if len(b) == 0 || len(b) > 15 || b[0] == '0' {
		return 0, false
	}
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, true
}

func isHex(b []byte) bool {
	for _, c := range b {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(b) == hexLen
}

var (
	errTorn = errors.New("last line has no end")
	errLong = fmt.Errorf("line is longer than %d bytes", maxLine)
)

// lines reads a file line by line, in bounded memory whatever is in it.
type lines struct {
	r    *bufio.Reader
	n    int   // number of the line last given, from 1
	off  int64 // where the line last given ends, newline included
	torn int64 // with errTorn: bytes after off
}

func newLines(r io.Reader) *lines { return &lines{r: bufio.NewReaderSize(r, maxLine)} }

// next gives a line without its newline, valid until the next call. At the end
// it gives io.EOF, or errTorn if bytes without a newline are left. After
// errLong it goes on with the line after.
func (l *lines) next() ([]byte, error) {
	b, err := l.r.ReadSlice('\n')
	size := int64(len(b))
	long := false
	for err == bufio.ErrBufferFull {
		long = true
		var more []byte
		more, err = l.r.ReadSlice('\n')
		size += int64(len(more))
	}
	switch {
	case err == io.EOF && size == 0:
		return nil, io.EOF
	case err == io.EOF:
		l.torn = size
		return nil, errTorn
	case err != nil:
		return nil, fmt.Errorf("reading audit log: %w", err)
	}
	l.n++
	l.off += size
	if long {
		return nil, errLong
	}
	return b[:len(b)-1], nil
}
