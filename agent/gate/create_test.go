package gate

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/agent/node"
	"github.com/cosentry/cosentry/verify"
)

// signedHere is a node with a signed image, pulled by tag, and an unsigned one.
func signedHere() *world {
	w := newWorld()
	w.here(app+":1", "good")
	w.here(app+"@"+manifest("good").String(), "good")
	w.here(other+":1", "bad")
	w.here(other+"@"+manifest("bad").String(), "bad")
	return w
}

func TestCreateTakesTheContentThatWasJudged(t *testing.T) {
	good := manifest("good").String()
	for name, spec := range map[string]*runtimeapi.ImageSpec{
		"kubelet's way: ID, and the name beside it": spec(id("good"), app+":1"),
		"ID, and name@digest beside it":             spec(id("good"), app+"@"+good),
		"ID, and tag@digest beside it":              spec(id("good"), app+":7@"+good),
		"ID, and a tag that the node has not":       spec(id("good"), app+":2"),
		"ID alone":                                  spec(id("good"), ""),
		"ID twice":                                  spec(id("good"), id("good")),
		"the bare ID of CRI-O":                      spec(id("good")[len("sha256:"):], app+":1"),
		"a tag":                                     spec(app+":1", ""),
		"name@digest":                               spec(app+"@"+good, ""),
		"a tag, and name@digest beside it":          spec(app+":1", app+"@"+good),
		"another name for the same content":         spec("mirror.example/app:1", app+":1"),
	} {
		t.Run(name, func(t *testing.T) {
			w := signedHere()
			w.hereAs("mirror.example/app:1", id("good"), "")
			if err := w.create(t, spec); err != nil {
				t.Fatal(err)
			}
			if len(w.created) != 1 || w.created[0].Config.Image.Image != id("good") {
				t.Errorf("forwarded %v, want image %s", w.created, id("good"))
			}
			if diff := cmp.Diff([]string{"record allow", "forward " + id("good")}, w.events); diff != "" {
				t.Errorf("what happened (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCreateRefuses(t *testing.T) {
	good, bad := manifest("good").String(), manifest("bad").String()
	for name, tc := range map[string]struct {
		spec   *runtimeapi.ImageSpec
		change func(w *world)
		words  string
	}{
		"an unsigned image by ID":                     {spec: spec(id("bad"), other+":1"), words: "prod-signed"},
		"an unsigned image by name":                   {spec: spec(other+":1", ""), words: "prod-signed"},
		"an unsigned image by digest":                 {spec: spec(other+"@"+bad, ""), words: "prod-signed"},
		"an unsigned image by ID alone":               {spec: spec(id("bad"), ""), words: "prod-signed"},
		"an unsigned image by its bare ID":            {spec: spec(id("bad")[7:], ""), words: "prod-signed"},
		"an unsigned image under a signed one's name": {spec: spec(id("bad"), app+":1"), words: "does not go by that name but by " + other + ":1"},
		"an unsigned image under a signed one's digest": {
			spec: spec(id("bad"), app+"@"+good), words: "does not go by that name",
		},
		"an unsigned image under its own name with a signed digest": {
			spec: spec(id("bad"), other+"@"+good), words: "the image on this node is not " + good[:19] + "…, the digest in its name",
		},
		"a name whose digest the node has not": {
			spec: spec(app+"@"+manifest("new").String(), ""), words: "no such image on this node",
		},
		"a record that calls itself by a signed digest": {
			change: func(w *world) { w.hereAs(app+"@"+good, id("evil"), manifest("evil")) },
			spec:   spec(app+"@"+good, ""), words: "the digest in its name",
		},
		"acting on one name while judged under another, whose digest differs": {
			change: func(w *world) { w.hereAs(app+"@"+manifest("x").String(), id("good"), "") },
			spec:   spec(app+"@"+manifest("x").String(), app+":1"), words: "the digest in its name",
		},
		"an image with no manifests": {
			change: func(w *world) { w.hereAs("local/app:1", id("bare"), "") },
			spec:   spec(id("bare"), "local/app:1"), words: "no manifest for it",
		},
		"an image with neither manifest nor name": {
			change: func(w *world) { w.hereAs("", id("bare"), "") },
			spec:   spec(id("bare"), ""), words: "it has no name on this node",
		},
		"a checkpoint, even a signed one": {
			change: func(w *world) { w.images[id("good")].Checkpoint = true },
			spec:   spec(id("good"), app+":1"), words: "it is a checkpoint",
		},
		"a checkpoint by ID alone": {
			change: func(w *world) { w.images[id("good")].Checkpoint = true },
			spec:   spec(id("good"), ""), words: "it is a checkpoint",
		},
		"an ID that is not here":                   {spec: spec(id("nowhere"), app+":1"), words: "no such image on this node"},
		"a name that is not here":                  {spec: spec("busybox", ""), words: "no such image on this node"},
		"no spec":                                  {words: "no image is named"},
		"an empty spec":                            {spec: spec("", ""), words: "no image is named"},
		"no image, though a name stands beside it": {spec: spec("", app+":1"), words: "no image is named"},
		// A policy for Docker Hub, or none that matches, must not judge what a short ID stands for.
		"a truncated ID of an unsigned image":       {spec: spec(id("bad")[7:19], ""), words: "does not go by that name"},
		"a truncated ID with its algorithm":         {spec: spec(id("bad")[:19], ""), words: "does not go by that name"},
		"ID, and a truncated ID beside it":          {spec: spec(id("bad"), id("bad")[:19]), words: "does not go by that name"},
		"a truncated ID of a signed image":          {spec: spec(id("good")[7:19], ""), words: "write its name in full"},
		"ID, and no name but a digest beside it":    {spec: spec(id("bad"), "@"+good), words: "not an image reference"},
		"ID, and a digest of another algorithm":     {spec: spec(id("bad"), other+"@sha512:"+good[7:]+good[7:]), words: "sha512"},
		"a repository that only begins like ours":   {spec: spec(id("bad"), other[:len(other)-1]+":1"), words: "does not go by that name"},
		"a repository of which ours is a beginning": {spec: spec(id("bad"), other+"/x:1"), words: "does not go by that name"},
	} {
		t.Run(name, func(t *testing.T) {
			w := signedHere()
			// Whatever is judged under Docker Hub's name passes.
			w.signed[manifest("evil")] = false
			if tc.change != nil {
				tc.change(w)
			}
			err := w.create(t, tc.spec)
			w.wantRefused(t, err, tc.words)
			if len(w.records) != 1 {
				t.Errorf("%d records", len(w.records))
			}
		})
	}
}

func TestNilConfig(t *testing.T) {
	w := signedHere()
	_, err := w.gate(t).CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{}, w.forwardCreate)
	w.wantRefused(t, err, "no image is named")
}

func TestOneConfigInTwoRepositories(t *testing.T) {
	mirror := "mirror.example/app"
	for name, tc := range map[string]struct {
		signed  string
		asked   []string
		allowed bool
	}{
		"signed in its own":            {"own", []string{"own"}, true},
		"signed in the other":          {"foreign", []string{"own", "foreign"}, true},
		"signed in none":               {"", []string{"own", "foreign"}, false},
		"signed is a third, not on it": {"elsewhere", []string{"own", "foreign"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.hereAs(mirror+"@"+manifest("foreign").String(), id("x"), manifest("foreign"))
			w.hereAs(app+"@"+manifest("own").String(), id("x"), manifest("own"))
			w.signed[manifest(tc.signed)] = true
			err := w.create(t, spec(id("x"), app+":1"))
			if (err == nil) != tc.allowed {
				t.Errorf("got %v", err)
			}
			var asked []string
			for _, s := range w.subjects {
				if s.Repository != app {
					t.Errorf("signatures were looked for in %s", s.Repository)
				}
				for _, what := range []string{"own", "foreign"} {
					if s.Digest == manifest(what) {
						asked = append(asked, what)
					}
				}
			}
			if diff := cmp.Diff(tc.asked, asked); diff != "" {
				t.Errorf("judged (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAtMostSixteenManifestsAreJudged(t *testing.T) {
	w := newWorld()
	for i := range 40 {
		m := manifest(fmt.Sprint(i))
		w.hereAs(app+"@"+m.String(), id("x"), m)
	}
	w.signed[manifest("39")] = true
	w.wantRefused(t, w.create(t, spec(id("x"), app+":1")), "prod-signed")
	if len(w.subjects) != maxManifests {
		t.Errorf("%d manifests were judged", len(w.subjects))
	}
	if w.create(t, spec(id("x"), app+"@"+manifest("39").String())) != nil {
		t.Error("the one that was named was not judged")
	}
}

func TestIDAloneIsJudgedUnderTheNamesOnTheNode(t *testing.T) {
	w := newWorld()
	w.hereAs("mirror.example/app:1", id("good"), manifest("good"))
	w.hereAs(app+":1", id("good"), manifest("good"))
	w.hereAs("NOT A NAME", id("good"), manifest("good"))
	w.failing[manifest("good")] = errors.New("x")
	if err := w.create(t, spec(id("good"), "")); err == nil {
		t.Fatal("allowed without a verdict")
	}
	var asked []string
	for _, s := range w.subjects {
		asked = append(asked, s.Image+" in "+s.Repository)
	}
	if diff := cmp.Diff([]string{"mirror.example/app:1 in mirror.example/app", app + ":1 in " + app}, asked); diff != "" {
		t.Errorf("judged as (-want +got):\n%s", diff)
	}
}

func TestARefusalOnARememberedLookupIsCheckedOnceMore(t *testing.T) {
	stale := node.Image{ID: id("x"), Names: []string{app + ":1"}, Manifests: []node.Manifest{{Digest: manifest("old"), Names: []string{app + ":1"}}}}
	for name, tc := range map[string]struct {
		change  func(w *world)
		spec    *runtimeapi.ImageSpec
		allowed bool
		lookups []string
	}{
		"the node has a signed manifest by now": {
			change:  func(w *world) { w.hereAs(app+":1", id("x"), manifest("good")) },
			allowed: true, lookups: []string{"remembered", "fresh"},
		},
		"still unsigned": {
			change:  func(w *world) { w.hereAs(app+":1", id("x"), manifest("old")) },
			lookups: []string{"remembered", "fresh"},
		},
		"it goes by the name by now": {
			change: func(w *world) {
				w.hereAs(app+":1", id("x"), manifest("good"))
				w.hereAs(other+":1", id("x"), manifest("good"))
			},
			spec:    spec(id("x"), other+":1"),
			allowed: true, lookups: []string{"remembered", "fresh"},
		},
		"it is gone by now": {
			change: func(*world) {}, lookups: []string{"remembered", "fresh"},
		},
		"an allow is not": {
			change: func(w *world) { w.signed[manifest("old")] = true }, allowed: true, lookups: []string{"remembered"},
		},
		"the refusal is remembered too, as at each retry": {
			change: func(w *world) {
				w.hereAs(app+":1", id("x"), manifest("old"))
				v, _ := w.Verify(t.Context(), verifySubject(manifest("old")))
				v.Cached = true
				w.verdicts[manifest("old")] = v
			},
			lookups: []string{"remembered"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			tc.change(w)
			w.memory[id("x")] = stale
			if tc.spec == nil {
				tc.spec = spec(id("x"), app+":1")
			}
			if err := w.create(t, tc.spec); (err == nil) != tc.allowed {
				t.Errorf("got %v", err)
			}
			if diff := cmp.Diff(tc.lookups, w.lookups); diff != "" {
				t.Errorf("look-ups (-want +got):\n%s", diff)
			}
			if len(w.records) != 1 {
				t.Errorf("%d records of one decision", len(w.records))
			}
		})
	}
}

func TestForwardsErrorsAreReturnedUnchanged(t *testing.T) {
	st, err := status.New(codes.AlreadyExists, "the container's name is taken").WithDetails(&emptypb.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	w := signedHere()
	w.forwardErr = st.Err()
	if err := w.create(t, spec(id("good"), app+":1")); !errors.Is(err, w.forwardErr) || len(status.Convert(err).Details()) != 1 {
		t.Errorf("got %v", err)
	}
}

func TestAnErrorIsNoPermissionWhateverComesWithIt(t *testing.T) {
	w := signedHere()
	w.verdicts[manifest("good")] = verify.Verdict{Allowed: true}
	w.failing[manifest("good")] = errors.New("the evidence could not be read")
	for _, s := range []*runtimeapi.ImageSpec{spec(id("good"), app+":1"), spec(id("good"), "")} {
		if err := w.create(t, s); err == nil || len(w.created) != 0 {
			t.Errorf("create of %v: %v", s, err)
		}
	}
	if _, err := w.pull(t, app+":1"); err == nil || len(w.pulled) != 0 {
		t.Errorf("pull: %v", err)
	}
}

// A pod's author chooses how many images are mounted; kubelet waits two minutes for the call.
func TestOneTimeLimitForAllImagesOfACall(t *testing.T) {
	w := signedHere()
	g := w.gate(t)
	g.o.CreateTimeout = 1 // a nanosecond: over before the first image is judged
	var images []*runtimeapi.ImageSpec
	for range 100 {
		images = append(images, spec(id("good"), app+":1"))
	}
	_, err := g.CreateContainer(t.Context(), createRequest(images[0], images[1:]...), w.forwardCreate)
	wantMessage(t, err, codes.Unknown, "RegistryUnavailable: ")
	if len(w.created) != 0 {
		t.Error("it reached the runtime")
	}
}

// Alias must know which creates are under way: see node.Creating.
func TestACreateIsAnnouncedWhileTheRuntimeIsAtIt(t *testing.T) {
	w := signedHere()
	w.onForward = func() {
		if w.creating != 1 {
			t.Errorf("%d creates are known to be under way", w.creating)
		}
	}
	if err := w.create(t, spec(id("good"), app+":1")); err != nil {
		t.Fatal(err)
	}
	if w.creating != 0 {
		t.Errorf("%d creates never end", w.creating)
	}
}
