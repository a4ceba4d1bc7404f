package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"
)

// Values of Record.Action.
const (
	ActionPull   = "pull"   // PullImage
	ActionCreate = "create" // CreateContainer, the container's own image
	ActionMount  = "mount"  // CreateContainer, an image mounted as a volume
	ActionAudit  = "audit"  // written by the log itself: see the package comment

	ActionSandbox    = "sandbox"     // the image that the runtime makes pods' sandboxes of
	ActionStart      = "start"       // the agent started: Mode and Reason say how
	ActionBreakGlass = "break-glass" // one began or ended: Reason says who did it, why and until when
)

// Values of Record.Mode.
const (
	ModeEnforce = "enforce"
	ModeObserve = "observe" // the call went on whatever the decision
	// ModeBreakGlass is like observe, on a node that otherwise enforces, because its owner said so for a time.
	ModeBreakGlass = "break-glass"
)

// Values of Record.Decision.
const (
	DecisionAllow = "allow"
	DecisionDeny  = "deny"
	DecisionWarn  = "warn"
	DecisionError = "error" // it could not be decided; the call was refused
)

// Record is one decision, or what happened to the agent that decides. Its strings may come from anyone (a pod's author, a
// registry) and are written cut and escaped; credentials must not be in it.
type Record struct {
	Time      time.Time `json:"time"` // zero: the time of Append
	Node      string    `json:"node"`
	Action    string    `json:"action"`
	Decision  string    `json:"decision"`
	Pod       Pod       `json:"pod"`
	Container string    `json:"container,omitempty"`

	Image  string `json:"image"` // as written by the user
	Digest string `json:"digest,omitempty"`

	Policies        []PolicyResult `json:"policies,omitempty"`
	PoliciesOmitted int            `json:"policies_omitted,omitempty"` // cut off the end of Policies for size

	Reason   string        `json:"reason,omitempty"`
	Mode     string        `json:"mode,omitempty"`
	CacheHit bool          `json:"cache_hit"`
	Duration time.Duration `json:"-"` // duration_us, whole microseconds
	Revision string        `json:"revision,omitempty"`

	// Lost is how many records could neither be written nor queued at this
	// place in the log. Append clears it: only the log sets it.
	Lost uint64 `json:"lost,omitempty"`
}

// Pod is the pod that the decision was for.
type Pod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
}

// PolicyResult is what one policy said.
type PolicyResult struct {
	Policy         string `json:"policy"`
	Layer          string `json:"layer,omitempty"` // "cluster" if it came by way of the API server
	Mode           string `json:"mode,omitempty"`
	Result         string `json:"result"`
	Authority      string `json:"authority,omitempty"`
	KeyFingerprint string `json:"key_fingerprint,omitempty"`
	// Issuer and Subject are the identity in the certificate of a keyless signature.
	Issuer  string `json:"issuer,omitempty"`
	Subject string `json:"subject,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

// plain is Record without methods, for wire to embed.
type plain Record

// wire is a Record as encoding/json sees it, with the unit in the duration's name.
type wire struct {
	plain
	DurationUS int64 `json:"duration_us"`
}

// MarshalJSON gives the record's members as they stand in the log.
func (r Record) MarshalJSON() ([]byte, error) {
	return json.Marshal(wire{plain(r), r.Duration.Microseconds()})
}

// UnmarshalJSON reads a record's members; members it does not know, as a newer
// version may write, are passed over.
func (r *Record) UnmarshalJSON(b []byte) error {
	var w wire
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	*r = Record(w.plain)
	r.Duration = time.Duration(w.DurationUS) * time.Microsecond
	return nil
}

// shrink is the order in which a record is made smaller until it fits. The last
// step always fits: 12+3*9 strings of 256 bytes, each of which becomes at most
// six bytes of JSON.
var shrink = []struct{ text, policies int }{
	{1024, 1024}, {256, 256}, {256, 32}, {256, 3},
}

// encoder turns records into line bodies, one at a time.
type encoder struct {
	buf   bytes.Buffer
	json  *json.Encoder
	ascii []byte
}

func newEncoder() *encoder {
	e := new(encoder)
	e.json = json.NewEncoder(&e.buf)
	e.json.SetEscapeHTML(false)
	return e
}

// body is the record's JSON members without the braces, at most maxBody bytes.
// It is valid until the next call.
func (e *encoder) body(r Record) ([]byte, error) {
	r.Time = r.Time.UTC().Round(0)
	if y := r.Time.Year(); y > 9999 || y < 1 || r.Time.IsZero() {
		r.Time = time.Now().UTC()
	}
	for _, s := range shrink {
		e.buf.Reset()
		if err := e.json.Encode(wire{plain(fit(r, s.text, s.policies)), r.Duration.Microseconds()}); err != nil {
			return nil, fmt.Errorf("encoding audit record: %w", err)
		}
		b := e.buf.Bytes()
		b = e.printable(b[1 : len(b)-2]) // {…}\n
		if len(b) <= maxBody {
			return b, nil
		}
	}
	return nil, fmt.Errorf("encoding audit record: longer than %d bytes after cutting", maxBody)
}

// printable escapes what encoding/json leaves as it is and a terminal might
// obey or show wrongly: DEL, C1 controls, bidirectional overrides. Such bytes are
// only ever inside a JSON string.
func (e *encoder) printable(b []byte) []byte {
	i := 0
	for i < len(b) && b[i] < 0x7f {
		i++
	}
	if i == len(b) {
		return b
	}
	e.ascii = append(e.ascii[:0], b[:i]...)
	for i < len(b) {
		r, n := utf8.DecodeRune(b[i:])
		i += n
		switch {
		case r < 0x7f:
			e.ascii = append(e.ascii, byte(r))
		case r > 0xffff:
			r -= 0x10000
			e.ascii = fmt.Appendf(e.ascii, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			e.ascii = fmt.Appendf(e.ascii, `\u%04x`, r)
		}
	}
	return e.ascii
}

// fit is r with each string cut to limit bytes and at most so many policies.
// The caller's slice is left alone.
func fit(r Record, limit, policies int) Record {
	for _, s := range []*string{
		&r.Node, &r.Action, &r.Decision, &r.Pod.Namespace, &r.Pod.Name, &r.Pod.UID,
		&r.Container, &r.Image, &r.Digest, &r.Reason, &r.Mode, &r.Revision,
	} {
		*s = cut(*s, limit)
	}
	if n := len(r.Policies) - policies; n > 0 {
		r.PoliciesOmitted += n
		r.Policies = r.Policies[:policies]
	}
	whole := r.Policies
	r.Policies = make([]PolicyResult, len(whole))
	for i, p := range whole {
		r.Policies[i] = PolicyResult{
			Policy: cut(p.Policy, limit), Layer: cut(p.Layer, limit), Mode: cut(p.Mode, limit), Result: cut(p.Result, limit),
			Authority: cut(p.Authority, limit), KeyFingerprint: cut(p.KeyFingerprint, limit),
			Issuer: cut(p.Issuer, limit), Subject: cut(p.Subject, limit), Reason: cut(p.Reason, limit),
		}
	}
	return r
}

// cut shortens s to limit bytes, at the start of a rune, and says by how much.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	n := limit
	for n > limit-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return fmt.Sprintf("%s...[%d bytes cut]", s[:n], len(s)-n)
}
