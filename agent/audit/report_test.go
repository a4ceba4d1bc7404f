package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What is left of a log whose file was removed under a running agent is
// intact: its report must not let that pass for a rotation.
func TestRemovedByHandIsToldInTheReport(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, Options{Dir: dir})
	mustAppend(t, l, 1, 5)
	must(t, os.Remove(filepath.Join(dir, currentName)))
	mustAppend(t, l, 6, 6)
	r := mustVerify(t, dir)
	if r.FirstSeq != 6 || len(r.NoticeTexts) != 1 || !strings.HasPrefix(r.NoticeTexts[0], "record 6, 20") ||
		!strings.HasSuffix(r.NoticeTexts[0], ": the file was removed, replaced, or changed in size by someone else after record 5") {
		t.Errorf("report %+v, want a notice that the file was removed", r)
	}
}

func TestNoticesInTheReportAreBoundedAndPlain(t *testing.T) {
	dir, e := t.TempDir(), newEncoder()
	var file []byte
	head := genesis
	for i := range 3 * maxNoticeTexts {
		body, err := e.body(Record{Action: ActionAudit, Reason: fmt.Sprint(i, "\nintact\x1b[2J\u202e", strings.Repeat("\x01", 1000))})
		must(t, err)
		file, head = appendLine(file, head, body)
	}
	write(t, filepath.Join(dir, currentName), file)
	r := mustVerify(t, dir, head)
	if len(r.NoticeTexts) != maxNoticeTexts || !strings.Contains(r.NoticeTexts[maxNoticeTexts-1], ": 59; intact") {
		t.Errorf("%d texts, the last %q, want the last %d", len(r.NoticeTexts), r.NoticeTexts[len(r.NoticeTexts)-1], maxNoticeTexts)
	}
	for _, text := range r.NoticeTexts {
		if len(text) > 600 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%d bytes: %q", len(text), text)
		}
	}
}
