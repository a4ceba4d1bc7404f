package policy

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Each rule with a spec that breaks it; lines count in the document, in which
// the spec begins at line 6.
func TestSpecRefused(t *testing.T) {
	key := "key: {data: " + fmt.Sprintf("%q", publicPEM(t, "P-256")) + "}"
	images := "images: [{glob: \"**\"}]\n"
	for _, c := range []struct{ rule, spec, want string }{
		{"no images", staticPass, "test.yaml:6: spec.images: missing"},
		{"empty images", "images: []\n" + staticPass, "test.yaml:6: spec.images: missing"},
		{"null images", "images:\n" + staticPass, "test.yaml:6: spec.images: missing"},
		{"images not a list", "images: {glob: \"**\"}\n" + staticPass, "test.yaml:6: spec.images: must be a list, not a mapping"},
		{"image not a mapping", "images: [\"**\"]\n" + staticPass, `test.yaml:6: spec.images[0]: must be a mapping, not "**"`},
		{"no glob", "images: [{}]\n" + staticPass, "test.yaml:6: spec.images[0].glob: missing"},
		{"empty glob", "images: [{glob: \"\"}]\n" + staticPass, "test.yaml:6: spec.images[0].glob: missing"},
		{"glob is a regular expression", "images:\n- glob: '**'\n- glob: '.+'\n" + staticPass, `test.yaml:8: spec.images[1].glob: glob ".+" may hold only`},
		{"glob is a number", "images: [{glob: 12}]\n" + staticPass, `spec.images[0].glob: must be a string, not "12"`},
		{"regexp instead of glob", "images: [{regex: x}]\n" + staticPass, "spec.images[0].regex: unknown field"},
		{"too many globs", "images:" + strings.Repeat("\n- glob: a", MaxGlobs+1) + "\n" + staticPass, "spec.images: has 1025 entries"},

		{"no authorities", images, "test.yaml:6: spec.authorities: missing"},
		{"empty authorities", images + "authorities: []", "test.yaml:7: spec.authorities: missing"},
		{"authority says nothing", images + "authorities: [{name: a}]", "test.yaml:7: spec.authorities[0]: missing: one of key, keyless or static is needed"},
		{"null authority", images + "authorities: [null]", "spec.authorities[0]: must be a mapping, not empty"},
		{"null key", images + "authorities: [{key: null}]", "spec.authorities[0]: missing: one of key, keyless or static"},
		{"key and static", images + "authorities: [{static: {action: pass}, " + key + "}]", "spec.authorities[0]: has key and static: keep one"},
		{"authority name not printable", images + `authorities: [{name: "a\u0007", static: {action: pass}}]`, `spec.authorities[0].name: "a\a" holds`},
		{"too many authorities", images + "authorities:" + strings.Repeat("\n- static: {action: pass}", MaxAuthorities+1), "spec.authorities: has 129 entries"},

		{"static without action", images + "authorities: [{static: {}}]", "spec.authorities[0].static.action: missing"},
		{"static action unknown", images + "authorities: [{static: {action: Pass}}]", `static.action: "Pass" is not an action`},
		{"static action a boolean", images + "authorities: [{static: {action: true}}]", `static.action: must be a string, not "true"`},
		{"static unknown field", images + "authorities: [{static: {action: pass, msg: x}}]", "static.msg: unknown field"},
		{"static with ctlog", images + "authorities: [{static: {action: pass}, ctlog: {}}]", "spec.authorities[0].ctlog: says nothing beside static"},
		{"static with format", images + "authorities: [{static: {action: pass}, signatureFormat: bundle}]", "spec.authorities[0].signatureFormat: says nothing beside static"},
		{"static with attestations", images + "authorities: [{static: {action: pass}, attestations: [{name: a, predicateType: vuln}]}]", "spec.authorities[0].attestations: says nothing beside static"},
		{"static with source", images + "authorities: [{static: {action: pass}, source: [{oci: ghcr.io/a/b}]}]", "spec.authorities[0].source: says nothing beside static"},
		{"static with rfc3161timestamp", images + "authorities: [{static: {action: pass}, rfc3161timestamp: {}}]", "spec.authorities[0].rfc3161timestamp: says nothing beside static"},

		{"key without data", images + "authorities: [{key: {}}]", "spec.authorities[0].key: missing: one of data, kms or secretRef is needed"},
		{"key data empty", images + "authorities: [{key: {data: ''}}]", "spec.authorities[0].key: missing: one of data, kms or secretRef is needed"},
		{"key data no PEM", images + "authorities: [{key: {data: abc}}]", `key.data: "abc" is not part of a PEM block`},
		{"key data binary", images + "authorities: [{key: {data: !!binary YWJj}}]", `key.data: the tag "!!binary" is not read`},
		{"unknown hash", images + "authorities:\n- key:\n    hashAlgorithm: sha1\n    data: " + block(publicPEM(t, "P-256"), 6), `test.yaml:9: spec.authorities[0].key.hashAlgorithm: unknown hash algorithm "sha1"`},
		{"wrong case of a field", images + "authorities: [{key: {Data: x}}]", "key.Data: unknown field (did you mean data?)"},
		{"format unknown", images + "authorities: [{signatureFormat: cosign, " + key + "}]", `signatureFormat: "cosign" is not a signature format`},

		{"mode unknown", images + staticPass + "\nmode: audit", `test.yaml:8: spec.mode: "audit" is not a mode: use enforce or warn`},
		{"mode in another case", images + staticPass + "\nmode: Warn", `spec.mode: "Warn" is not a mode`},
		{"mode off", images + staticPass + "\nmode: off", `spec.mode: "off" is not a mode`},

		{"ctlog of another shape", images + "authorities: [{ctlog: true, " + key + "}]", `ctlog: must be a mapping, not "true"`},
		{"ctlog unknown field", images + "authorities: [{ctlog: {uri: x}, " + key + "}]", "ctlog.uri: unknown field"},
		{"unknown field of spec", images + staticPass + "\nimage: x", "test.yaml:8: spec.image: unknown field"},
		{"unknown field, odd name", images + staticPass + "\n\"a\\nb\": x", `spec."a\nb": unknown field`},

		{"field twice", images + staticPass + "\n" + staticPass, "test.yaml:8: spec.authorities: given twice, first in line 7"},
		{"field twice, in flow style", images + "authorities: [{static: {action: fail, action: pass}}]", "spec.authorities[0].static.action: given twice"},
		{"field twice, by alias", "images: [{glob: &g glob, *g : x}]\n" + staticPass, "given twice"},
		{"merge key", "images: [{<<: &x {glob: a}}]\n" + staticPass, "merge keys (<<) are not read"},
		{"tag that hides a value", images + "authorities: [{static: {action: !!null fail, action2: x}}]", `static.action: the tag "!!null" is not read`},
		{"list as a field name", images + staticPass + "\n? [a]\n: b", "a field name must be a string, not a list"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			if got := faultsOf(t, doc(c.spec)).Error(); !strings.Contains(got, c.want) {
				t.Errorf("got %s\nwant it to say: %s", got, c.want)
			}
		})
	}
}

func TestDocumentRefused(t *testing.T) {
	spec := "spec: {images: [{glob: a}], " + staticPass + "}\n"
	head := "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\n"
	for _, c := range []struct{ rule, data, want string }{
		{"no kind", "a: b\n", `test.yaml:1: apiVersion "", kind "": only ClusterImagePolicy`},
		{"another kind", "apiVersion: v1\nkind: ConfigMap\n", `apiVersion "v1", kind "ConfigMap"`},
		{"another version", "apiVersion: policy.sigstore.dev/v2\nkind: ClusterImagePolicy\n", `apiVersion "policy.sigstore.dev/v2"`},
		{"another group", "apiVersion: cosigned.sigstore.dev/v1alpha1\nkind: ClusterImagePolicy\n", `"cosigned.sigstore.dev/v1alpha1"`},
		{"TrustRoot of another version", "apiVersion: policy.sigstore.dev/v1beta1\nkind: TrustRoot\n", "only TrustRoot of policy.sigstore.dev/v1alpha1 is read"},
		{"scalar", "hello\n", `must be a ClusterImagePolicy or a TrustRoot (a mapping), not "hello"`},
		{"list", "- a\n", "must be a ClusterImagePolicy or a TrustRoot (a mapping), not a list"},
		{"no metadata", head + spec, "test.yaml:1: metadata.name: missing"},
		{"no name", head + "metadata: {labels: {a: b}}\n" + spec, "test.yaml:3: metadata.name: missing"},
		{"empty name", head + "metadata: {name: ''}\n" + spec, "metadata.name: missing"},
		{"generateName alone", head + "metadata: {generateName: x}\n" + spec, "metadata.name: missing"},
		{"name is a number", head + "metadata: {name: 12}\n" + spec, `metadata.name: must be a string, not "12"`},
		{"name with capitals", head + "metadata: {name: Prod}\n" + spec, `metadata.name: "Prod" is not a name Kubernetes takes`},
		{"name that forges a log line", head + "metadata: {name: \"a\\nb\"}\n" + spec, `metadata.name: "a\nb" is not a name`},
		{"name too long", head + "metadata: {name: " + strings.Repeat("a", 254) + "}\n" + spec, "metadata.name: is 254 bytes long"},
		{"name twice", head + "metadata: {name: a, name: b}\n" + spec, "test.yaml:3: metadata.name: given twice"},
		{"metadata a list", head + "metadata: [a]\n" + spec, "metadata: must be a mapping, not a list"},
		{"no spec", head + "metadata: {name: a}\n", "spec: missing"},
		{"spec a string", head + "metadata: {name: a}\nspec: x\n", `spec: must be a mapping, not "x"`},
		{"unknown top field", head + "metadata: {name: a}\nextra: x\n" + spec, "test.yaml:4: extra: unknown field"},
		{"syntax", head + "metadata: {name: a\n" + spec, "not readable as YAML"},
		{"tab", head + "metadata:\n\tname: a\n", "not readable as YAML"},
		{"unknown anchor", head + "metadata: *x\n", "not readable as YAML"},
		{"nested too deep", strings.Repeat("[", 200) + strings.Repeat("]", 200), "nested more than 100 deep"},
		{"alias of itself", "&a {apiVersion: policy.sigstore.dev/v1beta1, kind: ClusterImagePolicy, metadata: {name: a}, spec: *a }", "spec.kind: unknown field"},
		{"too large", strings.Repeat("#", MaxFileSize+1), "the file is larger than"},
		{"a list in a list", "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: List, items: []}\n", `test.yaml:4: items[0]: apiVersion "v1", kind "List"`},
		{"list with another kind", "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod}\n", `items[0]: apiVersion "v1", kind "Pod"`},
		{"list with an unknown field", "apiVersion: v1\nkind: List\nitem: []\n", "item: unknown field"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			if got := faultsOf(t, c.data).Error(); !strings.Contains(got, c.want) {
				t.Errorf("got %s\nwant it to say: %s", got, c.want)
			}
		})
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	faults := faultsOf(t, doc(`
images: [{glob: "a?"}, {globb: x}]
mode: audit
match: [{resource: nodes}]
authorities:
- keyless: {}
- key: {data: x, hashAlgorithm: md5}
- static: {action: maybe}
`)+"---\nkind: Pod\n---\n: : :\n")
	want := []string{
		"6 spec.images[0].glob", "6 spec.images[1].globb", "6 spec.images[1].glob", "7 spec.mode", "8 spec.match[0].resource",
		"10 spec.authorities[0].keyless.identities", "11 spec.authorities[1].key.hashAlgorithm", "11 spec.authorities[1].key.data",
		"12 spec.authorities[2].static.action", "14 ",
	}
	seen := map[string]bool{}
	for _, f := range faults {
		seen[fmt.Sprintf("%d %s", f.Line, f.Field)] = true
		if f.File != "test.yaml" || f.Text == "" {
			t.Errorf("fault without file or text: %+v", f)
		}
	}
	for _, w := range want {
		if !seen[w] {
			t.Errorf("no fault at %q in:\n%v", w, faults)
		}
	}
	if last := faults[len(faults)-1]; !strings.HasPrefix(last.Text, "not readable as YAML") && !strings.Contains(last.Text, "ClusterImagePolicy") {
		t.Errorf("the last document's fault is missing: %v", last)
	}
}

// What is one too many has faults of its own, and whoever mends a file wants to know them at once.
func TestOneTooManyHidesNoFaults(t *testing.T) {
	key := "key: {kms: 'hashivault://k'}"
	for _, c := range []struct {
		rule, spec string
		want       []string
	}{
		{"sources", "authorities: [{" + key + ", source: [{oci: a}, {oci: 'https://b', tagPrefix: '-'}, x]}]", []string{
			"source: has 3 entries", `source[0].oci: "a" names no repository`, `source[1].oci: "https://b" has a scheme`, "source[1].tagPrefix: ", "source[2]: must be a mapping",
		}},
		{"rules", "authorities: [{" + key + "}]\npolicy: {type: cue, data: 'a: [', remote: {url: 'http://a.example'}, configMapRef: {name: A}}", []string{
			"spec.policy: has data, remote and configMapRef", "policy.data: ", "policy.remote.url: ", "policy.remote.sha256sum: missing", "policy.configMapRef.name: ", "policy.configMapRef.key: missing",
		}},
		{"rule and an empty one of no shape", "authorities: [{" + key + "}]\npolicy: {type: cue, data: 'a: 1', remote: ''}", []string{"policy.remote: must be a mapping"}},
		{"keys", "authorities: [{key: {data: x, kms: 'x://k', secretRef: {name: A}}}]", []string{"key: has data, kms and secretRef", "key.data: ", "key.kms: ", "key.secretRef.name: "}},
		{"identities", "authorities: [{keyless: {identities: [{issuer: 1, issuerRegExp: '(', subject: 2, subjectRegExp: ')'}]}}]", []string{
			"has issuer and issuerRegExp", "[0].issuer: must be", "[0].issuerRegExp: does not compile", "has subject and subjectRegExp", "[0].subject: must be", "[0].subjectRegExp: does not compile",
		}},
		{"certificates", "authorities: [{keyless: {ca-cert: {kms: k, data: x, secretRef: {}}, identities: [{issuer: i, subject: s}]}}]", []string{"ca-cert.kms: ", "ca-cert.data: ", "ca-cert.secretRef.name: missing"}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			got := faultsOf(t, doc("images: [{glob: '**'}]\n"+c.spec)).Error()
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("got %s\nwant it to say: %s", got, want)
				}
			}
		})
	}
	roots := faultsOf(t, rootDoc("r", "sigstoreKeys: {tLogs: x}\n  remote: {root: '-', mirror: x}\n  repository: {root: '-'}\n  trustedRootJSON: '{'")).Error()
	for _, want := range []string{"spec: has sigstoreKeys, repository, remote and trustedRootJSON", "sigstoreKeys.tLogs: ", "remote.mirror: ", "repository.mirrorFS: missing", "trustedRootJSON: is not a trusted root"} {
		if !strings.Contains(roots, want) {
			t.Errorf("got %s\nwant it to say: %s", roots, want)
		}
	}
}

// Who mends a file goes through it from top to bottom.
func TestFaultsAreInOrderOfLines(t *testing.T) {
	broken := doc("authorities:\n- key: {data: x}\n  ctlog: {url: x}\n- static: {action: x}\npolicy: {}\nmatch: [{resource: x}]\nmode: x\nimages: []") + "zzz: 1\n---\n" + doc("mode: x\nimages: []")
	inOrder := func(faults Errors) {
		t.Helper()
		if len(faults) < 9 {
			t.Errorf("only %d faults", len(faults))
		}
		for i, f := range faults[1:] {
			if before := faults[i]; before.File == f.File && before.Line > f.Line || before.File > f.File {
				t.Errorf("%v\ncomes after %v", f, before)
			}
		}
	}
	inOrder(faultsOf(t, broken))
	dir := t.TempDir()
	write(t, dir+"/a.yaml", broken)
	write(t, dir+"/b.yaml", "---\n"+keyPolicy(t, "twin", "**", "P-256")+"---\n"+keyPolicy(t, "twin", "**", "P-256")+"---\n"+doc("mode: x"))
	write(t, dir+"/c.yaml", keyPolicy(t, "other", "**", "P-256")+"---\n"+keyPolicy(t, "other", "**", "P-256"))
	write(t, dir+"/d.yaml", broken)
	_, err := Load(dir)
	var faults Errors
	if !errors.As(err, &faults) {
		t.Fatal(err)
	}
	inOrder(faults)
	// What is the file's own comes last, and behind it what was left out.
	all := Errors{{Line: 2}, {Text: "own"}, {Line: 1}}
	for len(all) < maxFaults {
		all.add(Fault{Line: 3})
	}
	all.add(Fault{Line: 1})
	all.inOrder()
	if all[0].Line != 1 || all[maxFaults-1].Text != "own" || !strings.Contains(all[maxFaults].Text, "more faults follow") {
		t.Errorf("%v … %v", all[0], all[maxFaults-1:])
	}
}

func TestAccepted(t *testing.T) {
	good := keyPolicy(t, "p", "**", "P-256")
	for rule, c := range map[string]struct {
		data string
		want int
	}{
		"empty":                 {"", 0},
		"comments only":         {"# nothing yet\n", 0},
		"separators only":       {"---\n---\n# x\n...\n", 0},
		"null document":         {"null\n---\n~\n", 0},
		"v1alpha1":              {strings.Replace(good, "v1beta1", "v1alpha1", 1), 1},
		"carriage returns":      {strings.ReplaceAll(good, "\n", "\r\n"), 1},
		"byte order mark":       {"\ufeff" + good, 1},
		"status is let be":      {good + "status: {conditions: [{type: Ready}], observedGeneration: 1}\n", 1},
		"metadata is let be":    {strings.Replace(good, "  name: p\n", "  name: p\n  uid: x\n  generation: 3\n  finalizers: [a]\n  labels: {a: b}\n  managedFields: [{fieldsV1: {\"f:spec\": {\".\": {}}}}]\n", 1), 1},
		"empty mode":            {good + "  mode: ''\n", 1},
		"null fields are unset": {good + "  mode:\n  match: null\n  policy: ~\n", 1},
		"ctlog: {}":             {good + "    ctlog: {}\n", 1},
		"legacy":                {good + "    signatureFormat: legacy\n", 1},
		"empty List":            {"apiVersion: v1\nkind: List\nitems: []\n", 0},
		"anchors": {doc("images: [{glob: &g \"**\"}, {glob: *g }]\nauthorities:\n- key: &k\n    data: " +
			block(publicPEM(t, "P-256"), 6) + "\n- key: *k"), 1},
		"List": {"apiVersion: v1\nkind: List\nmetadata: {resourceVersion: ''}\nitems:\n- " +
			strings.ReplaceAll(strings.TrimSpace(good), "\n", "\n  ") + "\n", 1},
		"ClusterImagePolicyList": {"apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicyList\nitems:\n- " +
			strings.ReplaceAll(strings.TrimSpace(good), "\n", "\n  ") + "\n", 1},
		"JSON with tabs": {fmt.Sprintf("{\n\t\"apiVersion\": \"policy.sigstore.dev/v1beta1\",\n\t\"kind\": \"ClusterImagePolicy\",\n\t\"metadata\": {\"name\": \"p\"},\n"+
			"\t\"spec\": {\"images\": [{\"glob\": \"ghcr.io/**\"}],\n\t\t\"authorities\": [{\"key\": {\"data\": %q}}]}\n}\n", publicPEM(t, "P-256")), 1},
	} {
		t.Run(rule, func(t *testing.T) {
			if got := mustParse(t, c.data); len(got) != c.want {
				t.Errorf("%d policies, want %d", len(got), c.want)
			}
		})
	}
}

// A file as large as may be, without aliases, is not taken for a bomb.
func TestLargeHonestFile(t *testing.T) {
	var b strings.Builder
	for i := 0; b.Len() < plainSize-80<<10; i++ {
		b.WriteString("---\n" + strings.Replace(keyPolicy(t, fmt.Sprintf("p%d", i), "**", "Ed25519"),
			"data: "+block(publicPEM(t, "Ed25519"), 8), "data: "+block(strings.Repeat(publicPEM(t, "Ed25519"), MaxKeys), 8), 1))
	}
	if got := mustParse(t, b.String()); len(got) < 80 {
		t.Errorf("%d policies", len(got))
	}
}

func TestAliasBombs(t *testing.T) {
	laughs := "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
	for i := 1; i < 20; i++ {
		laughs += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 9), ","))
	}
	keys := strings.Repeat(publicPEM(t, "P-256"), 60)
	item := "{apiVersion: policy.sigstore.dev/v1beta1, kind: ClusterImagePolicy, metadata: {name: a}, spec: {images: [{glob: a}], authorities: " +
		"&as [" + strings.TrimSuffix(strings.Repeat("*k,", MaxAuthorities-1), ",") + "]}}"
	for name, c := range map[string]struct{ data, want string }{
		"billion laughs, not a policy":   {laughs, `kind ""`},
		"billion laughs in metadata":     {"apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nspec: {}\nmetadata:\n  " + strings.ReplaceAll(laughs, "\n", "\n  "), "metadata.name: missing"},
		"many policies of many keys":     {"apiVersion: v1\nkind: List\nmetadata: &k {key: {data: " + fmt.Sprintf("%q", keys) + "}}\nitems:\n- &i " + item + strings.Repeat("\n- *i", MaxPolicies-1) + "\n", "aliases in this file stand for more than"},
		"long list of long lists of one": {"apiVersion: v1\nkind: List\nmetadata: &k {static: {action: " + strings.Repeat("x", 4000) + "}}\nitems:\n- &i " + item + strings.Repeat("\n- *i", MaxPolicies-1) + "\n", "static.action"},
	} {
		t.Run(name, func(t *testing.T) {
			faults := faultsOf(t, c.data) // what goes off instead does not end
			if !strings.Contains(faults.Error(), c.want) {
				t.Errorf("got %s\nwant it to say: %s", faults, c.want)
			}
			if len(faults) > maxFaults+1 || len(faults.Error()) > maxErrorText+64 {
				t.Errorf("%d faults, %d bytes", len(faults), len(faults.Error()))
			}
		})
	}
}

func TestForeignTextIsEscapedAndCut(t *testing.T) {
	long := strings.Repeat("ü", 5000)
	err := faultsOf(t, doc("images: [{glob: \"\\e[31m\\n"+long[:900]+"\"}]\n"+staticPass+"\n\""+long+"\": x\nmode: \""+long[:2000]+"\""))
	if text := err.Error(); len(text) > 2048 || strings.ContainsAny(text, "\x1b") || strings.Count(text, "\n") != len(err)-1 {
		t.Errorf("%d bytes: %q", len(text), text)
	}
	f := Fault{File: "a\nb: ok", Line: 1, Text: "x"}
	if diff := cmp.Diff(`"a\nb: ok":1: x`, f.String()); diff != "" {
		t.Error(diff)
	}
}

// A file that is all faults must fill neither memory nor a log with them.
func TestFaultsAreBounded(t *testing.T) {
	var flood strings.Builder
	for i := range 20 * maxFaults {
		fmt.Fprintf(&flood, "f%d: x\n", i)
	}
	faults := faultsOf(t, doc(flood.String()))
	if len(faults) != maxFaults+1 || !strings.Contains(faults[maxFaults].Text, "more faults follow") {
		t.Errorf("%d faults, the last: %v", len(faults), faults[len(faults)-1])
	}
	if text := faults.Error(); len(text) > maxErrorText+64 || !strings.HasSuffix(text, " more") {
		t.Errorf("%d bytes, ending in %q", len(text), text[max(0, len(text)-40):])
	}
}
