package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Why says in what way a log is broken.
type Why string

// What VerifyDir can find.
const (
	WhyHash        Why = "hash mismatch"          // the line was edited
	WhyPrev        Why = "previous hash mismatch" // the line before is another one than when this was written
	WhyGap         Why = "sequence gap"           // lines were removed, repeated or moved
	WhyUnparsable  Why = "unparsable"             // not a record
	WhyMissingFile Why = "missing file"           // a whole file between two others is gone
	WhyMisnamed    Why = "misnamed file"          // a rotated file's name is not that of its first record
	WhyKnownHead   Why = "known head mismatch"    // the chain is consistent, and another one than it was
	WhyTruncated   Why = "truncated"              // it ends before a record that is known to have been written
)

// BrokenError is the first place where a log is not what was written.
type BrokenError struct {
	File string // name in the directory; with WhyTruncated the last one
	Line int    // from 1
	Seq  uint64 // as the line claims, or, if it is not legible, as it should be
	Why  Why
	Want string // what should have been there, if that can be said
}

func (e *BrokenError) Error() string {
	s := fmt.Sprintf("audit log is broken at %s line %d (record %d): %s", e.File, e.Line, e.Seq, e.Why)
	if e.Want != "" {
		s += ", want " + e.Want
	}
	return s
}

// Report is what VerifyDir found, up to the break if there is one.
type Report struct {
	Files   int    `json:"files"`
	Records uint64 `json:"records"`
	// FirstSeq is the first record that is left. If it is not 1, what was before
	// was removed, by rotation or by hand: that cannot be told from what is left,
	// except that the log notices a file that is taken from under it (NoticeTexts).
	FirstSeq uint64    `json:"first_seq"`
	First    time.Time `json:"first"` // times of the first and the last record
	Last     time.Time `json:"last"`
	Head     Head      `json:"head"` // the last record
	// Lost records could not be written: the log itself says so, at their place.
	Lost uint64 `json:"lost"`
	// Notices are the records by the log itself, about torn lines, losses and alterations.
	Notices uint64 `json:"notices"`
	// NoticeTexts are the last 20 of them, each with its number and time, on one
	// line of printable ASCII of at most 600 bytes.
	NoticeTexts []string `json:"notice_texts,omitempty"`
	// TornBytes stand after the last whole line: a crash, or a cut. Open sets them aside.
	TornBytes int64 `json:"torn_bytes"`
}

const maxNoticeTexts = 20

// VerifyDir checks the whole log in dir, which may be in use. Each known head
// (noted earlier, elsewhere) must be in it. If the log is broken the error is a
// *BrokenError; any other error means that it could not be checked. Without an
// error the log is intact from Report.FirstSeq to Report.Head.
func VerifyDir(dir string, known ...Head) (Report, error) {
	const tries = 20
	for n := 1; ; n++ {
		r, err := verifyOnce(dir, known)
		// Rotation may remove the oldest file between the listing and the reading.
		if n < tries && errors.Is(err, errVanished) {
			continue
		}
		return r, err
	}
}

var errVanished = errors.New("file was removed meanwhile")

func verifyOnce(dir string, known []Head) (Report, error) {
	rotated, current, err := snapshot(dir)
	if err != nil {
		return Report{}, err
	}
	if current != nil {
		defer current.Close()
	}
	v := verifier{last: genesis, known: make(map[uint64][]string), wait: func() { time.Sleep(2 * time.Millisecond) }}
	for _, h := range known {
		v.known[h.Seq] = append(v.known[h.Seq], h.Hash)
	}
	for _, name := range rotated {
		f, err := openRead(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			err = errors.Join(err, errVanished)
		}
		if err != nil {
			return v.report, err
		}
		err = v.file(name, f)
		f.Close()
		if err != nil {
			return v.report, err
		}
	}
	if current != nil {
		if err := v.file(currentName, current); err != nil {
			return v.report, err
		}
	}
	return v.report, v.end()
}

// snapshot is the log at one moment: rotated files, oldest first, and the
// current one, nil if there is none. The current file is opened before
// the listing: if it is rotated in between, it is found in the list, and the
// moment has passed. A file that stays both was linked by someone else.
func snapshot(dir string) ([]string, *os.File, error) {
	const tries = 5
	for range tries {
		current, err := openRead(filepath.Join(dir, currentName))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
		rotated, err := listRotated(dir)
		if err == nil && current == nil && len(rotated) == 0 {
			err = fmt.Errorf("no audit log in %s: %w", dir, fs.ErrNotExist)
		}
		if current == nil {
			return rotated, nil, err
		}
		again := false
		if err == nil {
			again, err = isAmong(dir, rotated, current)
		}
		if err == nil && !again {
			return rotated, current, nil
		}
		current.Close()
		if err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, fmt.Errorf("reading audit log in %s: %s also has the name of a rotated file", dir, currentName)
}

// isAmong says whether f is one of the files named.
func isAmong(dir string, names []string, f *os.File) (bool, error) {
	own, err := f.Stat()
	if err != nil {
		return false, fmt.Errorf("reading audit log: %w", err)
	}
	for _, name := range names {
		if info, err := os.Lstat(filepath.Join(dir, name)); err == nil && os.SameFile(info, own) {
			return true, nil
		}
	}
	return false, nil
}

type verifier struct {
	report Report
	last   Head // genesis before the first record
	file1  string
	line1  int // file1 and line1: where last stands
	known  map[uint64][]string
	wait   func() // before a last line without an end is looked at again
}

func (v *verifier) broken(file string, line int, seq uint64, why Why, want string) error {
	return &BrokenError{file, line, seq, why, want}
}

func (v *verifier) file(name string, f *os.File) error {
	v.report.Files++
	in := newLines(f)
	for torn := 0; ; {
		line, err := in.next()
		switch {
		case err == nil:
			err = v.line(name, in.n, line)
		case errors.Is(err, errTorn) && name == currentName:
			// A writer may be in the middle of this line. Look again before calling it torn.
			if torn++; torn > 3 {
				v.report.TornBytes = in.torn
				return nil
			}
			v.wait()
			at := *in
			in = newLines(io.NewSectionReader(f, at.off, 1<<62))
			in.off, in.n = at.off, at.n
			continue
		case errors.Is(err, errTorn), errors.Is(err, errLong):
			n := in.n
			if errors.Is(err, errTorn) {
				n++
			}
			return v.broken(name, n, v.last.Seq+1, WhyUnparsable, err.Error())
		case err == io.EOF && in.n == 0 && name != currentName:
			return v.broken(name, 1, v.last.Seq+1, WhyUnparsable, "a rotated file is never empty")
		case err == io.EOF:
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (v *verifier) line(name string, n int, line []byte) error {
	next := v.last.Seq + 1
	head, prev, err := parseLine(line)
	if errors.Is(err, errHash) {
		return v.broken(name, n, head.Seq, WhyHash, "")
	}
	if err != nil {
		return v.broken(name, n, next, WhyUnparsable, "")
	}
	first := v.report.Records == 0
	if !first && head.Seq != next {
		why := WhyGap
		if n == 1 && head.Seq > next {
			why = WhyMissingFile
		}
		return v.broken(name, n, head.Seq, why, fmt.Sprintf("record %d", next))
	}
	if seq, ok := rotatedSeq(name); ok && n == 1 && seq != head.Seq {
		return v.broken(name, n, head.Seq, WhyMisnamed, rotatedName(head.Seq))
	}
	if (!first || head.Seq == 1) && prev != v.last.Hash {
		return v.broken(name, n, head.Seq, WhyPrev, v.last.Hash)
	}
	r, err := decodeRecord(line)
	if err != nil {
		return v.broken(name, n, head.Seq, WhyUnparsable, "")
	}
	for _, hash := range v.known[head.Seq] {
		if hash != head.Hash {
			return v.broken(name, n, head.Seq, WhyKnownHead, hash)
		}
	}
	v.count(head, r, first)
	v.last, v.file1, v.line1 = head, name, n
	return nil
}

func (v *verifier) count(head Head, r Record, first bool) {
	if first {
		v.report.FirstSeq, v.report.First = head.Seq, r.Time
	}
	v.report.Records++
	v.report.Last, v.report.Head = r.Time, head
	v.report.Lost += r.Lost
	if r.Action == ActionAudit {
		v.report.Notices++
		v.report.NoticeTexts = append(v.report.NoticeTexts, fmt.Sprintf("record %d, %s: %s",
			head.Seq, r.Time.UTC().Format(time.RFC3339), printable(r.Reason, 512)))
		if n := len(v.report.NoticeTexts); n > maxNoticeTexts {
			v.report.NoticeTexts = v.report.NoticeTexts[n-maxNoticeTexts:]
		}
	}
}

// end checks the known heads that no record answered for.
func (v *verifier) end() error {
	if v.report.Records == 0 {
		v.report.Head = genesis
	}
	for seq := range v.known {
		switch {
		case seq > v.last.Seq:
			return v.broken(v.file1, v.line1, v.last.Seq, WhyTruncated, fmt.Sprintf("records up to %d", seq))
		case seq != 0 && seq < v.report.FirstSeq:
			return fmt.Errorf("known head %d cannot be checked: the oldest record left is %d", seq, v.report.FirstSeq)
		}
	}
	return nil
}
