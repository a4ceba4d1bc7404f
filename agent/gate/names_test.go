package gate

import (
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/verify"
)

func verifySubject(d digest.Digest) verify.Subject { return verify.Subject{Digest: d} }

// paths are spellings of files, from which a runtime might restore a checkpoint, and of what a
// runtime or a log might take for something else than it is.
var paths = []string{
	"/x.tar", "/var/lib/kubelet/checkpoints/checkpoint.tar", "//x.tar", "./x", "../x", "..", ".", "~", "~/x", "~root/x",
	"a/../b", "a/../../etc/shadow", "a/..", "a/./b", "a//b", "a/", "a/.hidden",
	"file:///x", "file:/x", "docker-archive:/x.tar", "oci:/x", "docker://registry.example/team/app:1", "http://registry.example/app",
	`C:\x.tar`, `\\host\share`, `a\b`,
	"\t/x", " /x", "/x ", " registry.example/team/app:1", "registry.example/team/app:1\n", "a b", "a\tb", "a\nb", "a\rb", "a\x00b", "\x00",
	"registry.example/team/app:1\x00.tar", "a\u00a0b", "a\u2028b", "a\u200bb", "\ufeffregistry.example/team/app:1", "аpp", "％2e％2e/x", "%2e%2e/x", "a%2fb",
}

func TestPathsAreRefusedWhereverTheyStand(t *testing.T) {
	for _, path := range paths {
		for place, images := range map[string][]*runtimeapi.ImageSpec{
			"image":                        {spec(path, "")},
			"image beside a good name":     {spec(path, app+":1")},
			"user_specified_image":         {spec(id("good"), path)},
			"user_specified_image, a name": {spec(app+":1", path)},
			"both":                         {spec(path, path)},
			"a mount's image":              {spec(id("good"), app+":1"), spec(path, "")},
			"a mount's image, good name":   {spec(id("good"), app+":1"), spec(path, app+":1")},
			"a mount's user_specified":     {spec(id("good"), app+":1"), spec(id("good"), path)},
		} {
			w := signedHere()
			// There is a signed image by that very name, should anybody look it up.
			w.hereAs(path, id("good"), manifest("good"))
			err := w.create(t, images[0], images[1:]...)
			if err == nil {
				t.Errorf("%q as %s was let through", path, place)
				continue
			}
			w.wantRefused(t, err)
			if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
				t.Errorf("%q as %s: control characters in %q", path, place, err)
			}
		}
		w := newWorld()
		_, err := w.pull(t, path)
		w.wantRefused(t, err)
		if len(w.subjects) != 0 {
			t.Errorf("%q was looked for at a registry", path)
		}
	}
}

func TestParseReference(t *testing.T) {
	d := manifest("x").String()
	for in, want := range map[string]string{ // repository, tag or digest
		"busybox":                          "docker.io/library/busybox latest",
		"busybox:1":                        "docker.io/library/busybox 1",
		"team/app":                         "docker.io/team/app latest",
		"docker.io/busybox":                "docker.io/library/busybox latest",
		"index.docker.io/library/busybox":  "docker.io/library/busybox latest",
		"localhost/app":                    "localhost/app latest",
		"localhost:5000/app:1":             "localhost:5000/app 1",
		"127.0.0.1:5000/app":               "127.0.0.1:5000/app latest",
		"registry.example/team/app:1":      app + " 1",
		"registry.example/team/app@" + d:   app + " " + d,
		"registry.example/team/app:1@" + d: app + " " + d,
		"registry.example/a__b/c--d/e.f":   "registry.example/a__b/c--d/e.f latest",
		"[::1]:5000/app":                   "[::1]:5000/app latest",
	} {
		ref, err := ParseReference(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if got := ref.Repository + " " + ref.Tag + ref.Digest.String(); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}

// The runtime reads these names in one way and the library by which policies match in another.
func TestNamesThatAreReadInTwoWays(t *testing.T) {
	for what, in := range map[string]string{
		"a host with an underscore, which is a path to the runtime": "a_b.example/app",
		"a host of capitals, which is no host to policies":          "REGISTRY/app",
		"a port with a leading zero, which dials like another one":  "registry.example:0443/app",
		"a port with leading zeros":                                 "127.0.0.1:05001/app:1",
		"a port that is none":                                       "registry.example:70000/app",
		"a port with a leading zero after an IPv6 address":          "[::1]:05000/app",
		"localhost in capitals":                                     "LOCALHOST/app",
	} {
		if _, err := reference.ParseDockerRef(in); err != nil {
			t.Errorf("%s: no longer a name to the runtime: %v", what, err)
		}
		if ref, err := ParseReference(in); err == nil || !IsRefusal(err) {
			t.Errorf("%s: %q gives %+v, %v", what, in, ref, err)
		}
	}
}

func TestParseReferenceRefuses(t *testing.T) {
	d := manifest("x").String()
	for what, in := range map[string]string{
		"nothing":                        "",
		"capitals in the path":           "registry.example/App",
		"two tags":                       "app:1:2",
		"two digests":                    "app@" + d + "@" + d,
		"a digest that is too short":     "app@sha256:abcd",
		"another algorithm":              "app@sha512:" + d[7:] + d[7:],
		"an unknown algorithm":           "app@md5:" + d[7:39],
		"an ID":                          d,
		"a bare ID":                      d[7:],
		"a digest without a name":        "@" + d,
		"a name that is too long":        strings.Repeat("a/", 600) + "a",
		"a path longer than 255 bytes":   "registry.example/" + strings.Repeat("a", 256),
		"a user in the host":             "user:secret@registry.example/app",
		"a query":                        "registry.example/app?x=y",
		"a fragment":                     "registry.example/app#x",
		"a wildcard":                     "registry.example/*",
		"a tag that begins with a dot":   "app:.x",
		"a tag that is too long":         "app:" + strings.Repeat("x", 129),
		"an empty tag":                   "app:",
		"a host that is only a hyphen":   "-/app",
		"letters that look like letters": "registry.exаmple/app",
	} {
		if ref, err := ParseReference(in); err == nil {
			t.Errorf("%s: %q was read as %+v", what, in, ref)
		} else if !IsRefusal(err) {
			t.Errorf("%s: %v is not a refusal", what, err)
		}
	}
}

func TestSameRepository(t *testing.T) {
	ref, err := ParseReference(app)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		app + ":1":                             true,
		app + "@" + manifest("x").String():     true,
		app:                                    false, // no runtime tells a name without tag and digest
		app + "/x:1":                           false,
		app + "x:1":                            false,
		app + ":5000/x:1":                      false,
		"x" + app + ":1":                       false,
		"x/" + app + ":1":                      false,
		strings.TrimSuffix(app, "/app") + ":1": false,
		"":                                     false,
	} {
		if got := ref.sameRepository(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

// What policies match and what the runtime acts on must be one name. Each accepted reference is
// read alike by both libraries, and names the same thing once it is pinned.
func FuzzParseReference(f *testing.F) {
	d := manifest("x").String()
	for _, s := range append(paths,
		"busybox", "docker.io/busybox", "index.docker.io/a/b:1", "registry-1.docker.io/library/x", "localhost/app", "localhost:5000/app:1@"+d,
		"LOCALHOST/app", "Registry.Example/app", "REGISTRY/app", "a.b/c", "a:1/b", "a:b", "[::1]/a", "[fe80::1]:5000/a@"+d, "0.0.0.0/a", "docker.io/a", "library/a",
		"index.docker.io/a", "docker.io:443/a", "a@"+d, "a:1@"+d, "sha256:"+d[7:20], "a-b_c__d/e", "xn--a.example/b", "1.2.3.4:0/x:latest", "a/b/c/d:T_-.", "aA/b", "a--b.c/d",
	) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseReference(s)
		if err != nil {
			if !IsRefusal(err) {
				t.Fatalf("%q: %v is not a refusal", s, err)
			}
			return
		}
		if (ref.Tag == "") == (ref.Digest == "") {
			t.Fatalf("%q: tag %q and digest %q", s, ref.Tag, ref.Digest)
		}
		docker, err := reference.ParseDockerRef(s)
		if err != nil {
			t.Fatalf("%q is accepted, but not by the runtime: %v", s, err)
		}
		ggcr, err := name.ParseReference(s, name.WeakValidation)
		if err != nil {
			t.Fatalf("%q is accepted, but policies cannot match it: %v", s, err)
		}
		registry := ggcr.Context().RegistryStr()
		if registry == name.DefaultRegistry {
			registry = "docker.io"
		}
		if got := registry + "/" + ggcr.Context().RepositoryStr(); got != ref.Repository || docker.Name() != ref.Repository {
			t.Fatalf("%q is %s here, %s to policies, %s to the runtime", s, ref.Repository, got, docker.Name())
		}
		if want := ref.Tag + ref.Digest.String(); ggcr.Identifier() != want {
			t.Fatalf("%q is %s here, %s to policies", s, want, ggcr.Identifier())
		}
		again, err := ParseReference(ref.pinned(manifest("x")))
		if err != nil || again.Repository != ref.Repository || again.Digest != manifest("x") {
			t.Fatalf("%q pinned is %+v, %v", s, again, err)
		}
		if !ref.sameRepository(ref.pinned(manifest("x"))) {
			t.Fatalf("%q is not found under its own pinned name", s)
		}
		if ref.Tag != "" && !ref.sameRepository(docker.String()) {
			t.Fatalf("%q is not found under its own name", s)
		}
	})
}
