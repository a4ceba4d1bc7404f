package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cosentry/cosentry/verify/rules"
)

// Each rule about an authority, with an authority that breaks it.
func TestAuthorityRefused(t *testing.T) {
	key := "key: {data: " + fmt.Sprintf("%q", publicPEM(t, "P-256")) + "}"
	id := "identities: [{issuer: i, subject: s}]"
	keyless := "keyless: {" + id + "}"
	leaf, expired := testChain(t, false), testChain(t, true)
	for _, c := range []struct{ rule, authority, want string }{
		{"key and keyless", key + ", " + keyless, "[0]: has key and keyless: keep one"},
		{"all three", key + ", " + keyless + ", static: {action: fail}", "[0]: has key, keyless and static: keep one"},
		{"timestamp alone", "rfc3161timestamp: {}", "[0]: missing: one of key, keyless or static is needed"},

		{"key: data and kms", "key: {data: x, kms: 'hashivault://k'}", "[0].key: has data and kms: keep one"},
		{"key: data and secretRef", "key: {data: x, secretRef: {name: a}}", "[0].key: has data and secretRef: keep one"},
		{"key: kms and secretRef", "key: {kms: 'hashivault://k', secretRef: {name: a}}", "[0].key: has kms and secretRef: keep one"},
		{"key: hash of a key elsewhere", "key: {kms: 'hashivault://k', hashAlgorithm: md5}", `[0].key.hashAlgorithm: unknown hash algorithm "md5"`},
		{"secretRef: no name", "key: {secretRef: {}}", "[0].key.secretRef.name: missing"},
		{"secretRef: empty namespace", "key: {secretRef: {name: a, namespace: ''}}", "[0].key.secretRef.namespace: is empty"},
		{"secretRef: empty name", "key: {secretRef: {name: ''}}", "[0].key.secretRef.name: missing"},
		{"secretRef: leads elsewhere", "key: {secretRef: {name: ../../etc}}", `secretRef.name: "../../etc" is not a name`},
		{"secretRef: a dot", "key: {secretRef: {name: .}}", `secretRef.name: "." is not a name`},
		{"secretRef: namespace leads elsewhere", "key: {secretRef: {name: a, namespace: ..}}", `secretRef.namespace: ".." is not a name`},
		{"secretRef: namespace with a dot", "key: {secretRef: {name: a, namespace: a.b}}", `secretRef.namespace: "a.b" is not a namespace's name`},
		{"secretRef: key", "key: {secretRef: {name: a, key: b}}", "secretRef.key: unknown field"},
		{"secretRef: a string", "key: {secretRef: a}", "secretRef: must be a mapping"},

		{"kms: no scheme", "key: {kms: release}", `kms: "release" is not the URI of a key`},
		{"kms: unknown scheme", "key: {kms: 'k8s://default/key'}", `kms: "k8s://" is not a key management service that is known`},
		{"kms: scheme in another case", "key: {kms: 'AWSKMS:///alias/x'}", `is not a key management service`},
		{"kms: openbao", "key: {kms: 'openbao://x'}", `is not a key management service`},

		{"keyless: url and ca-cert", "keyless: {url: 'https://fulcio.example', ca-cert: {data: " + leaf.ca + "}, " + id + "}", "[0].keyless: has url and ca-cert: keep one"},
		{"keyless: url without a scheme", "keyless: {url: fulcio.example, " + id + "}", `keyless.url: "fulcio.example" is not a URL`},
		{"keyless: url empty", "keyless: {url: '', " + id + "}", "keyless.url: is empty"},
		{"keyless: url with a password", "keyless: {url: 'https://u:p@fulcio.example', " + id + "}", "keyless.url: holds a user or password"},
		{"keyless: no identities", "keyless: {url: 'https://fulcio.example'}", "keyless.identities: missing: say whose"},
		{"keyless: identities empty", "keyless: {identities: []}", "keyless.identities: missing"},
		{"keyless: identities null", "keyless: {identities: }", "keyless.identities: missing"},
		{"keyless: a string", "keyless: x", `keyless: must be a mapping, not "x"`},
		{"keyless: trustRootRef empty", "keyless: {trustRootRef: '', " + id + "}", "keyless.trustRootRef: is empty"},
		{"keyless: trustRootRef no name", "keyless: {trustRootRef: ../x, " + id + "}", `keyless.trustRootRef: "../x" is not a name`},
		{"keyless: insecureIgnoreSCT a string", "keyless: {insecureIgnoreSCT: 'false', " + id + "}", `insecureIgnoreSCT: must be true or false, not "false"`},
		{"keyless: insecureIgnoreSCT yes", "keyless: {insecureIgnoreSCT: yes, " + id + "}", `insecureIgnoreSCT: must be true or false, not "yes"`},
		{"identity: empty", "keyless: {identities: [{}]}", "identities[0]: missing: one of issuer or issuerRegExp"},
		{"identity: no subject", "keyless: {identities: [{issuer: i}]}", "identities[0]: missing: one of subject or subjectRegExp"},
		{"identity: empty subject", "keyless: {identities: [{issuer: i, subject: ''}]}", "identities[0]: missing: one of subject or subjectRegExp"},
		{"identity: no issuer", "keyless: {identities: [{subjectRegExp: ^s$}]}", "identities[0]: missing: one of issuer or issuerRegExp"},
		{"identity: two issuers", "keyless: {identities: [{issuer: i, issuerRegExp: i, subject: s}]}", "identities[0]: has issuer and issuerRegExp: keep one"},
		{"identity: two subjects", "keyless: {identities: [{issuer: i, subject: s, subjectRegExp: s}]}", "identities[0]: has subject and subjectRegExp: keep one"},
		{"identity: expression does not compile", "keyless: {identities: [{issuerRegExp: '(', subject: s}]}", "identities[0].issuerRegExp: does not compile"},
		{"identity: expression of another dialect", "keyless: {identities: [{issuer: i, subjectRegExp: '^(?!evil)'}]}", "identities[0].subjectRegExp: does not compile"},
		{"identity: expression too long", "keyless: {identities: [{issuer: i, subjectRegExp: " + strings.Repeat("a", maxRegexp+1) + "}]}", "subjectRegExp: is 2049 bytes long"},
		{"identity: expression that grows", "keyless: {identities: [{issuer: i, subjectRegExp: '((a{1000}){1000}){1000}'}]}", "subjectRegExp: does not compile"},
		{"identity: unknown field", "keyless: {identities: [{issuer: i, subject: s, subjectRegex: s}]}", "identities[0].subjectRegex: unknown field"},
		{"too many identities", "keyless: {identities: [" + strings.Repeat("{issuer: i, subject: s},", MaxIdentities+1) + "]}", "keyless.identities: has 257 entries"},
		{"ca-cert: empty", "keyless: {ca-cert: {}, " + id + "}", "ca-cert: missing: one of data or secretRef"},
		{"ca-cert: kms", "keyless: {ca-cert: {kms: 'hashivault://k'}, " + id + "}", "ca-cert.kms: holds keys, not certificates"},
		{"ca-cert: a key", "keyless: {ca-cert: {data: " + fmt.Sprintf("%q", publicPEM(t, "P-256")) + "}, " + id + "}", `ca-cert.data: PEM block 1: "PUBLIC KEY" is no certificate`},
		{"ca-cert: no PEM", "keyless: {ca-cert: {data: abc}, " + id + "}", `ca-cert.data: "abc" is not part of a PEM block`},
		{"ca-cert: a leaf", "keyless: {ca-cert: {data: " + expired.leaf + "}, " + id + "}", "ca-cert.data: certificate 1 is not that of a certificate authority"},
		{"ca-cert: a good one before a leaf", "keyless: {ca-cert: {data: " + leaf.both + "}, " + id + "}", "ca-cert.data: certificate 2 is not"},
		{"ca-cert: a private key behind", "keyless: {ca-cert: {data: " + leaf.private + "}, " + id + "}", "ca-cert.data: PEM block 2: this is a PRIVATE key"},
		{"ca-cert: data and secretRef", "keyless: {ca-cert: {data: " + leaf.ca + ", secretRef: {name: a}}, " + id + "}", "ca-cert: has data and secretRef"},

		{"source: two", "source: [{oci: ghcr.io/a/b}, {oci: ghcr.io/a/c}], " + key, "[0].source: has 2 entries: only a single source"},
		{"source: not a list", "source: {oci: ghcr.io/a/b}, " + key, "[0].source: must be a list"},
		{"source: unknown field", "source: [{repository: x}], " + key, "source[0].repository: unknown field"},
		{"oci: empty", "source: [{oci: ''}], " + key, "source[0].oci: is empty"},
		{"oci: a tag", "source: [{oci: 'ghcr.io/a/b:c'}], " + key, "source[0].oci: \"ghcr.io/a/b:c\" has a tag or digest"},
		{"oci: a digest", "source: [{oci: ghcr.io/a/b@" + string(testDigest) + "}], " + key, "has a tag or digest"},
		{"oci: a scheme", "source: [{oci: 'https://ghcr.io/a/b'}], " + key, "has a scheme"},
		{"oci: a scheme of its own", "source: [{oci: 'oci://ghcr.io/a/b'}], " + key, "has a scheme"},
		{"oci: a registry alone", "source: [{oci: ghcr.io}], " + key, "names no repository"},
		{"oci: a registry with a slash", "source: [{oci: ghcr.io/}], " + key, "names no repository"},
		{"oci: no registry", "source: [{oci: team/signatures}], " + key, "names no registry"},
		{"oci: capitals in the path of Docker Hub's own", "source: [{oci: docker.io/Team}], " + key, "is not a repository's name"},
		{"oci: goes up", "source: [{oci: ghcr.io/../a}], " + key, "is not a repository's name"},
		{"tagPrefix: begins with a dash", "source: [{tagPrefix: -a}], " + key, `tagPrefix: "-a" cannot begin a tag`},
		{"tagPrefix: a slash", "source: [{tagPrefix: a/b}], " + key, "cannot begin a tag"},
		{"tagPrefix: too long", "source: [{tagPrefix: " + strings.Repeat("a", maxTagPrefix+1) + "}], " + key, "tagPrefix: is 54 bytes long"},
		{"pull secret: no name", "source: [{signaturePullSecrets: [{}]}], " + key, "signaturePullSecrets[0].name: missing"},
		{"pull secret: leads elsewhere", "source: [{signaturePullSecrets: [{name: a}, {name: ../b}]}], " + key, `signaturePullSecrets[1].name: "../b" is not a name`},
		{"pull secret: a string", "source: [{signaturePullSecrets: [a]}], " + key, "signaturePullSecrets[0]: must be a mapping"},

		// Empty is what a template leaves behind: read as unset, it would switch the log off.
		{"ctlog: url empty", "ctlog: {url: ''}, " + keyless, "[0].ctlog.url: is empty"},
		{"ctlog: trustRootRef empty", "ctlog: {trustRootRef: ''}, " + keyless, "[0].ctlog.trustRootRef: is empty"},
		{"ctlog: url of another scheme", "ctlog: {url: 'file:///etc'}, " + keyless, `ctlog.url: "file:///etc" is not a URL`},
		{"ctlog: url without host", "ctlog: {url: 'https:///x'}, " + keyless, "is not a URL"},
		{"ctlog: url ftp", "ctlog: {url: 'ftp://rekor.example'}, " + keyless, "is not a URL of https or http"},
		{"ctlog: null fields do not hide another", "ctlog: {url: null, key: x}, " + keyless, "ctlog.key: unknown field"},
		{"timestamp: trustRootRef empty", "rfc3161timestamp: {trustRootRef: ''}, " + key, "rfc3161timestamp.trustRootRef: is empty"},
		{"timestamp: url", "rfc3161timestamp: {url: 'https://tsa.example'}, " + key, "rfc3161timestamp.url: unknown field"},

		{"attestation: no name", "attestations: [{predicateType: vuln}], " + key, "attestations[0].name: missing"},
		{"attestation: no type", "attestations: [{name: a}], " + key, "attestations[0].predicateType: missing"},
		{"attestation: unknown type", "attestations: [{name: a, predicateType: slsa}], " + key, `attestations[0].predicateType: "slsa" is not a predicate type`},
		{"attestation: type in another case", "attestations: [{name: a, predicateType: SPDX}], " + key, "is not a predicate type"},
		{"attestation: type a path", "attestations: [{name: a, predicateType: /x}], " + key, "is not a predicate type"},
		{"attestation: type with a space", "attestations: [{name: a, predicateType: 'vuln '}], " + key, "is not a predicate type"},
		{"attestation: not a mapping", "attestations: [vuln], " + key, "attestations[0]: must be a mapping"},
		{"attestation: name not printable", "attestations: [{name: \"a\\u0007\", predicateType: vuln}], " + key, "attestations[0].name: \"a\\a\" holds"},
		{"too many attestations", "attestations: [" + strings.Repeat("{name: a, predicateType: vuln},", MaxAttestations+1) + "], " + key, "attestations: has 65 entries"},
		{"attestation: fetchConfigFile", "attestations: [{name: a, predicateType: vuln, policy: {type: cue, data: 'a: 1', fetchConfigFile: false}}], " + key, "policy.fetchConfigFile: belongs to spec.policy alone"},
		{"attestation: includeSpec", "attestations: [{name: a, predicateType: vuln, policy: {type: cue, data: 'a: 1', includeSpec: true}}], " + key, "policy.includeSpec: belongs to spec.policy alone"},
		{"attestation: includeObjectMeta", "attestations: [{name: a, predicateType: vuln, policy: {type: cue, data: 'a: 1', includeObjectMeta: true}}], " + key, "policy.includeObjectMeta: belongs to spec.policy alone"},
		{"attestation: includeTypeMeta", "attestations: [{name: a, predicateType: vuln, policy: {type: cue, data: 'a: 1', includeTypeMeta: true}}], " + key, "policy.includeTypeMeta: belongs to spec.policy alone"},
		{"attestation: rule does not compile", "attestations: [{name: a, predicateType: vuln, policy: {type: cue, data: 'a: {'}}], " + key, "test.yaml:7: spec.authorities[0].attestations[0].policy.data: "},
	} {
		t.Run(c.rule, func(t *testing.T) {
			spec := "images: [{glob: '**'}]\nauthorities: [{" + c.authority + "}]"
			if got := faultsOf(t, doc(spec)).Error(); !strings.Contains(got, c.want) || !strings.Contains(got, "test.yaml:7: spec.authorities[0]") {
				t.Errorf("got %s\nwant it to say: %s", got, c.want)
			}
		})
	}
}

// A type that is accepted here and not known where attestations are read would be one that nothing can be of.
func TestPredicateTypesAreThoseThatAreRead(t *testing.T) {
	for _, short := range predicateTypes {
		if _, ok := rules.PredicateURI(short); !ok {
			t.Errorf("%s is accepted and not known to the rules", short)
		}
	}
}

func TestKMSReferences(t *testing.T) {
	id := "1234abcd-12ab-34cd-56ef-1234567890ab"
	for _, good := range []string{
		"awskms:///" + id, "awskms://localhost:4566/" + id, "awskms:///mrk-" + strings.ReplaceAll(id, "-", ""), "awskms:///alias/release", "awskms://[::1]:4566/alias/team/release",
		"awskms:///arn:aws:kms:us-east-2:111122223333:key/" + id, "awskms://kms.example:443/arn:aws-us-gov:kms:us-gov-west-1:111122223333:alias/a_b-c",
		"gcpkms://projects/p/locations/global/keyRings/r/cryptoKeys/k", "gcpkms://projects/example.com:p/locations/europe-west3/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1",
		"gcpkms://projects/p/locations/global/keyRings/r/cryptoKeys/k/versions/12",
		"azurekms://release.vault.azure.net/signing", "azurekms://127.0.0.1:8443/signing/0123abc", "hashivault://release", "hashivault://a.b-c_d",
	} {
		if err := checkKMS(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "awskms://", "awskms:///", "awskms://arn:aws:kms:us-east-2:111122223333:key/" + id, "awskms://alias/x", "awskms://kms.example/alias/x", "awskms://user@kms.example:443/alias/x",
		"awskms:///arn:aws:s3:::bucket", "awskms:///arn:aws:kms:us-east-2:1111:key/" + id, "awskms:///1234", "awskms:///alias/", "awskms:///alias/a b", "awskms://:443/alias/a",
		"gcpkms://", "gcpkms://projects/p/locations/l/keyRings/r", "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k/versions/latest", "gcpkms://projects/../locations/l/keyRings/r/cryptoKeys/k/x",
		"azurekms://vault", "azurekms://vault/", "azurekms://a@b/k", "azurekms://vault/k?x", "azurekms://vault/k/v/w", "hashivault://", "hashivault://a/b", "hashivault://-a", "hashivault://a?b",
		"https://kms.example", "file:///etc/key", "awskms:///alias/a\n",
	} {
		if err := checkKMS(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// Each rule about spec.match and spec.policy, with a line that breaks it.
func TestSpecFieldsRefused(t *testing.T) {
	sum := strings.Repeat("0", 64)
	for _, c := range []struct{ rule, line, want string }{
		{"match: unknown resource", "match: [{resource: nodes}]", `spec.match[0].resource: "nodes" is not a resource`},
		{"match: resource in the singular", "match: [{resource: pod}]", `"pod" is not a resource`},
		{"match: a subresource", "match: [{resource: pods/ephemeralcontainers}]", "is not a resource"},
		{"match: selector without resource", "match: [{selector: {matchLabels: {a: b}}}]", "spec.match[0].selector: needs a resource"},
		{"match: empty selector without resource", "match: [{version: v1, selector: {}}]", "spec.match[0].selector: needs a resource"},
		{"match: kind", "match: [{kind: Pod}]", "spec.match[0].kind: unknown field"},
		{"match: not a list", "match: {resource: pods}", "spec.match: must be a list"},
		{"match: not a mapping", "match: [pods]", "spec.match[0]: must be a mapping"},
		{"match: group that is no name", "match: [{group: 'a b'}]", "spec.match[0].group: "},
		{"match: too many", "match: [" + strings.Repeat("{resource: pods},", MaxMatches+1) + "]", "spec.match: has 129 entries"},
		{"selector: a string", "match: [{resource: pods, selector: a=b}]", `selector: must be a mapping, not "a=b"`},
		{"selector: unknown field", "match: [{resource: pods, selector: {labels: {a: b}}}]", "selector.labels: unknown field"},
		{"selector: key that is none", "match: [{resource: pods, selector: {matchLabels: {'a b': c}}}]", "matchLabels.a b: is no requirement"},
		{"selector: value that is none", "match: [{resource: pods, selector: {matchLabels: {a: 'b c'}}}]", "matchLabels.a: is no requirement"},
		{"selector: value a number", "match: [{resource: pods, selector: {matchLabels: {a: 1}}}]", `matchLabels.a: must be a string, not "1"`},
		{"selector: value null", "match: [{resource: pods, selector: {matchLabels: {a: }}}]", "matchLabels.a: must be a string, not empty"},
		{"selector: labels a list", "match: [{resource: pods, selector: {matchLabels: [a]}}]", "matchLabels: must be a mapping"},
		{"selector: unknown operator", "match: [{resource: pods, selector: {matchExpressions: [{key: a, operator: Equals, values: [b]}]}}]", `matchExpressions[0].operator: "Equals" is not an operator`},
		{"selector: operator of nodes", "match: [{resource: pods, selector: {matchExpressions: [{key: a, operator: Gt, values: ['1']}]}}]", "is not an operator"},
		{"selector: no operator", "match: [{resource: pods, selector: {matchExpressions: [{key: a}]}}]", "matchExpressions[0].operator: missing"},
		{"selector: no key", "match: [{resource: pods, selector: {matchExpressions: [{operator: Exists}]}}]", "matchExpressions[0].key: missing"},
		{"selector: In without values", "match: [{resource: pods, selector: {matchExpressions: [{key: a, operator: In}]}}]", "matchExpressions[0]: is no requirement"},
		{"selector: Exists with values", "match: [{resource: pods, selector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}]", "matchExpressions[0]: is no requirement"},
		{"selector: values of numbers", "match: [{resource: pods, selector: {matchExpressions: [{key: a, operator: In, values: [1]}]}}]", `matchExpressions[0].values[0]: must be a string, not "1"`},

		{"policy: no type", "policy: {data: 'a: 1'}", "spec.policy.type: missing"},
		{"policy: unknown type", "policy: {type: cel, data: 'a: 1'}", `spec.policy.type: "cel" is not a type`},
		{"policy: type in another case", "policy: {type: CUE, data: 'a: 1'}", `"CUE" is not a type`},
		{"policy: nothing", "policy: {}", "spec.policy: missing: one of data, remote or configMapRef"},
		{"policy: no rule", "policy: {type: cue}", "spec.policy: missing: one of data, remote or configMapRef"},
		{"policy: empty data", "policy: {type: cue, data: ''}", "spec.policy: missing: one of data"},
		{"policy: blank data", "policy: {type: cue, data: ' '}", "spec.policy.data: the rule is empty"},
		{"policy: two rules", "policy: {type: cue, data: 'a: 1', configMapRef: {name: a, key: b}}", "spec.policy: has data and configMapRef: keep one"},
		{"policy: three rules", "policy: {type: cue, data: 'a: 1', remote: {}, configMapRef: {}}", "spec.policy: has data, remote and configMapRef"},
		{"policy: CUE that does not compile", "policy: {type: cue, data: 'a: ['}", "test.yaml:8: spec.policy.data: "},
		{"policy: Rego that does not compile", "policy: {type: rego, data: 'package x; y {'}", "test.yaml:8: spec.policy.data: "},
		{"policy: too long", "policy: {type: cue, data: '" + strings.Repeat(" ", rules.MaxText+1) + "'}", "spec.policy.data: is 262145 bytes long"},
		{"policy: url", "policy: {type: cue, url: 'https://a.example'}", "spec.policy.url: unknown field"},
		{"policy: a string", "policy: x", "spec.policy: must be a mapping"},
		{"policy: includeSpec", "policy: {type: cue, data: 'a: 1', includeSpec: true}", "test.yaml:8: spec.policy.includeSpec: a node does not see the spec"},
		{"policy: includeSpec a string", "policy: {type: cue, data: 'a: 1', includeSpec: 'true'}", "spec.policy.includeSpec: must be true or false"},
		{"policy: fetchConfigFile a string", "policy: {type: cue, data: 'a: 1', fetchConfigFile: 'yes'}", "spec.policy.fetchConfigFile: must be true or false"},
		{"remote: no url", "policy: {type: cue, remote: {sha256sum: " + sum + "a}}", "spec.policy.remote.url: missing"},
		{"remote: http", "policy: {type: cue, remote: {url: 'http://a.example', sha256sum: '" + sum + "'}}", `remote.url: "http://a.example" is not a URL of https`},
		{"remote: http at home", "policy: {type: cue, remote: {url: 'http://127.0.0.1/x', sha256sum: '" + sum + "'}}", "is not a URL of https"},
		{"remote: a password", "policy: {type: cue, remote: {url: 'https://u:p@a.example', sha256sum: '" + sum + "'}}", "remote.url: holds a user or password"},
		{"remote: no host", "policy: {type: cue, remote: {url: 'https://', sha256sum: '" + sum + "'}}", "is not a URL"},
		{"remote: no host, a port", "policy: {type: cue, remote: {url: 'https://:443/x', sha256sum: '" + sum + "'}}", "is not a URL"},
		{"remote: no sum", "policy: {type: cue, remote: {url: 'https://a.example'}}", "remote.sha256sum: missing"},
		{"remote: short sum", "policy: {type: cue, remote: {url: 'https://a.example', sha256sum: '" + sum[1:] + "'}}", "remote.sha256sum: "},
		{"remote: sum with a prefix", "policy: {type: cue, remote: {url: 'https://a.example', sha256sum: 'sha256:" + sum + "'}}", "is not a SHA-256 of 64 hex digits"},
		{"configMapRef: empty namespace", "policy: {type: cue, configMapRef: {name: a, namespace: '', key: b}}", "configMapRef.namespace: is empty"},
		{"configMapRef: no name", "policy: {type: cue, configMapRef: {key: a}}", "configMapRef.name: missing"},
		{"configMapRef: no key", "policy: {type: cue, configMapRef: {name: a}}", "configMapRef.key: missing"},
		{"configMapRef: key leads elsewhere", "policy: {type: cue, configMapRef: {name: a, key: ..}}", "configMapRef.key: \"..\" is not a key"},
		{"configMapRef: key with a slash", "policy: {type: cue, configMapRef: {name: a, key: a/b}}", "is not a key"},
		{"configMapRef: hidden data", "policy: {type: cue, configMapRef: {name: a, key: ..data}}", "is not a key"},
		{"configMapRef: name leads elsewhere", "policy: {type: cue, configMapRef: {name: ../a, key: b}}", `configMapRef.name: "../a" is not a name`},
	} {
		t.Run(c.rule, func(t *testing.T) {
			got := faultsOf(t, doc("images: [{glob: '**'}]\n"+staticPass+"\n"+c.line)).Error()
			if !strings.Contains(got, c.want) || !strings.Contains(got, "test.yaml:8: spec.") {
				t.Errorf("got %s\nwant it to say: %s", got, c.want)
			}
		})
	}
}

// What a rule's author wrote ends up in a message, and must not forge a line of a log there.
func TestRuleFaultsAreOneLine(t *testing.T) {
	err := faultsOf(t, doc("images: [{glob: '**'}]\n"+staticPass+"\npolicy: {type: rego, data: \"package x\\n\\u001b[31m = {\\nERROR forged\"}"))
	if text := err.Error(); len(err) != 1 || strings.ContainsAny(text, "\n\x1b") {
		t.Errorf("%d faults: %q", len(err), text)
	}
}

func TestSharedRulesAreCompiledOnce(t *testing.T) {
	checks := &ruleChecks{}
	if err := checks.check("cue", "a: 1"); err != nil {
		t.Fatal(err)
	}
	first := checks.check("cue", "a: [")
	if again := checks.check("cue", "a: ["); first == nil || again != first {
		t.Errorf("%v, then %v", first, again)
	}
	if err := checks.check("rego", "a: 1"); err == nil || len(checks.done) != 3 {
		t.Errorf("a rule of another type with the same text: %v, %d kept", err, len(checks.done))
	}
}
