package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/integration/harness"
)

// TestCreateIsBoundToContent tries to have CreateContainer run what is on the
// node and was never accepted, by every name and ID that it can be called by.
func TestCreateIsBoundToContent(t *testing.T) {
	w := newWorld(t, nil)
	signed := w.pushSigned("app:1", "signed")
	good := w.wantRun(t, w.image("app:1"), "signed").Ref
	w.pushSigned("app:2", "signed as well")
	second := w.wantRun(t, w.image("app:2"), "signed as well").Ref
	stowaway := w.push("stowaway:1", "stowaway")
	bad := w.pullAround(w.image("stowaway:1"))
	imported, err := w.Images.Saying("imported")
	must(t, err)
	must(t, w.Import(t.Context(), imported, w.image("imported:1")))
	importedID, err := w.Direct.Present(t.Context(), w.image("imported:1"))
	must(t, err)
	archive, err := w.Archive(imported, "archive")
	must(t, err)
	absent := "sha256:" + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

	pod := w.pod()

	for _, c := range []struct{ attack, image, written, says string }{
		{"its ID", bad, "", "no signatures found"},
		{"its ID without the algorithm", bad[len("sha256:"):], "", ""},
		{"the first characters of its ID", bad[len("sha256:"):][:12], "", ""},
		{"the first characters of its ID, written as a signed image", bad[len("sha256:"):][:12], w.image("app:1"), ""},
		{"its name", w.image("stowaway:1"), "", "no signatures found"},
		{"its digest", stowaway.String(), "", "no signatures found"},
		{"its ID, written as itself", bad, w.image("stowaway:1"), "no signatures found"},
		{"its ID, written as a signed image's tag", bad, w.image("app:1"), ""},
		{"its ID, written as a signed image's digest", bad, signed.String(), ""},
		{"its tag with a signed image's digest", w.image("stowaway:1@" + signed.DigestStr()), "", ""},
		{"its ID, written as a signed image's ID", bad, good, ""},
		{"its name, written as a signed image", w.image("stowaway:1"), w.image("app:1"), ""},
		{"an imported image's ID", importedID, w.image("imported:1"), "no signatures found"},
		{"an imported image's name", w.image("imported:1"), "", "no signatures found"},
		{"an imported image's ID, written as a signed one", importedID, w.image("app:1"), ""},
		{"a signed image's ID, written as the stowaway", good, w.image("stowaway:1"), ""},
		{"a signed image's ID, written as another signed digest", second, signed.String(), ""},
		{"an archive's path", archive, "", "path"},
		{"an archive's path, written as a signed image", archive, w.image("app:1"), "path"},
		{"a relative path", "./image.tar", "", ""},
		{"a path with dots", "/run/../run/x.tar", "", "path"},
		{"a path, at an ID written beside it", bad, archive, ""},
		{"an unknown name", w.image("never-seen:1"), "", "no such image on this node"},
		{"a digest that is not here", w.image("app@" + absent), "", ""},
		{"an ID that is not here", absent, w.image("app:1"), ""},
		{"no name at all", "", "", ""},
		{"a name with a line break", w.image("app:1\nSignature: ok"), "", ""},
	} {
		t.Run("refused by "+c.attack, func(t *testing.T) {
			id, err := w.kubelet.Create(t.Context(), pod, harness.Container{Name: "main", Image: c.written}, c.image, nil)
			if err == nil {
				t.Fatalf("created %s", id)
			}
			wantRefused(t, err, c.says)
			w.wantNoContainers(t, pod)
		})
		t.Run("refused as a volume by "+c.attack, func(t *testing.T) {
			volume := harness.Container{Name: "main", Image: w.image("app:1"), Volumes: map[string]string{"/data": c.written}}
			_, err := w.kubelet.Create(t.Context(), pod, volume, good, map[string]string{"/data": c.image})
			wantRefused(t, err)
			w.wantNoContainers(t, pod)
		})
	}
	t.Run("still allowed: the signed image", func(t *testing.T) { w.wantRun(t, w.image("app:1"), "signed") })
}

// TestNameIsForwardedAsID: between the verdict and the creation a name could come to mean other bytes.
func TestNameIsForwardedAsID(t *testing.T) {
	w := newWorld(t, nil)
	digest := w.pushSigned("app:1", "signed")
	id := w.wantRun(t, w.image("app:1"), "signed").Ref
	for i, image := range []string{w.image("app:1"), digest.String(), w.image("app:1@" + digest.DigestStr()), id} {
		pod := w.pod()
		c := harness.Container{Name: "main", Image: w.image("app:1"), Volumes: map[string]string{"/data": w.image("app:1")}}
		_, err := w.kubelet.Create(t.Context(), pod, c, image, map[string]string{"/data": image})
		must(t, err)
		list, err := w.Direct.Runtime.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{
			Filter: &runtimeapi.ContainerFilter{PodSandboxId: pod.Sandbox},
		})
		must(t, err)
		if got := list.Containers[0].Image.Image; got != id {
			t.Errorf("%d: asked for as %s, the runtime was asked for %s, want %s", i, image, got, id)
		}
	}
}

// wantNoContainers asks the runtime itself.
func (w *world) wantNoContainers(t *testing.T, pod *harness.Pod) {
	t.Helper()
	list, err := w.Direct.Runtime.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{
		Filter: &runtimeapi.ContainerFilter{PodSandboxId: pod.Sandbox},
	})
	must(t, err)
	if len(list.Containers) != 0 {
		t.Errorf("the pod has containers, want none: %v", list.Containers)
	}
}

// TestImportThatLies: whoever can write to containerd's image store can give
// any bytes any name, that of a signed image included.
func TestImportThatLies(t *testing.T) {
	for _, claim := range []string{"tag", "digest"} {
		t.Run("by "+claim, func(t *testing.T) {
			w := newWorld(t, nil)
			digest := w.pushSigned("app:1", "true")
			record := map[string]string{"tag": w.image("app:1"), "digest": digest.String()}[claim]
			lie, err := w.Images.Saying("false")
			must(t, err)
			must(t, w.Import(t.Context(), lie, record))

			_, err = w.run(harness.Container{Image: record})
			wantRefused(t, err)
			w.wantRecord(t, record, "create", "deny")
			// A pull brings the true bytes, whatever stood there before.
			out, err := w.run(harness.Container{Image: record, Policy: "Always"})
			must(t, err)
			if out.Output != "true" {
				t.Errorf("printed %q", out.Output)
			}
			w.wantRun(t, record, "true")
		})
	}
}

// TestPlantedBesideAJudgedImage plants other bytes in containerd's store under
// every name of an image that was pulled and judged. What then runs under any
// of its names is the judged image or nothing.
func TestPlantedBesideAJudgedImage(t *testing.T) {
	for _, planted := range []string{"tag", "digest", "ID"} {
		t.Run("under its "+planted, func(t *testing.T) {
			w := newWorld(t, nil)
			digest := w.pushSigned("app:1", "true")
			pod := w.pod()
			ref, err := w.kubelet.Pull(t.Context(), pod, w.image("app:1"), nil)
			must(t, err)
			names := map[string]string{"tag": w.image("app:1"), "digest": digest.String(), "ID": ref}
			lie, err := w.Images.Saying("false")
			must(t, err)
			must(t, w.Import(t.Context(), lie, names[planted]))

			for asked, image := range names {
				for written, name := range names {
					c := harness.Container{Name: asked + "-as-" + written, Image: name}
					id, err := w.kubelet.Create(t.Context(), pod, c, image, nil)
					if err != nil {
						t.Logf("asked for by %s, written as %s: %v", asked, written, err)
						continue
					}
					must(t, w.kubelet.Start(t.Context(), id))
					output, err := w.kubelet.Wait(t.Context(), pod, c.Name, id)
					must(t, err)
					if output != "true" {
						t.Errorf("asked for by %s, written as %s: what ran printed %q", asked, written, output)
					}
				}
			}
		})
	}
}

// TestCheckpointImage: even signed, a checkpoint is a process and no image.
func TestCheckpointImage(t *testing.T) {
	w := newWorld(t, nil)
	img, err := w.Images.Saying("restored")
	must(t, err)
	img = mutate.Annotations(img, map[string]string{
		"org.criu.checkpoint.container.name": "main", "org.criu.checkpoint.rootfsImageName": w.image("unjudged:1"),
	}).(v1.Image)
	digest, err := w.Registry.Push("checkpoint:1", img)
	must(t, err)
	must(t, w.release.SignClassic(t.Context(), w.Registry, digest))
	_, err = w.run(harness.Container{Image: w.image("checkpoint:1")})
	wantRefused(t, err, "checkpoint")
}

// TestPullByOddNames: what is not plainly an image's name is not passed on for
// the runtime to make something of.
func TestPullByOddNames(t *testing.T) {
	w := newWorld(t, nil)
	w.pushSigned("app:1", "signed")
	evil := w.push("evil:1", "evil")
	ref := w.pullAround(w.image("evil:1"))
	before := w.imageCount(t)
	pod := w.pod()
	for what, image := range map[string]string{
		"nothing":                      "",
		"an image ID":                  ref,
		"an image ID without its kind": ref[len("sha256:"):],
		"a short image ID":             ref[len("sha256:"):][:12],
		"a path":                       "/run/image.tar",
		"a relative path":              "../image.tar",
		"a transport":                  "docker-archive:/run/image.tar",
		"an address":                   "http://" + w.image("app:1"),
		"a signed tag, another digest": w.image("app:1@" + evil.DigestStr()),
		"a digest cut short":           w.image("app@" + evil.DigestStr()[:40]),
		"a space before it":            " " + w.image("app:1"),
		"a line break after it":        w.image("app:1") + "\n",
		"a zero byte in it":            w.image("app:1") + "\x00",
		"capital letters":              w.image("APP:1"),
		"a name of 5000 bytes":         w.image(strings.Repeat("a", 5000)),
	} {
		t.Run(what, func(t *testing.T) {
			_, err := w.kubelet.Pull(t.Context(), pod, image, nil)
			if err == nil {
				t.Fatalf("%q was pulled", image)
			}
			if len(err.Error()) > 1100 {
				t.Errorf("the refusal has %d bytes", len(err.Error()))
			}
		})
	}
	if after := w.imageCount(t); after != before {
		t.Errorf("the node has %d images, had %d", after, before)
	}
}

func (w *world) imageCount(t *testing.T) int {
	t.Helper()
	list, err := w.Direct.Images.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
	must(t, err)
	return len(list.Images)
}

func TestImageVolumes(t *testing.T) {
	w := newWorld(t, nil)
	w.pushSigned("app:1", "app")
	w.pushSigned("data:1", "signed data")
	w.push("evil-data:1", "unsigned data")
	c := harness.Container{
		Name: "main", Image: w.image("app:1"), Command: []string{"/bin/cat", "/data/words"},
		Volumes: map[string]string{"/data": w.image("data:1")},
	}
	out, err := w.run(c)
	must(t, err)
	if out.Output != "signed data" {
		t.Errorf("the volume holds %q", out.Output)
	}
	w.wantRecord(t, w.image("data:1"), "mount", "allow")

	c.Volumes = map[string]string{"/data": w.image("evil-data:1")}
	_, err = w.run(c)
	wantRefused(t, err, "evil-data")
	w.wantRecord(t, w.image("evil-data:1"), "pull", "deny")
	w.pullAround(w.image("evil-data:1"))
	_, err = w.run(c)
	wantRefused(t, err, "evil-data")
	w.wantRecord(t, w.image("evil-data:1"), "mount", "deny")
}

// TestObserveLetsThroughAndRecords shows the same node without teeth.
func TestObserveLetsThroughAndRecords(t *testing.T) {
	w := newWorld(t, func(_ *world, s *harness.Settings) { s.Mode = "observe" })
	w.push("evil:1", "unsigned")
	w.wantRun(t, w.image("evil:1"), "unsigned")
	w.wantRecord(t, w.image("evil:1"), "create", "deny")
}

// TestAuditNamesTheBrokenRecord changes one byte of a record.
func TestAuditNamesTheBrokenRecord(t *testing.T) {
	w := newWorld(t, nil)
	w.pushSigned("app:1", "app")
	w.wantRun(t, w.image("app:1"), "app")
	copied := filepath.Join(w.Dir, "copied")
	must(t, os.CopyFS(copied, os.DirFS(w.agent.AuditDir)))
	path := filepath.Join(copied, "audit.jsonl")
	data, err := os.ReadFile(path)
	must(t, err)
	changed := []byte(string(data))
	at := len(changed) / 4
	changed[at] ^= 1
	must(t, os.WriteFile(path, changed, 0o600))
	output, code, err := w.agent.Command(t.Context(), "audit", "verify", "--dir", copied)
	must(t, err)
	if code != 1 {
		t.Errorf("exit code %d for a changed log, want 1\n%s", code, output)
	}
}
