package integration

import (
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/integration/harness"
)

func TestInitAndOrdinaryContainers(t *testing.T) {
	w := newWorld(t, nil)
	w.pushSigned("init:1", "init done")
	w.pushSigned("app:1", "unused")
	w.push("evil:1", "evil")
	ctx := t.Context()
	pod, err := w.kubelet.RunPod(ctx, "both", true)
	must(t, err)

	first, err := w.kubelet.Run(ctx, pod, harness.Container{Name: "init", Image: w.image("init:1")})
	must(t, err)
	if first.Output != "init done" {
		t.Errorf("the init container printed %q", first.Output)
	}
	main := harness.Container{Name: "main", Image: w.image("app:1"), Command: []string{"/bin/sleep", "600"}}
	ref, err := w.kubelet.Pull(ctx, pod, main.Image, nil)
	must(t, err)
	id, err := w.kubelet.Create(ctx, pod, main, ref, nil)
	must(t, err)
	must(t, w.kubelet.Start(ctx, id))
	exec, err := w.kubelet.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/cat", "/words"}, Timeout: 10})
	must(t, err)
	if got := strings.TrimSpace(string(exec.Stdout)); got != "unused" {
		t.Errorf("exec in the running container printed %q", got)
	}
	_, err = w.kubelet.Run(ctx, pod, harness.Container{Name: "second", Image: w.image("evil:1")})
	wantRefused(t, err, "evil", "no signature")
	status, err := w.kubelet.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	must(t, err)
	if status.Status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container that ran is %s after a refusal beside it", status.Status.State)
	}
	must(t, w.kubelet.RemovePod(ctx, pod))
}

// TestReferences pulls and runs by every kind of reference, in both forms of
// signature, from registries with and without the referrers API.
func TestReferences(t *testing.T) {
	w := newWorld(t, func(w *world, s *harness.Settings) {
		s.Policies = map[string]string{"signed.yaml": harness.KeyPolicy("signed", "127.0.0.1:*/**", w.release.PublicPEM)}
	})
	plain := harness.NewRegistry("127.0.0.1:6001", false)
	must(t, plain.Start())
	t.Cleanup(plain.Stop)
	forms := map[string]func(*testing.T, *harness.Registry, string) string{
		"unsigned": func(t *testing.T, r *harness.Registry, path string) string {
			return pushTo(t, w, r, path).DigestStr()
		},
		"classic": func(t *testing.T, r *harness.Registry, path string) string {
			digest := pushTo(t, w, r, path)
			must(t, w.release.SignClassic(t.Context(), r, digest))
			return digest.DigestStr()
		},
		"bundle": func(t *testing.T, r *harness.Registry, path string) string {
			digest := pushTo(t, w, r, path)
			must(t, w.release.SignBundle(t.Context(), r, digest))
			return digest.DigestStr()
		},
	}
	for where, registry := range map[string]*harness.Registry{"referrers API": w.Registry, "fallback tag": plain} {
		for form, push := range forms {
			for _, kind := range []string{"tag", "digest", "tag@digest"} {
				t.Run(where+"/"+form+"/by "+kind, func(t *testing.T) {
					path := form + "-" + strings.ReplaceAll(kind, "@", "-at-")
					digest := push(t, registry, path+":1")
					image := registry.Addr + "/" + path + map[string]string{
						"tag": ":1", "digest": "@" + digest, "tag@digest": ":1@" + digest,
					}[kind]
					if form == "unsigned" {
						_, err := w.run(harness.Container{Image: image})
						wantRefused(t, err, "no signatures found")
						w.wantAbsent(t, image)
						w.wantRecord(t, image, "pull", "deny")
						return
					}
					out := w.wantRun(t, image, "hello from "+path+":1")
					if !out.Pulled {
						t.Error("the image was on the node already")
					}
					if again := w.wantRun(t, image, "hello from "+path+":1"); again.Pulled {
						t.Error("the second pod pulled again, though the policy is IfNotPresent")
					}
					w.wantRecord(t, image, "create", "allow")
				})
			}
		}
	}
}

func TestMultiArchSignedAtTheIndex(t *testing.T) {
	w := newWorld(t, nil)
	index, err := w.Images.MultiArch("hello from an index")
	must(t, err)
	digest, err := w.Registry.Push("multi:1", index)
	must(t, err)
	must(t, w.release.SignClassic(t.Context(), w.Registry, digest))
	bundled, err := w.Images.MultiArch("hello from an index with a bundle")
	must(t, err)
	second, err := w.Registry.Push("multi:2", bundled)
	must(t, err)
	must(t, w.release.SignBundle(t.Context(), w.Registry, second))

	w.wantRun(t, w.image("multi:1"), "hello from an index")
	w.wantRun(t, digest.String(), "hello from an index")
	w.wantRun(t, w.image("multi:2"), "hello from an index with a bundle")

	t.Run("a manifest inside the index has no signature of its own", func(t *testing.T) {
		manifest, err := index.IndexManifest()
		must(t, err)
		inner := w.image("multi@" + manifest.Manifests[1].Digest.String())
		_, err = w.run(harness.Container{Image: inner})
		wantRefused(t, err, "no signatures found")
	})
}

// TestTwoRepositoriesOneConfig: the runtime keeps one image with two names. A
// name speaks for itself only, whatever the other was allowed.
func TestTwoRepositoriesOneConfig(t *testing.T) {
	w := newWorld(t, nil)
	img, err := w.Images.Saying("shared")
	must(t, err)
	// Another manifest with the same config and layers.
	variant := mutate.Annotations(img, map[string]string{"variant": "2"}).(v1.Image)
	first, err := w.Registry.Push("first:1", img)
	must(t, err)
	second, err := w.Registry.Push("second:1", variant)
	must(t, err)
	_, err = w.Registry.Push("third:1", img)
	must(t, err)
	must(t, w.release.SignClassic(t.Context(), w.Registry, first))
	must(t, w.release.SignBundle(t.Context(), w.Registry, second))

	one := w.wantRun(t, w.image("first:1"), "shared")
	two := w.wantRun(t, w.image("second:1"), "shared")
	if one.Ref != two.Ref {
		t.Fatalf("image IDs are %s and %s, want one", one.Ref, two.Ref)
	}
	w.wantRun(t, w.image("first:1"), "shared") // again, with both names on the node
	_, err = w.run(harness.Container{Image: w.image("third:1")})
	wantRefused(t, err, "no signatures found")
	w.pullAround(w.image("third:1"))
	_, err = w.run(harness.Container{Image: w.image("third:1")})
	wantRefused(t, err)
	w.wantRecord(t, w.image("third:1"), "create", "deny")
}

func TestPrivateRegistry(t *testing.T) {
	w := newWorld(t, nil)
	w.pushSigned("app:1", "private")
	w.Registry.Username, w.Registry.Password = "reader", "open-sesame"
	image := w.image("app:1")

	_, err := w.run(harness.Container{Image: image})
	if err == nil || !strings.Contains(err.Error(), image) {
		t.Fatalf("without credentials: got %v, want a refusal that names the image", err)
	}
	_, err = w.run(harness.Container{Image: image, Auth: &runtimeapi.AuthConfig{Username: "reader", Password: "wrong-word"}})
	if err == nil {
		t.Fatal("allowed with wrong credentials")
	}
	w.wantAbsent(t, image)
	out, err := w.run(harness.Container{Image: image, Auth: &runtimeapi.AuthConfig{Username: "reader", Password: "open-sesame"}})
	must(t, err)
	if out.Output != "private" {
		t.Errorf("printed %q", out.Output)
	}
	// kubelet sends no credentials with CreateContainer: the verdict is there already.
	w.wantRun(t, image, "private")

	records, err := w.agent.Records()
	must(t, err)
	for _, secret := range []string{"open-sesame", "wrong-word"} {
		if strings.Contains(w.agent.Log(), secret) {
			t.Errorf("cosentry's log holds the password %q", secret)
		}
		for _, record := range records {
			if reason, _ := record["reason"].(string); strings.Contains(reason, secret) {
				t.Errorf("an audit record holds the password %q: %s", secret, reason)
			}
		}
	}
}

// TestMirrorByHostsToml: the image's own registry is asked only for what the mirror lacks.
func TestMirrorByHostsToml(t *testing.T) {
	w := newWorld(t, func(w *world, s *harness.Settings) {
		s.Policies = map[string]string{"signed.yaml": harness.KeyPolicy("signed", "registry.example/**", w.release.PublicPEM)}
	})
	origin := harness.NewRegistry("127.0.0.1:6002", true)
	must(t, origin.Start())
	t.Cleanup(origin.Stop)
	must(t, w.Hosts("registry.example", `server = "http://`+origin.Addr+`"
[host."http://`+w.Registry.Addr+`"]
  capabilities = ["pull", "resolve"]
`))
	w.pushSigned("team/app:1", "by a mirror")
	w.push("team/evil:1", "evil")
	must(t, w.release.SignClassic(t.Context(), origin, pushTo(t, w, origin, "team/old:1")))
	origin.Requests()

	w.wantRun(t, "registry.example/team/app:1", "by a mirror")
	for _, request := range origin.Requests() {
		if strings.Contains(request, "manifests/1") || strings.Contains(request, "/blobs/") {
			t.Errorf("the origin was asked for what the mirror has: %s", request)
		}
	}
	w.wantRun(t, "registry.example/team/old:1", "hello from team/old:1")
	_, err := w.run(harness.Container{Image: "registry.example/team/evil:1"})
	wantRefused(t, err, "registry.example/team/evil", "no signatures found")
	// The same bytes under the mirror's own name match no policy.
	_, err = w.run(harness.Container{Image: w.image("team/app:1")})
	wantRefused(t, err, "no policy matches")
}

// pushTo pushes an image that names its path.
func pushTo(t *testing.T, w *world, r *harness.Registry, path string) name.Digest {
	t.Helper()
	img, err := w.Images.Saying("hello from " + path)
	must(t, err)
	digest, err := r.Push(path, img)
	must(t, err)
	return digest
}
