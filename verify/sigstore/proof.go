package sigstore

import (
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/cosentry/cosentry/verify/limits"
)

// logged is a proved log entry.
type logged struct {
	index int64
	time  *time.Time // nil: the log did not sign one
}

// proved notes the log entry that was proved.
func (s *Signer) proved(l *logged) {
	if l != nil {
		s.LogIndex, s.LogTime = &l.index, l.time
	}
}

// entity is one signed thing as sigstore-go's verifier takes it, with the proofs that a demand asks for and no others.
type entity struct {
	version   string
	content   sgverify.VerificationContent
	signature sgverify.SignatureContent
	entries   []*tlog.Entry
	stamps    [][]byte
}

func (e *entity) Version() (string, error)                                   { return e.version, nil }
func (e *entity) Timestamps() ([][]byte, error)                              { return e.stamps, nil }
func (e *entity) TlogEntries() ([]*tlog.Entry, error)                        { return e.entries, nil }
func (e *entity) HasInclusionPromise() bool                                  { return false } // asked by nobody
func (e *entity) HasInclusionProof() bool                                    { return false }
func (e *entity) SignatureContent() (sgverify.SignatureContent, error)       { return e.signature, nil }
func (e *entity) VerificationContent() (sgverify.VerificationContent, error) { return e.content, nil }

// provedEntry finds the first of the entries that is proved by itself, so that what is said about a log entry is said
// about one that was verified.
func (e *entity) provedEntry(t *trusted) *logged {
	for _, entry := range e.entries {
		one := *e
		one.entries = []*tlog.Entry{entry}
		// A single entry of a bundle that was accepted with it was verified just now.
		if len(e.entries) > 1 {
			if _, err := sgverify.VerifyTlogEntry(&one, t, 1, true); err != nil {
				continue
			}
		}
		l := &logged{index: entry.LogIndex()}
		if entry.HasInclusionPromise() && !entry.IntegratedTime().IsZero() {
			at := entry.IntegratedTime().UTC()
			l.time = &at
		}
		return l
	}
	return nil
}

// logRefusal says what is the matter with the log entries of an entity that was not accepted, or nil. needTime says that
// the time must come from one of them.
func (e *entity) logRefusal(t *trusted, needTime bool) *refusal {
	if len(e.entries) == 0 {
		return refused(NoLogEntry)
	}
	known := false
	for _, entry := range e.entries {
		if _, ok := t.logs[hex.EncodeToString([]byte(entry.LogKeyID()))]; ok {
			known = true
		}
	}
	if !known {
		return refused(OtherLog)
	}
	times, err := sgverify.VerifyTlogEntry(e, t, 1, true)
	if err != nil {
		// Is it the time alone? Then the entry holds for a certificate that is valid always.
		always := *e
		always.content = anyTime{e.content}
		if _, err := sgverify.VerifyTlogEntry(&always, t, 1, true); err == nil {
			return refused(NotValidThen)
		}
		return refused(BadLogEntry)
	}
	if needTime && len(times) == 0 {
		return refused(NoLogTime)
	}
	return nil
}

// knownEntry reports whether a log entry's body is of a kind that can be of a signature here. Those who read bodies write
// what they do not understand to the standard error output, with a stack and as it stands.
func knownEntry(body []byte) bool {
	if limits.LogEntry.Check(int64(len(body))) != nil || limits.LogEntryElements.Check(limits.CountElements(body)) != nil {
		return false
	}
	var is struct {
		Kind    string `json:"kind"`
		Version string `json:"apiVersion"`
	}
	if err := json.Unmarshal(body, &is); err != nil {
		return false
	}
	switch is.Kind + " " + is.Version {
	case "hashedrekord 0.0.1", "hashedrekord 0.0.2", "dsse 0.0.1", "intoto 0.0.1", "intoto 0.0.2":
		return true
	}
	return false
}

// anyTime is a verification content for the words of a refusal only.
type anyTime struct{ sgverify.VerificationContent }

func (anyTime) ValidAtTime(time.Time, root.TrustedMaterial) bool { return true }

// stamped returns the time that a timestamp authority signed with the entity's signature.
func (e *entity) stamped(t *trusted) (time.Time, *refusal) {
	if len(e.stamps) == 0 {
		return time.Time{}, refused(NoTimestamp)
	}
	times, err := sgverify.VerifySignedTimestampWithThreshold(e, t, 1)
	if err != nil || len(times) == 0 {
		return time.Time{}, refused(BadTimestamp)
	}
	return times[0].Time.UTC(), nil
}

// bareSignature is a signature without anything that it is over, which is what a timestamp is about.
func bareSignature(sig []byte) sgverify.SignatureContent {
	return bundle.NewMessageSignature(nil, "", sig)
}
