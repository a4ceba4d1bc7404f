package sigstore

import (
	"encoding/json"
	"errors"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/cosign/v2/pkg/types"

	"github.com/cosentry/cosentry/verify/evidence"
)

// statement is what is looked at of an in-toto statement. The predicate is skipped: made into a tree, one of a few
// megabytes takes hundreds.
type statement struct {
	PredicateType string `json:"predicateType"`
	Subject       []struct {
		Digest map[string]string `json:"digest"`
	} `json:"subject"`
}

func readStatement(e *dsse.Envelope) (*statement, error) {
	if e.PayloadType != types.IntotoPayloadType {
		return nil, errors.New("an envelope of another type")
	}
	raw, err := e.DecodeB64Payload()
	if err != nil {
		return nil, fmt.Errorf("reading an envelope's payload: %w", err)
	}
	if err := evidence.CheckStatement(raw); err != nil {
		return nil, fmt.Errorf("reading a statement: %w", err)
	}
	var s statement
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("reading a statement: %w", err)
	}
	return &s, nil
}

// isAbout reports whether one of the subjects is the image, by its sha256.
func (s *statement) isAbout(h v1.Hash) bool {
	for _, subject := range s.Subject {
		if d, ok := subject.Digest["sha256"]; ok && "sha256:"+d == h.String() {
			return true
		}
	}
	return false
}
