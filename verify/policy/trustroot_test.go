package policy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cosentry/cosentry/verify/limits"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// rootDoc is a TrustRoot with one line of spec, which is line 5.
func rootDoc(name, spec string) string {
	return "apiVersion: policy.sigstore.dev/v1alpha1\nkind: TrustRoot\nmetadata: {name: " + name + "}\nspec:\n  " + spec + "\n"
}

// publicGood is a file of the public-good instance: a real one of its kind.
func publicGood(t testing.TB, file string) string {
	t.Helper()
	data, err := os.ReadFile("../trustroot/publicgood/" + file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// archive is a gzipped tar with one file of n bytes that do not compress.
func archive(t testing.TB, n int) string {
	t.Helper()
	var b bytes.Buffer
	zipped, err := gzip.NewWriterLevel(&b, gzip.NoCompression)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(zipped)
	if err := w.WriteHeader(&tar.Header{Name: "repository/root.json", Mode: 0o644, Size: int64(n)}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(bytes.Repeat([]byte("x"), n)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// sigstoreKeys is the spec of a TrustRoot with keys of every kind.
func sigstoreKeys(t testing.TB) string {
	c := testChain(t, false)
	authority := func(chain string) string {
		return "{subject: {organization: test, commonName: ca}, uri: 'https://ca.example', certChain: " + b64(chain) + "}"
	}
	log := func(hash, key string) string {
		return "{baseURL: 'https://log.example', hashAlgorithm: " + hash + ", publicKey: " + b64(publicPEM(t, key)) + "}"
	}
	return "sigstoreKeys: {certificateAuthorities: [" + authority(c.caPEM) + "], tLogs: [" + log("SHA2_256", "P-256") +
		"], ctLogs: [" + log("sha-256", "RSA 2048") + "], timestampAuthorities: [" + authority(c.leafPEM+c.caPEM) + "]}"
}

func TestTrustRoots(t *testing.T) {
	root, trusted, mirror := publicGood(t, "root.json"), publicGood(t, "trusted_root.json"), archive(t, 10)
	data := rootDoc("keys", sigstoreKeys(t)) + "---\n" +
		rootDoc("mirror", "repository: {root: "+b64(root)+", mirrorFS: "+b64(mirror)+", targets: a/b, trustedRootTarget: own.json}") + "---\n" +
		rootDoc("remote", "remote: {root: "+b64(root)+", mirror: 'https://tuf.example/repo'}") + "status: {conditions: []}\n---\n" +
		rootDoc("json", "trustedRootJSON: "+fmt.Sprintf("%q", trusted))
	parsed, err := Parse("test.yaml", []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	want := []*TrustRoot{
		{Name: "mirror", Repository: &TUFRepository{Root: []byte(root), MirrorFS: []byte(mirror), Targets: "a/b", Target: "own.json"}, Source: "test.yaml:7"},
		{Name: "remote", Remote: &TUFRemote{Root: []byte(root), Mirror: "https://tuf.example/repo", Targets: "targets", Target: "trusted_root.json"}, Source: "test.yaml:13"},
		{Name: "json", JSON: []byte(trusted), Source: "test.yaml:20"},
	}
	if diff := cmp.Diff(want, parsed.TrustRoots[1:], alike); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	keys := parsed.TrustRoots[0].Keys
	if len(keys.CertificateAuthorities) != 1 || len(keys.TLogs) != 1 || len(keys.CTLogs) != 1 || len(keys.TimestampAuthorities) != 1 {
		t.Fatalf("%+v", keys)
	}
	for _, l := range append(keys.TLogs, keys.CTLogs...) {
		if l.HashAlgorithm != "sha256" || l.BaseURL != "https://log.example" || !strings.HasPrefix(string(l.PublicKey), "-----BEGIN") {
			t.Errorf("log %+v", l)
		}
	}
	if ca := keys.CertificateAuthorities[0]; ca.Organization != "test" || ca.CommonName != "ca" || ca.URI != "https://ca.example" {
		t.Errorf("authority %+v", ca)
	}
	s, err := NewSet(parsed)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range s.TrustRoots() {
		got = append(got, r.Name)
	}
	if diff := cmp.Diff([]string{"json", "keys", "mirror", "remote"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if r := s.TrustRoots()[2]; r.Repository == nil {
		t.Errorf("mirror: %v", r)
	}
	if all := s.Documents(); len(all.TrustRoots) != 4 {
		t.Errorf("%d TrustRoots among the documents", len(all.TrustRoots))
	}
}

func TestTrustRootLists(t *testing.T) {
	one := strings.ReplaceAll(strings.TrimSpace(rootDoc("keys", sigstoreKeys(t))), "\n", "\n  ")
	for _, head := range []string{"apiVersion: policy.sigstore.dev/v1alpha1\nkind: TrustRootList\n", "apiVersion: v1\nkind: List\n"} {
		parsed, err := Parse("test.yaml", []byte(head+"items:\n- "+one+"\n"))
		if err != nil || len(parsed.TrustRoots) != 1 {
			t.Errorf("%s: %d, %v", head, len(parsed.TrustRoots), err)
		}
	}
}

func TestTrustRootRefused(t *testing.T) {
	c := testChain(t, false)
	root := publicGood(t, "root.json")
	subject := "subject: {organization: o, commonName: c}"
	ca := func(chain string) string {
		return "sigstoreKeys: {certificateAuthorities: [{" + subject + ", uri: 'https://ca.example', certChain: " + chain + "}]}"
	}
	good := "{" + subject + ", uri: 'https://ca.example', certChain: " + b64(c.caPEM) + "}"
	log := func(fields string) string {
		return "sigstoreKeys: {certificateAuthorities: [" + good + "], tLogs: [{" + fields + "}]}"
	}
	remote := func(fields string) string { return "remote: {root: " + b64(root) + ", " + fields + "}" }
	mirror := func(fields string) string { return "repository: {root: " + b64(root) + ", " + fields + "}" }
	key := "publicKey: " + b64(publicPEM(t, "P-256"))
	for _, c := range []struct{ rule, spec, want string }{
		{"nothing", "{}", "spec: missing: one of sigstoreKeys, repository, remote or trustedRootJSON"},
		{"two", "{sigstoreKeys: {}, remote: {}}", "spec: has sigstoreKeys and remote: keep one"},
		{"unknown field", "{tuf: {}}", "spec.tuf: unknown field"},
		{"keys: none", "sigstoreKeys: {}", "spec.sigstoreKeys: missing: certificateAuthorities or timestampAuthorities"},
		{"keys: no authority", "sigstoreKeys: {tLogs: []}", "certificateAuthorities or timestampAuthorities are needed"},
		{"keys: old name of a field", "sigstoreKeys: {certificateAuthority: []}", "sigstoreKeys.certificateAuthority: unknown field"},
		{"chain: missing", "sigstoreKeys: {certificateAuthorities: [{" + subject + ", uri: 'https://a.example'}]}", "certificateAuthorities[0].certChain: missing"},
		{"chain: no base64", ca("'!!'"), "certChain: is not base64"},
		{"chain: PEM without base64", ca(c.ca), "certChain: is not base64"},
		{"chain: no PEM", ca(b64("hello")), `certChain: "hello" is not part of a PEM block`},
		{"chain: a leaf", ca(b64(c.leafPEM + c.caPEM)), "certChain: holds a certificate that may not issue others"},
		{"chain: no root", ca(b64(c.leafPEM)), "certChain: holds no root"},
		{"chain: damaged", ca(b64(strings.Replace(c.caPEM, "MII", "MIJ", 1))), "certChain: PEM block 1: not a certificate"},
		{"chain: too many", ca(b64(strings.Repeat(c.caPEM, MaxCertificates+1))), "certChain: holds more than 64 certificates"},
		{"authority: no subject", "sigstoreKeys: {certificateAuthorities: [{uri: 'https://a.example', certChain: " + b64(c.caPEM) + "}]}", "certificateAuthorities[0].subject: missing"},
		{"authority: half a subject", "sigstoreKeys: {certificateAuthorities: [{subject: {commonName: c}, uri: 'https://a.example', certChain: " + b64(c.caPEM) + "}]}", "subject.organization: missing"},
		{"authority: no uri", "sigstoreKeys: {certificateAuthorities: [{" + subject + ", certChain: " + b64(c.caPEM) + "}]}", "certificateAuthorities[0].uri: missing"},
		{"timestamps: two leaves", "sigstoreKeys: {timestampAuthorities: [{" + subject + ", uri: 'https://a.example', certChain: " + b64(c.leafPEM+c.leafPEM+c.caPEM) + "}]}", "timestampAuthorities[0].certChain: holds more than one certificate that signs timestamps"},
		{"log: no key", log("baseURL: 'https://a.example', hashAlgorithm: sha256"), "tLogs[0].publicKey: missing"},
		{"log: no url", log("hashAlgorithm: sha256, " + key), "tLogs[0].baseURL: missing"},
		{"log: no hash", log("baseURL: 'https://a.example', " + key), "tLogs[0].hashAlgorithm: missing"},
		{"log: unknown hash", log("baseURL: 'https://a.example', hashAlgorithm: md5, " + key), `tLogs[0].hashAlgorithm: "md5" is not what`},
		{"log: a hash that no log uses", log("baseURL: 'https://a.example', hashAlgorithm: sha512, " + key), `"sha512" is not what`},
		{"log: two keys", log("baseURL: 'https://a.example', hashAlgorithm: sha256, publicKey: " + b64(publicPEM(t, "P-256")+publicPEM(t, "P-384"))), "publicKey: holds more than one key"},
		{"log: a certificate", log("baseURL: 'https://a.example', hashAlgorithm: sha256, publicKey: " + b64(c.caPEM)), "publicKey: PEM block 1: this is a certificate"},
		{"log: weak key", log("baseURL: 'https://a.example', hashAlgorithm: sha256, publicKey: " + b64(publicPEM(t, "RSA 1024"))), "RSA key of 1024 bits"},

		{"remote: no root", "remote: {mirror: 'https://tuf.example'}", "spec.remote.root: missing"},
		{"remote: no mirror", "remote: {root: " + b64(root) + "}", "spec.remote.mirror: missing"},
		{"remote: mirror empty", remote("mirror: ''"), "spec.remote.mirror: is empty"},
		{"remote: http", remote("mirror: 'http://tuf.example'"), `mirror: "http://tuf.example" is not an https URL`},
		{"remote: http that only looks like home", remote("mirror: 'http://127.0.0.1.example'"), "is not an https URL"},
		{"remote: http to a name that could be home", remote("mirror: 'http://localhost.example'"), "is not an https URL"},
		{"remote: a file", remote("mirror: 'file:///srv/tuf'"), "is not a URL"},
		{"remote: targets lead elsewhere", remote("mirror: 'https://tuf.example', targets: ../x"), "targets: \"../x\" is not a relative path"},
		{"remote: targets from the root", remote("mirror: 'https://tuf.example', targets: /x"), "is not a relative path"},
		{"remote: target leads elsewhere", remote("mirror: 'https://tuf.example', trustedRootTarget: a/../../x"), "trustedRootTarget: "},
		{"root: plain JSON", "remote: {mirror: 'https://tuf.example', root: '{}'}", "root: is not base64"},
		{"root: no JSON", "remote: {mirror: 'https://tuf.example', root: " + b64("hello") + "}", "spec.remote.root: is not a TUF root"},
		{"root: empty object", "remote: {mirror: 'https://tuf.example', root: " + b64("{}") + "}", "is not a TUF root"},
		{"root: other metadata", "remote: {mirror: 'https://tuf.example', root: " + b64(`{"signatures":[],"signed":{"_type":"targets"}}`) + "}", "is not a TUF root"},
		{"root: not signed by itself", "remote: {mirror: 'https://tuf.example', root: " + b64(strings.Replace(root, `"expires": "2027`, `"expires": "2037`, 1)) + "}", "is not a TUF root"},
		{"mirrorFS: missing", mirror("targets: targets"), "spec.repository.mirrorFS: missing"},
		{"mirrorFS: no archive", mirror("mirrorFS: " + b64("hello world")), "spec.repository.mirrorFS: is not a gzipped tar archive"},
		{"mirrorFS: an empty archive", mirror("mirrorFS: " + b64(empty(t))), "is not a gzipped tar archive"},
		{"mirrorFS: too large", mirror("mirrorFS: " + b64(archive(t, MaxMirror))), "mirrorFS: is "},
		{"json: no trusted root", `trustedRootJSON: '{"a": 1}'`, "spec.trustedRootJSON: is not a trusted root"},
		{"json: base64", "trustedRootJSON: " + b64(publicGood(t, "trusted_root.json")), "is not a trusted root"},
		{"json: a mapping", "trustedRootJSON: {a: b}", "trustedRootJSON: must be a string"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			got := faultsOf(t, rootDoc("r", c.spec)).Error()
			if !strings.Contains(got, c.want) || !strings.Contains(got, "test.yaml:5: spec") {
				t.Errorf("got %.400s\nwant it to say: %s", got, c.want)
			}
		})
	}
}

func empty(t *testing.T) string {
	var b bytes.Buffer
	zipped := gzip.NewWriter(&b)
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestMirrorsOnTheNodeItself(t *testing.T) {
	root := b64(publicGood(t, "root.json"))
	for _, mirror := range []string{"http://127.0.0.1:8080/tuf", "http://[::1]:8080", "http://localhost/tuf", "https://tuf.example"} {
		parsed, err := Parse("test.yaml", []byte(rootDoc("r", "remote: {root: "+root+", mirror: '"+mirror+"'}")))
		if err != nil || parsed.TrustRoots[0].Remote.Mirror != mirror {
			t.Errorf("%s: %v", mirror, err)
		}
	}
}

func TestLargeFiles(t *testing.T) {
	if MaxMirror != limits.TUFArchive.Max() {
		t.Errorf("a mirrorFS may have %d bytes here and %d where it is read", MaxMirror, limits.TUFArchive.Max())
	}
	wrap := func(s string) string {
		var b strings.Builder
		for len(s) > 76 {
			b.WriteString(s[:76] + "\n    ")
			s = s[76:]
		}
		return b.String() + s
	}
	mirror := b64(archive(t, MaxMirror-8<<10))
	largest := rootDoc("r", "repository:\n    root: "+b64(publicGood(t, "root.json"))+"\n    mirrorFS: |\n     "+strings.ReplaceAll(wrap(mirror), "\n", "\n ")) + "---\n" + keyPolicy(t, "p", "**", "P-256")
	parsed, err := Parse("test.yaml", []byte(largest))
	if err != nil || len(parsed.TrustRoots) != 1 || len(parsed.Policies) != 1 {
		t.Errorf("the largest repository, beside a policy: %d TrustRoots, %.300v", len(parsed.TrustRoots), err)
	}
	for rule, c := range map[string]struct{ data, want string }{
		"many policies":       {strings.Repeat("---\n"+keyPolicy(t, "p", "**", "P-256"), plainSize/300), "the file is larger than 1048576 bytes: split it"},
		"a million lists":     {"a: " + strings.Repeat("[", plainSize), "larger than 1048576"},
		"a million lines":     {strings.Repeat("-\n", plainSize), "larger than 1048576"},
		"past what is read":   {strings.Repeat("#", MaxFileSize+1), "larger than 8388608"},
		"a long text alone":   {"apiVersion: v1\nkind: " + strings.Repeat("x", 2*plainSize) + "\n", `apiVersion "v1"`},
		"a long text by name": {strings.Replace(keyPolicy(t, "p", "**", "P-256"), "name: p\n", "name: "+strings.Repeat("x", 2*plainSize)+"\n", 1), "metadata.name: is 2097152 bytes long"},
	} {
		if got := faultsOf(t, c.data).Error(); !strings.Contains(got, c.want) {
			t.Errorf("%s: got %.300s\nwant %s", rule, got, c.want)
		}
	}
}

// A repository that is referred to a thousand times is not decoded a thousand times.
func TestAliasesOfLargeText(t *testing.T) {
	data := "apiVersion: v1\nkind: List\nitems:\n- &r\n  " + strings.ReplaceAll(strings.TrimSpace(rootDoc("r", "repository: {root: "+b64(publicGood(t, "root.json"))+", mirrorFS: "+b64(archive(t, 2<<20))+"}")), "\n", "\n  ") + strings.Repeat("\n- *r", 1000) + "\n"
	if got := faultsOf(t, data).Error(); !strings.Contains(got, "aliases in this file stand for more than") {
		t.Errorf("%.300s", got)
	}
}

func TestTrustRootNamesAreUnique(t *testing.T) {
	one := func(file string) Documents {
		parsed, err := Parse(file, []byte(rootDoc("same", sigstoreKeys(t))+"---\n"+keyPolicy(t, "same", "a", "P-256")))
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	if s, err := NewSet(one("a.yaml")); err != nil || len(s.TrustRoots()) != 1 {
		t.Errorf("a policy may have the name of a TrustRoot: %v", err)
	}
	a, b := one("a.yaml"), one("b.yaml")
	_, err := NewSet(Documents{TrustRoots: a.TrustRoots}, Documents{TrustRoots: b.TrustRoots})
	if want := `b.yaml:1: metadata.name: TrustRoot "same" is already defined in a.yaml:1: rename or remove one`; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestLoadTrustRoots(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a.yaml", rootDoc("one", sigstoreKeys(t)))
	write(t, dir+"/b.yaml", keyPolicy(t, "p", "**", "P-256")+"---\n"+rootDoc("two", sigstoreKeys(t)))
	s, err := Load(dir)
	if err != nil || len(s.TrustRoots()) != 2 || len(s.Policies()) != 1 {
		t.Errorf("%v", err)
	}
}

// A name that no document has is none's fault: the TrustRoot may come later, and the authority fails until it does.
func TestDanglingTrustRootRefLoads(t *testing.T) {
	mustSet(t, doc("images: [{glob: a}]\nauthorities: [{keyless: {trustRootRef: not-there, identities: [{issuer: i, subject: s}]}}]"))
}
