package evidence

import (
	"encoding/json"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/cosentry/cosentry/verify/limits"
)

// SignedOnce says whether s, an attestation, is an envelope with exactly one signature, as those of bundles must be.
// Verifiers hash the whole payload for each signature that there is, and for each key, and cannot be stopped: an
// envelope within all bounds may hold tens of thousands.
func (s *Signature) SignedOnce() bool {
	var e struct {
		Signatures []dsse.Signature `json:"signatures"`
	}
	return json.Unmarshal(s.Payload, &e) == nil && len(e.Signatures) == 1
}

// CheckStatement returns an error if an in-toto statement names more subjects than are looked at. Base64 hides them from
// whoever counted the elements of the envelope around it. The predicate is not counted: nobody makes values of it, and a
// list of packages has any number of them.
func CheckStatement(statement []byte) error {
	var s struct {
		Subject limits.Count `json:"subject"`
	}
	_ = json.Unmarshal(statement, &s) // of what is no JSON the count is right as far as it goes
	return limits.Elements.Check(int64(s.Subject))
}

// checkForLog is CheckStatement, for Rekor's code: it makes values of the materials of a predicate as well, which are
// SLSA's (version 0.2) list of what something was built from.
func checkForLog(statement []byte) error {
	var s struct {
		Predicate materials `json:"predicate"`
	}
	_ = json.Unmarshal(statement, &s)
	if err := limits.Elements.Check(int64(s.Predicate)); err != nil {
		return err
	}
	return CheckStatement(statement)
}

// materials are counted like a [limits.Count].
type materials limits.Count

func (m *materials) UnmarshalJSON(predicate []byte) error {
	var p struct {
		Materials limits.Count `json:"materials"`
	}
	_ = json.Unmarshal(predicate, &p) // a predicate may be anything
	*m += materials(p.Materials)
	return nil
}
