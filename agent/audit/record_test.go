package audit

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// evil is text that a pod's author or a registry may choose.
var evil = map[string]string{
	"second line":           "web\n{\"seq\":1,\"decision\":\"allow\"}",
	"carriage return":       "web\rallow",
	"terminal escape":       "web\x1b[2K\x1b[1A",
	"C1 control sequence":   "web\u009b2K",
	"right-to-left":         "web\u202egnp.exe",
	"invisible":             "web\u200b\u2066\ufeff",
	"line separators":       "web\u2028\u2029\u0085",
	"delete and zero":       "web\x7f\x00",
	"not UTF-8":             "web\xff\xc3",
	"beyond the BMP":        "web\U0001f600\U000e0041",
	"end of the JSON":       `web","decision":"allow","x":"`,
	"hash of its own":       `web","hash":"` + strings.Repeat("0", 64) + `"}`,
	"backslashes":           `web\u000a\n\`,
	"another column":        "web allow create prod/good",
	"another part of names": "prod/web",
	"policy result":         "a=pass(key)",
	"a dash":                "-",
}

// everywhere is a record with s in all its strings.
func everywhere(s string, policies int) Record {
	r := Record{
		Time: sample(1).Time, Node: s, Action: s, Decision: s, Pod: Pod{s, s, s}, Container: s,
		Image: s, Digest: s, Reason: s, Mode: s, Revision: s,
	}
	for range policies {
		r.Policies = append(r.Policies, PolicyResult{s, s, s, s, s, s, s, s, s})
	}
	return r
}

func TestForeignTextIsOneLineOfPrintableASCII(t *testing.T) {
	for name, s := range evil {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := mustOpen(t, Options{Dir: dir})
			want := everywhere(s, 2)
			if err := l.Append(want); err != nil {
				t.Fatal(err)
			}
			mustVerify(t, dir, l.Head())
			all := entries(t, dir)
			if len(all) != 1 {
				t.Fatalf("%d records, want 1", len(all))
			}
			for _, c := range all[0].Raw {
				if c < ' ' || c > '~' {
					t.Fatalf("byte %#x in %s", c, all[0].Raw)
				}
			}
			if !utf8.ValidString(s) {
				want = everywhere("web\ufffd\ufffd", 2) // each invalid byte is one
			}
			if d := cmp.Diff(want, all[0].Record); d != "" {
				t.Errorf("record differs (-want +got):\n%s", d)
			}
		})
	}
}

func TestFormatCannotBeForged(t *testing.T) {
	honest := strings.Count(Format(Entry{Record: everywhere("web", 2), Seq: 7}), " ")
	for name, s := range evil {
		t.Run(name, func(t *testing.T) {
			got := Format(Entry{Record: everywhere(s, 2), Seq: 7})
			inQuotes := false
			blanks := 0
			for i := 0; i < len(got); i++ {
				switch c := got[i]; {
				case c == '\\' && inQuotes:
					i++
				case c == '"':
					inQuotes = !inQuotes
				case c == ' ' && !inQuotes:
					blanks++
				case !inQuotes && (c < ' ' || c > '~'):
					t.Fatalf("byte %#x outside quotes in %q", c, got)
				}
			}
			if inQuotes || blanks != honest {
				t.Errorf("%d columns, want %d: %s", blanks, honest, got)
			}
			for _, r := range got {
				if r != ' ' && (r < ' ' || r == 0x7f || strings.ContainsRune("\u009b\u202e\u200b\u2066\ufeff\u2028\u2029\u0085\U000e0041", r)) {
					t.Errorf("%U stands unescaped in %q", r, got)
				}
			}
		})
	}
}

func TestFormat(t *testing.T) {
	deny, allow := sample(3), sample(4)
	allow.Decision, allow.CacheHit, allow.Reason = DecisionAllow, true, ""
	allow.Policies[0].Result = "pass"
	keyless := sample(8)
	keyless.Decision, keyless.CacheHit, keyless.Reason = DecisionAllow, true, ""
	keyless.Policies = []PolicyResult{{Policy: "released", Result: "pass", Authority: "ci",
		Issuer: "https://issuer.example", Subject: "https://git.example/app/.ci/release.yaml@refs/tags/v1 forged=pass(x)"}}
	forged := sample(5)
	forged.Policies = nil
	forged.Pod.Namespace, forged.Pod.Name, forged.Container = "prod/web", `a\x1b`, "-"
	forged.Image, forged.Digest = "x allow", "sha256:short"
	forged.Decision, forged.Action = "", "a=b"
	two := sample(6)
	two.Policies = nil
	two.Reason = errors.Join(errors.New("no answer"), errors.New(`no "ca"`)).Error() + `\nescaped` + "\u202e"
	lost := item{lost: 3, since: deny.Time, till: deny.Time}.marker(false)
	through := sample(9)
	through.Mode, through.Policies = ModeBreakGlass, nil
	start := Record{Time: deny.Time, Action: ActionStart, Mode: ModeEnforce, Reason: "version 1"}
	glass := Record{Time: deny.Time, Action: ActionBreakGlass, Mode: ModeEnforce, Reason: "because"}
	for name, c := range map[string]struct {
		r    Record
		want string
	}{
		"let through by a break-glass": {through, `2026-03-01T12:00:09.000Z #7 deny create prod/web-9/app registry.example/app:1.2 sha256:ab12cd34ab12 1.5ms break-glass "refused by policy prod-signed"`},
		"start":                        {start, `2026-03-01T12:00:03.000Z #7 - start enforce "version 1"`},
		"break-glass":                  {glass, `2026-03-01T12:00:03.000Z #7 - break-glass enforce "because"`},
		"deny":                         {deny, `2026-03-01T12:00:03.000Z #7 deny create prod/web-3/app registry.example/app:1.2 sha256:ab12cd34ab12 1.5ms prod-signed=fail(release-key) "refused by policy prod-signed"`},
		"allow":                        {allow, `2026-03-01T12:00:04.000Z #7 allow create prod/web-4/app registry.example/app:1.2 sha256:ab12cd34ab12 1.5ms cached prod-signed=pass(release-key)`},
		"keyless":                      {keyless, `2026-03-01T12:00:08.000Z #7 allow create prod/web-8/app registry.example/app:1.2 sha256:ab12cd34ab12 1.5ms cached released=pass(ci "https://git.example/app/.ci/release.yaml@refs/tags/v1 forged=pass(x)")`},
		"forged":                       {forged, `2026-03-01T12:00:05.000Z #7 - "a=b" "prod/web"/"a\\x1b"/"-" "x allow" sha256:short 1.5ms "refused by policy prod-signed"`},
		"joined":                       {two, `2026-03-01T12:00:06.000Z #7 deny create prod/web-6/app registry.example/app:1.2 sha256:ab12cd34ab12 1.5ms "no answer; no \"ca\"; escaped\u202e"`},
		"lost":                         {lost, `2026-03-01T12:00:03.000Z #7 error audit "3 records could not be written and did not fit into the queue, from 2026-03-01T12:00:03Z to 2026-03-01T12:00:03Z"`},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(c.want, Format(Entry{Record: c.r, Seq: 7})); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestOversizedRecordIsCutAndSaysSo(t *testing.T) {
	for name, c := range map[string]struct {
		r       Record
		omitted int
	}{
		"long text":                   {everywhere(strings.Repeat("a", 1<<20), 1), 0},
		"text that grows in escaping": {everywhere(strings.Repeat("\x01", 1<<20), 10), 7},
		"runes at the cut":            {everywhere(strings.Repeat("\u00e9\U0001f600", 1<<10), 3), 0},
		"ten thousand policies":       {everywhere("abc", 10_000), 10_000 - 256},
		"both":                        {everywhere(strings.Repeat("\u202e", 1<<16), 10_000), 10_000 - 3},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := mustOpen(t, Options{Dir: dir, Required: true})
			if err := l.Append(c.r); err != nil {
				t.Fatal(err)
			}
			e := entries(t, dir)[0]
			if len(e.Raw)+1 > maxLine {
				t.Errorf("line has %d bytes, want at most %d", len(e.Raw)+1, maxLine)
			}
			if len(c.r.Image) > 1024 && !strings.HasSuffix(e.Image, " bytes cut]") {
				t.Errorf("the cut is not marked: …%q", e.Image[max(0, len(e.Image)-40):])
			}
			if strings.ContainsRune(e.Image, utf8.RuneError) {
				t.Errorf("a rune was cut in two: %q", e.Image)
			}
			if len(e.Policies)+e.PoliciesOmitted != len(c.r.Policies) || e.PoliciesOmitted != c.omitted {
				t.Errorf("%d policies and %d omitted of %d, want %d omitted", len(e.Policies), e.PoliciesOmitted, len(c.r.Policies), c.omitted)
			}
			mustVerify(t, dir, l.Head())
		})
	}
}

func TestAppendLeavesTheCallersRecordAlone(t *testing.T) {
	r := everywhere(strings.Repeat("a", 5000), 3)
	l := mustOpen(t, Options{Dir: t.TempDir()})
	if err := l.Append(r); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(everywhere(strings.Repeat("a", 5000), 3), r); d != "" {
		t.Error(d)
	}
}

func TestOnlyTheLogSaysThatRecordsAreLost(t *testing.T) {
	dir := t.TempDir()
	r := sample(1)
	r.Lost = 7
	if err := mustOpen(t, Options{Dir: dir}).Append(r); err != nil {
		t.Fatal(err)
	}
	if got := mustVerify(t, dir).Lost; got != 0 {
		t.Errorf("%d lost, want 0", got)
	}
}

func TestTimeThatJSONCannotSay(t *testing.T) {
	for _, at := range []time.Time{{}, time.Date(12345, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC)} {
		dir := t.TempDir()
		r := sample(1)
		r.Time = at
		before := time.Now().Add(-time.Second)
		if err := mustOpen(t, Options{Dir: dir, Required: true}).Append(r); err != nil {
			t.Fatal(err)
		}
		if got := entries(t, dir)[0].Time; got.Before(before) {
			t.Errorf("time %v was written as %v, want now", at, got)
		}
	}
}

func TestRecordInJSONIsAsInTheLog(t *testing.T) {
	b, err := json.Marshal(sample(1))
	if err != nil {
		t.Fatal(err)
	}
	body, err := newEncoder().body(sample(1))
	if err != nil {
		t.Fatal(err)
	}
	if got := "{" + string(body) + "}"; got != string(b) {
		t.Errorf("in the log %s\nby itself %s", got, b)
	}
}

func TestHeadIsReadBack(t *testing.T) {
	h := Head{12, sha256hex("x")}
	if got, err := ParseHead(h.String()); err != nil || got != h {
		t.Errorf("%v, %v, want %v", got, err, h)
	}
	for _, s := range []string{"", "12", ":" + h.Hash, "0:" + h.Hash, "12:" + strings.ToUpper(h.Hash), "12:" + h.Hash + "0", "x:" + h.Hash, "-1:" + h.Hash} {
		if got, err := ParseHead(s); err == nil {
			t.Errorf("%q was read as %v", s, got)
		}
	}
}

// TestRecordsOfOtherVersions: a log outlives an upgrade and a way back, and is verified by its bytes.
func TestRecordsOfOtherVersions(t *testing.T) {
	dir := t.TempDir()
	var file []byte
	head := genesis
	for _, policies := range []string{
		`[{"policy":"p","mode":"enforce","result":"pass","authority":"a","key_fingerprint":"SHA256:ab"}]`,
		`[{"policy":"p","result":"pass","authority":"a","issuer":"i","subject":"s","of_a_later_version":{"x":[1]}}]`,
	} {
		body := `"time":"2026-03-01T12:00:00Z","node":"n","action":"pull","decision":"allow","pod":{"namespace":"","name":"","uid":""},"image":"i","policies":` + policies + `,"cache_hit":false,"duration_us":1`
		file, head = appendLine(file, head, []byte(body))
	}
	if err := os.WriteFile(filepath.Join(dir, currentName), file, 0o600); err != nil {
		t.Fatal(err)
	}
	mustVerify(t, dir, head)
	all := entries(t, dir)
	want := [][]PolicyResult{
		{{Policy: "p", Mode: "enforce", Result: "pass", Authority: "a", KeyFingerprint: "SHA256:ab"}},
		{{Policy: "p", Result: "pass", Authority: "a", Issuer: "i", Subject: "s"}},
	}
	for i, e := range all {
		if d := cmp.Diff(want[i], e.Policies); d != "" {
			t.Error(d)
		}
	}
	l := mustOpen(t, Options{Dir: dir})
	mustAppend(t, l, 1, 1)
	mustVerify(t, dir, l.Head())
}
