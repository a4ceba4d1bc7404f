package integration

import (
	"fmt"
	"strings"

	"github.com/cosentry/cosentry/integration/harness"
	"github.com/cosentry/cosentry/integration/sigstore"
)

// keylessAs is a keyless authority that trusts the test's sigstore, with more fields beside keyless.
func keylessAs(who sigstore.Identity, more string) string {
	return fmt.Sprintf(`authorities:
- name: release
  keyless:
    trustRootRef: test
    identities: [{issuer: %q, subject: %q}]
  ctlog: {trustRootRef: test}
  %s`, who.Issuer, who.Email+who.URI, more)
}

func (l *language) keylessRows() []row {
	matching := func(identity string) string {
		return fmt.Sprintf("authorities:\n- keyless:\n    trustRootRef: test\n    identities: [{%s}]\n  ctlog: {trustRootRef: test}", identity)
	}
	document := strings.ReplaceAll(keylessAs(releaser, ""), "trustRootRef: test", "trustRootRef: written-out")
	return []row{
		{rule: "an identity, classic", image: "signed/keyless", spec: keylessAs(releaser, "")},
		{rule: "an identity, bundle", image: "signed/keyless-bundle", spec: keylessAs(releaser, "")},
		{rule: "a workflow's identity", image: "signed/workflow", spec: keylessAs(workflow, "")},
		{rule: "a TrustRoot document, classic", image: "signed/keyless", spec: document},
		{rule: "a TrustRoot document, bundle", image: "signed/keyless-bundle", spec: document},
		{
			rule: "an identity by regular expressions", image: "signed/keyless",
			spec: matching(`issuerRegExp: '^https://issuer\.test$', subjectRegExp: '^release.*@example\.test$'`),
		},
		{
			rule: "another subject by a regular expression", image: "signed/keyless",
			spec:    matching(`issuerRegExp: '^https://issuer\.test$', subjectRegExp: '^release@example\.test$'`),
			refused: []string{"subject", releaser.Email, "is not the one demanded"},
		},
		{
			rule: "another issuer", image: "signed/keyless",
			spec:    matching(`issuer: "https://other.test", subject: "releaser@example.test"`),
			refused: []string{"issuer", releaser.Issuer, "is not the one demanded"},
		},
		{
			rule: "another subject", image: "signed/keyless-bundle",
			spec:    matching(`issuer: "https://issuer.test", subject: "other@example.test"`),
			refused: []string{"subject", releaser.Email, "is not the one demanded"},
		},
		{
			rule: "a certificate that no log holds", image: "signed/unlogged-certificate", spec: keylessAs(releaser, ""),
			refused: []string{"proof of a certificate transparency log (SCT)"},
		},
		{
			rule: "a certificate that no log holds, and need not", image: "signed/unlogged-certificate",
			spec: strings.Replace(keylessAs(releaser, ""), "trustRootRef: test\n", "trustRootRef: test\n    insecureIgnoreSCT: true\n", 1),
		},
		{rule: "another sigstore, classic", image: "signed/strange", spec: keylessAs(releaser, ""), refused: []string{"none with a certificate from a trusted authority"}},
		{rule: "another sigstore, bundle", image: "signed/strange-bundle", spec: keylessAs(releaser, ""), refused: []string{"none with a certificate from a trusted authority"}},
		{
			rule: "the public-good sigstore, which this is not", image: "signed/keyless-bundle",
			spec:    `authorities: [{keyless: {identities: [{issuer: "https://issuer.test", subject: "releaser@example.test"}]}}]`,
			refused: []string{"none with a certificate from a trusted authority"},
		},
		{
			rule: "a certificate authority written out", image: "signed/keyless",
			spec: fmt.Sprintf(`authorities:
- keyless:
    ca-cert: {data: %q}
    insecureIgnoreSCT: true
    identities: [{issuer: "https://issuer.test", subject: "releaser@example.test"}]
  ctlog: {trustRootRef: test}`, l.sigstore.CertificateAuthority()),
		},
		{rule: "no proof of a log", image: "signed/unproved-keyless", spec: keylessAs(releaser, ""), refused: []string{"without proof of a transparency log"}},
		{
			rule: "a timestamp in place of a log", image: "signed/stamped-keyless",
			spec: strings.Replace(keylessAs(releaser, "rfc3161timestamp: {trustRootRef: test}"), "ctlog: {trustRootRef: test}", "ctlog: {}", 1),
		},
		{
			rule: "a timestamp in place of a log, bundle", image: "signed/stamped-keyless-bundle",
			spec: strings.Replace(keylessAs(releaser, "rfc3161timestamp: {trustRootRef: written-out}"), "ctlog: {trustRootRef: test}", "ctlog: {}", 1),
		},
		{
			rule: "no timestamp", image: "signed/keyless",
			spec: keylessAs(releaser, "rfc3161timestamp: {trustRootRef: test}"), refused: []string{"without a signed timestamp"},
		},
		{rule: "only bundles", image: "signed/keyless", spec: keylessAs(releaser, "signatureFormat: bundle"), refused: []string{"no signatures found"}},
		{rule: "only the classic form", image: "signed/keyless-bundle", spec: keylessAs(releaser, "signatureFormat: legacy"), refused: []string{"no signatures found"}},
		{rule: "keyless where a key signed", image: "signed/release", spec: keylessAs(releaser, ""), refused: []string{"none with a certificate"}},
	}
}

// byKey is an authority by a key, with more fields beside key.
func byKey(public, more string) string {
	return fmt.Sprintf("authorities:\n- name: release-key\n  key: {data: %q}\n  %s", public, more)
}

func (l *language) keyRows(keys map[string]signer) []row {
	hashed := func(kind, hash string) string {
		return strings.Replace(byKey(keys[kind].public, ""), "key: {", "key: {hashAlgorithm: "+hash+", ", 1)
	}
	lookup := fmt.Sprintf("ctlog: {url: %q, trustRootRef: test}", l.sigstore.Rekor.URL)
	return []row{
		{rule: "a key, classic", image: "signed/release", spec: byKey(keys["release"].public, "")},
		{rule: "a key, bundle", image: "signed/release-bundle", spec: byKey(keys["release"].public, "")},
		{rule: "RSA of 2048 bits", image: "signed/rsa-2048", spec: byKey(keys["rsa-2048"].public, "")},
		{rule: "RSA of 4096 bits, bundle", image: "signed/rsa-4096-bundle", spec: byKey(keys["rsa-4096"].public, "")},
		{rule: "P-384 with SHA-384", image: "signed/ecdsa-p384", spec: hashed("ecdsa-p384", "sha384")},
		{rule: "P-384 with SHA-384, bundle", image: "signed/ecdsa-p384-bundle", spec: hashed("ecdsa-p384", "sha384")},
		{rule: "P-521 with SHA-512", image: "signed/ecdsa-p521", spec: hashed("ecdsa-p521", "sha512")},
		{rule: "P-384 with the wrong hash", image: "signed/ecdsa-p384", spec: hashed("ecdsa-p384", "sha512"), refused: []string{"none by this key"}},
		{rule: "Ed25519", image: "signed/ed25519", spec: byKey(keys["ed25519"].public, "")},
		{rule: "another key", image: "signed/release", spec: byKey(keys["second"].public, ""), refused: []string{"release-key", "none by this key"}},
		{rule: "one of several keys", image: "signed/release", spec: byKey(keys["second"].public+keys["release"].public, "")},
		{rule: "nobody", image: "unsigned", spec: byKey(keys["release"].public, ""), refused: []string{"no signatures found"}},
		{rule: "a key and a log", image: "signed/release-logged", spec: byKey(keys["release"].public, lookup)},
		{rule: "a key and a log, looked up", image: "signed/release-forgot-proof", spec: byKey(keys["release"].public, lookup)},
		{rule: "a key and a log that knows nothing", image: "signed/release", spec: byKey(keys["release"].public, lookup), refused: []string{"without proof of a transparency log"}},
		{
			rule: "a key and a timestamp", image: "signed/release-stamped",
			spec: byKey(keys["release"].public, "rfc3161timestamp: {trustRootRef: test}"),
		},
		{
			rule: "a key without a timestamp", image: "signed/release", refused: []string{"without a signed timestamp"},
			spec: byKey(keys["release"].public, "rfc3161timestamp: {trustRootRef: test}"),
		},
		{rule: "a key in a secret", image: "signed/release", spec: `authorities: [{key: {secretRef: {name: release, namespace: cosign-system}}}]`},
		{rule: "a key that a key management service holds", image: "signed/vault", spec: `authorities: [{key: {kms: "hashivault://release"}}]`},
		{rule: "a key that a key management service holds, bundle", image: "signed/vault-bundle", spec: `authorities: [{key: {kms: "hashivault://release"}}]`},
		{
			rule: "a key in a secret that is not here", image: "signed/release", refused: []string{"secret cosign-system/missing", "not there"},
			spec: `authorities: [{key: {secretRef: {name: missing, namespace: cosign-system}}}]`,
		},
	}
}

// awayRows are judged after all services but the registries have gone.
func (l *language) awayRows(keys map[string]signer) []row {
	lookup := fmt.Sprintf("ctlog: {url: %q, trustRootRef: test}", l.sigstore.Rekor.URL)
	return []row{
		{rule: "no service is needed for an identity", image: "signed/keyless-bundle", spec: keylessAs(releaser, "")},
		{rule: "no log is needed for a proof that came along", image: "signed/release-logged", spec: byKey(keys["release"].public, lookup)},
		{
			rule: "a proof that cannot be looked up", image: "signed/release-forgot-proof", unavailable: true,
			spec: byKey(keys["release"].public, lookup), refused: []string{"could not be verified", "the transparency log " + l.sigstore.Rekor.URL},
		},
		{rule: "a key that its service gave before", image: "signed/vault", spec: `authorities: [{key: {kms: "hashivault://release"}}]`},
		{rule: "another key that its service gave before", image: "signed/release", refused: []string{"none by this key"}, spec: `authorities: [{key: {kms: "hashivault://release"}}]`},
		{
			rule: "a key that its service never gave", image: "signed/vault", refused: []string{"hashivault://never"},
			spec: `authorities: [{key: {kms: "hashivault://never"}}]`,
		},
	}
}

// attesting is an authority whose signatures are asked for as attestations.
func attesting(authority string, attestations ...string) string {
	return authority + "\n  attestations:\n  - " + strings.Join(attestations, "\n  - ")
}

// attestation is one of a type, with a rule about it if there is one.
func attestation(name, predicateType, rule string) string {
	text := fmt.Sprintf("name: %s\n    predicateType: %s", name, predicateType)
	if kind, rule, ok := strings.Cut(rule, ":"); ok {
		text += fmt.Sprintf("\n    policy: {type: %s, data: %q}", kind, rule)
	}
	return text
}

// demands are rules that the predicates of the same name satisfy.
var demands = map[string]string{
	"slsaprovenance":                 `cue:predicate: builder: id: "https://builder.test/release"`,
	"slsaprovenance1":                `cue:predicate: runDetails: builder: id: =~"^https://builder\\.test/"`,
	"spdxjson":                       "rego:package sigstore\nisCompliant { input.predicate.packages[_].name == \"busybox\" }",
	"cyclonedx":                      "rego:package sigstore\nisCompliant { input.predicate.components[_].name == \"busybox\" }",
	"vuln":                           "cue:predicate: scanner: result: critical: <1",
	"custom":                         "rego:package sigstore\nisCompliant { contains(input.predicate.Data, \"two people\") }",
	"https://example.test/review/v1": "",
}

func (l *language) attestationRows(release signer) []row {
	key := byKey(release.public, "")
	keyless := keylessAs(releaser, "")
	var every []string
	for predicateType, demand := range demands {
		every = append(every, attestation(fmt.Sprintf("a%d", len(every)), predicateType, demand))
	}
	return []row{
		{rule: "attestations of every type by a key", image: "attested/key", spec: attesting(key, every...)},
		{rule: "attestations of every type without a key, bundles", image: "attested/keyless-bundle", spec: attesting(keyless, every...)},
		{
			rule: "provenance by a workflow", image: "attested/workflow",
			spec: attesting(keylessAs(workflow, ""), attestation("provenance", "slsaprovenance1", demands["slsaprovenance1"])),
		},
		{
			rule: "an SBOM in SPDX's own format, a text", image: "attested/spdx",
			spec: attesting(key, attestation("sbom", "spdx", `cue:predicate: string & =~"PackageName: busybox"`)),
		},
		{
			rule: "an SBOM by a key, bundle", image: "attested/key-bundle",
			spec: attesting(key, attestation("sbom", "spdxjson", demands["spdxjson"])),
		},
		{
			rule: "one of two types is missing", image: "attested/key-bundle", refused: []string{`attestation "provenance"`, `none of type "slsaprovenance"`},
			spec: attesting(key, attestation("sbom", "spdxjson", demands["spdxjson"]), attestation("provenance", "slsaprovenance", "")),
		},
		{
			rule: "a type that nobody attested", image: "attested/key-bundle", refused: []string{`attestation "scan"`, `none of type "vuln"`},
			spec: attesting(key, attestation("scan", "vuln", "")),
		},
		{
			rule: "an image signature is no attestation", image: "signed/release", refused: []string{"no attestations found"},
			spec: attesting(key, attestation("scan", "vuln", "")),
		},
		{
			rule: "attested by somebody else", image: "attested/workflow", refused: []string{"issuer", workflow.Issuer, "is not the one demanded"},
			spec: attesting(keyless, attestation("provenance", "slsaprovenance1", "")),
		},
		{
			rule: "CUE says no", image: "attested/key", refused: []string{`attestation "provenance"`, "cue", "https://other-builder.test"},
			spec: attesting(key, attestation("provenance", "slsaprovenance", `cue:predicate: builder: id: "https://other-builder.test"`)),
		},
		{
			rule: "Rego says no", image: "attested/keyless-bundle", refused: []string{`attestation "sbom"`, "rego", "curl is missing"},
			spec: attesting(keyless, attestation("sbom", "spdxjson", `rego:package sigstore
isCompliant[response] { found := [p | p := input.predicate.packages[_]; p.name == "curl"]; count(found) == 0; response := {"result": false, "error": "curl is missing"} }`)),
		},
		{
			rule: "a rule in a ConfigMap", image: "attested/key",
			spec: attesting(key, "name: scan\n    predicateType: vuln\n    policy: {type: cue, configMapRef: {name: rules, namespace: cosign-system, key: scan.cue}}"),
		},
		{
			rule: "a rule in a ConfigMap that is not here", image: "attested/key", refused: []string{"configmap cosign-system/missing/scan.cue", "not there"},
			spec: attesting(key, "name: scan\n    predicateType: vuln\n    policy: {type: cue, configMapRef: {name: missing, namespace: cosign-system, key: scan.cue}}"),
		},
	}
}

func (l *language) wholeRows(keys map[string]signer) []row {
	three := fmt.Sprintf("authorities:\n- name: a\n  key: {data: %q}\n- name: b\n  key: {data: %q}\n- name: c\n  key: {data: %q}\n",
		keys["release"].public, keys["second"].public, keys["rsa-2048"].public)
	twoOf := three + fmt.Sprintf("policy: {type: rego, data: %q}", "package sigstore\nisCompliant { count(input.authorityMatches) >= 2 }")
	prod := "match: [{group: '', version: v1, resource: pods, selector: {matchLabels: {tier: prod}}}]\n"
	return []row{
		{rule: "any one of three authorities", image: "signed/release", spec: three},
		{rule: "two of three authorities", image: "signed/twice", spec: twoOf},
		{rule: "two of three authorities, and one passed", image: "signed/release", spec: twoOf, refused: []string{"the rego rule", "does not accept"}},
		{
			rule: "a rule on the workflow", image: "signed/workflow",
			spec: keylessAs(workflow, "") + fmt.Sprintf("\npolicy: {type: cue, data: %q}", `authorityMatches: release: signatures: [{githubWorkflowRepo: "example/app", githubWorkflowRef: =~"^refs/tags/"}]`),
		},
		{
			rule: "a rule on another workflow", image: "signed/workflow", refused: []string{"the cue rule", "example/other"},
			spec: keylessAs(workflow, "") + fmt.Sprintf("\npolicy: {type: cue, data: %q}", `authorityMatches: release: signatures: [{githubWorkflowRepo: "example/other"}]`),
		},
		{
			rule: "a rule on the pod's labels", image: "signed/release", pod: harness.PodSpec{Labels: map[string]string{"tier": "prod"}},
			spec: three + fmt.Sprintf("policy: {type: rego, includeObjectMeta: true, data: %q}", "package sigstore\nisCompliant { input.metadata.labels.tier == \"prod\" }"),
		},
		{
			rule: "a rule on the labels of another pod", image: "signed/release", refused: []string{"the rego rule", "does not accept"},
			spec: three + fmt.Sprintf("policy: {type: rego, includeObjectMeta: true, data: %q}", "package sigstore\nisCompliant { input.metadata.labels.tier == \"prod\" }"),
		},
		{rule: "a selector that picks the pod", image: "unsigned", spec: prod + three, pod: harness.PodSpec{Labels: map[string]string{"tier": "prod"}}, refused: []string{"no signatures found"}},
		{rule: "a selector that leaves the pod out", image: "unsigned", spec: prod + three, also: "authorities: [{static: {action: pass}}]"},
		{rule: "static pass", image: "unsigned", spec: "authorities: [{static: {action: pass}}]"},
		{rule: "static fail", image: "signed/release", spec: "authorities: [{static: {action: fail, message: ask the platform team}}]", refused: []string{"ask the platform team"}},
		{rule: "a policy that warns", image: "unsigned", spec: "mode: warn\n" + three, warns: true},
	}
}

// sourceRows are about signatures that are kept elsewhere, in a registry that asks who reads.
func (l *language) sourceRows(release signer, elsewhere string) []row {
	kept := func(source string) string { return byKey(release.public, "source: [{oci: "+elsewhere+"/"+source+"}]") }
	team := harness.PodSpec{Namespace: "team-a"}
	return []row{
		{rule: "signatures in another repository", image: "kept-elsewhere", pod: team, spec: kept("signatures, signaturePullSecrets: [{name: reader}]")},
		{rule: "signatures under a prefix", image: "kept-under-a-prefix", pod: team, spec: kept("signatures, tagPrefix: prod-, signaturePullSecrets: [{name: reader}]")},
		{
			rule: "signatures under another prefix", image: "kept-under-a-prefix", pod: team, refused: []string{"no signatures found"},
			spec: kept("signatures, tagPrefix: test-, signaturePullSecrets: [{name: reader}]"),
		},
		{
			rule: "signatures beside the image do not count", image: "signed/release", pod: team, refused: []string{"no signatures found"},
			spec: kept("signatures, signaturePullSecrets: [{name: reader}]"),
		},
		{
			rule: "a pull secret of another namespace", image: "kept-elsewhere-and-never-read", pod: harness.PodSpec{Namespace: "team-b"},
			spec: kept("signatures, signaturePullSecrets: [{name: reader}]"), refused: []string{elsewhere, "refused the credentials", `pull secret "reader"`},
		},
		{rule: "no pull secret", image: "kept-elsewhere-and-never-read", pod: team, spec: kept("signatures"), refused: []string{elsewhere, "refused the credentials"}},
	}
}
