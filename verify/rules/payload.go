package rules

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/in-toto/in-toto-golang/in_toto"
	slsa02 "github.com/in-toto/in-toto-golang/in_toto/slsa_provenance/v0.2"
	slsa1 "github.com/in-toto/in-toto-golang/in_toto/slsa_provenance/v1"
	"github.com/sigstore/cosign/v2/pkg/cosign/attestation"

	"github.com/cosentry/cosentry/verify/limits"
	"github.com/cosentry/cosentry/verify/rescue"
)

// PredicateURI gives the predicate type that a short name stands for, as in cosign.
func PredicateURI(short string) (uri string, ok bool) {
	switch short {
	case "custom":
		return attestation.CosignCustomProvenanceV01, true
	case "slsaprovenance", "slsaprovenance02":
		return slsa02.PredicateSLSAProvenance, true
	case "slsaprovenance1":
		return slsa1.PredicateSLSAProvenance, true
	case "spdx", "spdxjson":
		return in_toto.PredicateSPDX, true
	case "cyclonedx":
		return in_toto.PredicateCycloneDX, true
	case "link":
		return in_toto.PredicateLinkV1, true
	case "vuln":
		return attestation.CosignVulnProvenanceV01, true
	case "openvex":
		return attestation.OpenVexNamespace, true
	}
	return "", false
}

// shapeOf gives where a statement is to be read into that a policy asks for under this name. Short names have the
// shapes that cosign gives them: a predicate that does not fit is an error, and what the shape does not know is dropped.
func shapeOf(predicateType string) any {
	switch predicateType {
	case "slsaprovenance":
		return &in_toto.ProvenanceStatementSLSA02{}
	case "link":
		return &in_toto.LinkStatement{}
	case "vuln":
		return &attestation.CosignVulnStatement{}
	}
	//lint:ignore SA1019 what rules are given is what cosign gives them, and cosign uses this type
	return &in_toto.Statement{}
}

// Payload gives what a rule over an attestation is given: its statement, as cosign's AttestationToPayloadJSON writes it.
// The predicate type is the policy's, a short name or a URI; nil without an error means that the attestation is of
// another type. Envelope is the DSSE envelope, as JSON, that was verified.
//
// An attestation that cannot be read is an error, whatever type it may be of. It is never "of another type", and never one
// that passes.
func Payload(predicateType string, envelope []byte) (payload []byte, err error) {
	err = rescue.Do(nil, "reading an attestation", func() error {
		payload, err = payloadOf(predicateType, envelope)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading an attestation: %w", err)
	}
	return payload, nil
}

func payloadOf(predicateType string, envelope []byte) ([]byte, error) {
	if predicateType == "" {
		return nil, errors.New("no predicate type is asked for")
	}
	statement, err := statementIn(envelope)
	if err != nil {
		return nil, err
	}
	//lint:ignore SA1019 as cosign reads it
	var header in_toto.StatementHeader
	if err := json.Unmarshal(statement, &header); err != nil {
		return nil, fmt.Errorf("the statement: %s", words(err.Error()))
	}
	wanted, short := PredicateURI(predicateType)
	if !short {
		wanted = predicateType
	}
	if header.PredicateType != wanted {
		return nil, nil
	}
	shape := shapeOf(predicateType)
	if err := json.Unmarshal(statement, shape); err != nil {
		return nil, fmt.Errorf("the statement, as %q: %s", words(predicateType), words(err.Error()))
	}
	payload, err := json.Marshal(shape)
	if err != nil {
		return nil, fmt.Errorf("the statement, as %q: %s", words(predicateType), words(err.Error()))
	}
	return payload, nil
}

// statementIn gives the statement in an envelope. It is base64 there, so its elements are counted only here.
func statementIn(envelope []byte) ([]byte, error) {
	if err := limits.Attestation.Check(int64(len(envelope))); err != nil {
		return nil, err
	}
	if err := boundShape(envelope); err != nil {
		return nil, err
	}
	var outer struct {
		Payload *string `json:"payload"`
	}
	if err := json.Unmarshal(envelope, &outer); err != nil {
		return nil, fmt.Errorf("the envelope: %s", words(err.Error()))
	}
	if outer.Payload == nil {
		return nil, errors.New("the envelope has no payload")
	}
	statement, err := base64.StdEncoding.DecodeString(*outer.Payload)
	if err != nil {
		return nil, fmt.Errorf("the envelope's payload: %s", words(err.Error()))
	}
	if err := boundShape(statement); err != nil {
		return nil, err
	}
	return statement, nil
}
