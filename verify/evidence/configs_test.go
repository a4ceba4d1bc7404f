package evidence_test

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/cosentry/cosentry/verify/evidence"
	"github.com/cosentry/cosentry/verify/limits"
)

const ociConfig = "application/vnd.oci.image.config.v1+json"

// image stores the manifest of an image with that config, and gives its entry in an index.
func (r *reg) image(config string) object {
	r.t.Helper()
	m := object{"schemaVersion": 2, "mediaType": ociManifest, "config": descriptorOf(ociConfig, r.blob("app", []byte(config)), len(config)), "layers": []object{}}
	return descriptorOf(ociManifest, r.manifest("app", "", ociManifest, m), len(mustJSON(r.t, m)))
}

func platform(of object, os, architecture string) object {
	of = maps.Clone(of)
	of["platform"] = object{"os": os, "architecture": architecture}
	return of
}

// index stores one under a type by which the registry does not look for what it names.
func (r *reg) index(entries ...object) digest.Digest {
	r.t.Helper()
	return r.manifest("app", "", ociManifest, object{"schemaVersion": 2, "mediaType": ociIndex, "manifests": entries})
}

func configOf(os, architecture, user string) string {
	return fmt.Sprintf(`{"os":%q,"architecture":%q,"config":{"User":%q}}`, os, architecture, user)
}

func fetchConfigs(t *testing.T, r *reg, image digest.Digest) *evidence.Evidence {
	t.Helper()
	e, err := newFetcher(t, evidence.Options{}).Fetch(testContext(t), evidence.Question{Repository: r.host + "/app", Digest: image, Config: true})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestConfigs(t *testing.T) {
	arm := `{"os":"linux","architecture":"arm","variant":"v7"}`
	windows := `{"os":"windows","architecture":"amd64","os.version":"10.0.1"}`
	for _, c := range []struct {
		name  string
		store func(r *reg) digest.Digest
		want  map[string]string
	}{
		{"one image", func(r *reg) digest.Digest { return r.image(configOf("linux", "amd64", "u"))["digest"].(digest.Digest) },
			map[string]string{"linux/amd64": configOf("linux", "amd64", "u")}},
		{"a config without platform", func(r *reg) digest.Digest { return r.image(`{}`)["digest"].(digest.Digest) }, map[string]string{"": `{}`}},
		{"several platforms", func(r *reg) digest.Digest {
			return r.index(platform(r.image(configOf("linux", "amd64", "a")), "linux", "amd64"), platform(r.image(arm), "linux", "arm"), r.image(windows))
		}, map[string]string{"linux/amd64": configOf("linux", "amd64", "a"), "linux/arm/v7": arm, "windows/amd64:10.0.1": windows}},
		{"attestations of a builder", func(r *reg) digest.Digest {
			one, two := platform(r.image(`{"os":"unknown","architecture":"unknown"}`), "unknown", "unknown"), descriptorOf(ociManifest, digest.FromString("not there"), 9)
			return r.index(platform(r.image(arm), "linux", "arm"), one, platform(two, "unknown", "unknown"))
		}, map[string]string{"linux/arm/v7": arm}},
		{"one image twice", func(r *reg) digest.Digest { return r.index(r.image(arm), r.image(arm)) }, map[string]string{"linux/arm/v7": arm}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReg(t)
			image := c.store(r)
			e := fetchConfigs(t, r, image)
			complete(t, e)
			got := map[string]string{}
			for key, raw := range e.Configs {
				got[key] = string(raw)
			}
			if !maps.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
			if len(e.Image) == 0 || digest.FromBytes(e.Image[0]) != image {
				t.Error("the image's manifests do not begin with the image's")
			}
			dir := t.TempDir()
			if err := e.Save(dir); err != nil {
				t.Fatal(err)
			}
			if again, err := evidence.Saved(dir); err != nil || !maps.EqualFunc(again.Configs, e.Configs, slices.Equal) {
				t.Errorf("saved and read again: %v, %v", again, err)
			}
		})
	}
}

// TestConfigsAreAllOrNone: a rule for every platform must not be judged on those that a registry was willing to show.
func TestConfigsAreAllOrNone(t *testing.T) {
	good := configOf("linux", "arm64", "nonroot")
	for _, c := range []struct {
		name  string
		store func(r *reg) digest.Digest
		cause func(error) bool
		words string
	}{
		{"a manifest that is not there", func(r *reg) digest.Digest {
			return r.index(r.image(good), descriptorOf(ociManifest, digest.FromString("x"), 9))
		}, func(err error) bool { return errors.Is(err, evidence.ErrNotFound) }, ""},
		{"a registry that is away", func(r *reg) digest.Digest {
			bad := r.image(configOf("linux", "amd64", "root"))
			r.on(bad["digest"].(digest.Digest).String(), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
			return r.index(r.image(good), bad)
		}, func(err error) bool { return errors.Is(err, evidence.ErrUnavailable) }, ""},
		{"other bytes for a config", func(r *reg) digest.Digest {
			bad := configOf("linux", "amd64", "root")
			image := r.image(bad)
			r.on(digest.FromString(bad).String(), func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write([]byte(strings.Replace(bad, "root", "user", 1)))
			})
			return r.index(r.image(good), image)
		}, mismatch, ""},
		{"other bytes for the image", func(r *reg) digest.Digest {
			r.on(subject.String(), func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write(mustJSON(r.t, object{"config": r.image(good)}))
			})
			return subject
		}, mismatch, "hash"},
		{"an image that claims to be an attestation", func(r *reg) digest.Digest {
			bad := platform(r.image(`{"os":"linux","architecture":"amd64","config":[]}`), "linux", "amd64")
			bad["annotations"] = object{"vnd.docker.reference.type": "attestation-manifest"}
			return r.index(platform(r.image(good), "linux", "arm64"), bad)
		}, mismatch, "not a config file"},
		{"a config for another platform than the index says", func(r *reg) digest.Digest {
			return r.index(platform(r.image(configOf("linux", "s390x", "root")), "linux", "amd64"), r.image(configOf("linux", "amd64", "nonroot")))
		}, mismatch, "index says"},
		{"two configs for one platform", func(r *reg) digest.Digest {
			return r.index(r.image(configOf("linux", "amd64", "root")), r.image(configOf("linux", "amd64", "nonroot")))
		}, mismatch, "two different configs"},
		{"an index within an index", func(r *reg) digest.Digest {
			inner := r.index(r.image(configOf("linux", "amd64", "root")))
			return r.index(r.image(good), descriptorOf(ociIndex, inner, 9))
		}, mismatch, "index within an index"},
		{"both an index and an image", func(r *reg) digest.Digest {
			image := r.image(good)
			return r.manifest("app", "", ociManifest, object{"config": image, "layers": []object{image}, "manifests": []object{image}})
		}, mismatch, ""},
		{"neither an index nor an image", func(r *reg) digest.Digest { return r.manifest("app", "", ociManifest, object{"schemaVersion": 2}) }, mismatch, "no config"},
		{"only attestations", func(r *reg) digest.Digest { return r.index(platform(r.image(good), "unknown", "unknown")) }, mismatch, "no image"},
		{"a config that is a list", func(r *reg) digest.Digest { return r.image(`[]`)["digest"].(digest.Digest) }, mismatch, "not a config file"},
		{"a config that is null", func(r *reg) digest.Digest { return r.image(`null`)["digest"].(digest.Digest) }, mismatch, "not a config file"},
		{"a config that is too large", func(r *reg) digest.Digest {
			return r.image(`{"x":"` + strings.Repeat("a", int(limits.Config.Max())) + `"}`)["digest"].(digest.Digest)
		}, over(limits.Config), ""},
		{"too many platforms", func(r *reg) digest.Digest {
			return r.index(slices.Repeat([]object{r.image(good)}, int(limits.Platforms.Max())+1)...)
		}, over(limits.Platforms), ""},
		{"a digest that is a path", func(r *reg) digest.Digest { return r.index(r.image(good), object{"digest": "sha256:../../x"}) }, mismatch, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReg(t)
			e := fetchConfigs(t, r, c.store(r))
			if e.Configs != nil || e.Image != nil {
				t.Errorf("configs: %q", e.Configs)
			}
			if e.Incomplete == nil || !c.cause(e.Incomplete) || !strings.Contains(e.Incomplete.Error(), c.words) {
				t.Errorf("incomplete: %v", e.Incomplete)
			}
		})
	}
}
