package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cosentry/cosentry/verify"
)

// TestExplanationForPeople: for each policy and authority what was found, who signed, and the one reason it failed.
func TestExplanationForPeople(t *testing.T) {
	var out bytes.Buffer
	if err := example().print(&out, "table"); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	key := example().Verdict.Policies[0].Authorities[0].KeyFingerprint
	const ci = "https://github.com/example/app/.github/workflows/release.yaml@refs/tags/v1.2"
	want := []string{
		"image registry.example/app:1.2",
		"digest " + example().Verdict.Digest.String(),
		"signatures in registry.example/app",
		"policies revision 3f2a9c1b0d4e5f67+b04d2c9e8a7f6135, 2 matching",
		"verdict REFUSED",
		"",
		"POLICY MODE RESULT AUTHORITY KIND RESULT FOUND WHY",
		"released enforce pass release-key key pass 2 classic signature by " + key,
		"ci keyless pass 1 bundle signature by " + ci,
		`cluster: scanned enforce FAIL scanner key FAIL 1 attestation "clean" (vuln): none of that type`,
		"",
		"POLICY WARNING",
		"released the rule warns: the scan is twenty days old",
		"",
		"POLICY AUTHORITY SIGNED BY ISSUER FORM LOG INDEX LOG TIME TIMESTAMP",
		"released release-key " + key + " - classic 1234567 2026-03-01T12:00:00Z -",
		"released ci " + ci + " https://token.actions.githubusercontent.com bundle - - 2026-03-01T12:00:00Z",
		"",
		"POLICY AUTHORITY ATTESTATION TYPE RESULT WHY",
		"cluster: scanned scanner clean vuln FAIL none of that type",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestExplanationOfARuleThatFailed(t *testing.T) {
	var out bytes.Buffer
	e := example()
	e.Verdict.Policies = []verify.PolicyResult{{Policy: "sizes", Mode: "enforce", Reason: "the rule says no",
		Authorities: []verify.AuthorityResult{{Authority: "any", Kind: "static", Passed: true}}}}
	if err := e.print(&out, "table"); err != nil || !strings.Contains(out.String(), "sizes   the rule says no\n") {
		t.Errorf("%v\n%s", err, &out)
	}
}

// A certificate's subject and a registry's answer are a stranger's words.
func TestExplanationSteersNoTerminal(t *testing.T) {
	var out bytes.Buffer
	e := example()
	const evil = "x\x1b[2J\nverdict\tallowed"
	e.Error, e.Note = evil, evil
	p := &e.Verdict.Policies[0]
	p.Authorities[1].Signers[0].Subject, p.Authorities[1].Signers[0].Issuer, p.Authorities[0].Authority = evil, evil, evil
	e.Verdict.Policies[1].Authorities[0].Attestations[0].Reason = evil
	e.Verdict.Policies[1].Authorities[0].Reason = evil
	if err := e.print(&out, "table"); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "\x1b") || strings.Contains(out.String(), "\nverdict  allowed") || strings.Contains(out.String(), "\nverdict\tallowed") {
		t.Errorf("%q", out.String())
	}
}
