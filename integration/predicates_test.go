package integration

// Predicates as build systems and scanners write them, by the short names that cosign and policies
// give their types.
var predicates = map[string]string{
	"slsaprovenance": `{"builder": {"id": "https://builder.test/release"}, "buildType": "https://builder.test/type/v1",
		"invocation": {"configSource": {"uri": "git+https://git.test/app@refs/tags/v1", "entryPoint": "release"}}}`,
	"slsaprovenance1": `{"buildDefinition": {"buildType": "https://builder.test/type/v1",
		"externalParameters": {"ref": "refs/tags/v1"}, "internalParameters": {}, "resolvedDependencies": []},
		"runDetails": {"builder": {"id": "https://builder.test/release"}, "metadata": {"invocationID": "run-1"}}}`,
	"spdxjson": `{"spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT", "name": "app", "dataLicense": "CC0-1.0",
		"documentNamespace": "https://sbom.test/app", "creationInfo": {"created": "2026-01-01T00:00:00Z", "creators": ["Tool: test"]},
		"packages": [{"name": "busybox", "SPDXID": "SPDXRef-busybox", "versionInfo": "1.35", "downloadLocation": "NOASSERTION"}]}`,
	"cyclonedx": `{"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
		"components": [{"type": "application", "name": "busybox", "version": "1.35"}]}`,
	"vuln": `{"invocation": {"uri": "", "event_id": "", "builder.id": ""},
		"scanner": {"uri": "https://scanner.test", "version": "1.0", "db": {"uri": "", "version": ""}, "result": {"critical": 0}},
		"metadata": {"scanStartedOn": "2026-01-01T00:00:00Z", "scanFinishedOn": "2026-01-01T00:01:00Z"}}`,
	"custom":                         `{"reviewed": true, "by": "two people"}`,
	"https://example.test/review/v1": `{"reviewed": true, "by": "two people"}`,
}
