package gate

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/verify"
)

func TestPullIsForwardedByTheDigestThatWasJudged(t *testing.T) {
	pinned := app + "@" + manifest("good").String()
	for name, tc := range map[string]struct {
		image, forwarded string
		resolved, alias  string // empty: not at all
	}{
		"by tag": {
			image: app + ":1", forwarded: pinned, resolved: app + ":1", alias: app + ":1",
		},
		"by digest": {
			image: pinned, forwarded: pinned,
		},
		"by tag and digest: the tag says nothing": {
			image: app + ":1@" + manifest("good").String(), forwarded: pinned,
		},
		"neither tag nor digest": {
			image: app, forwarded: app + "@" + manifest("good").String(), resolved: app + ":latest", alias: app + ":latest",
		},
		"an unqualified name": {
			image:     "busybox",
			forwarded: "docker.io/library/busybox@" + manifest("good").String(),
			resolved:  "docker.io/library/busybox:latest", alias: "docker.io/library/busybox:latest",
		},
		"Docker Hub's other name": {
			image:     "index.docker.io/library/busybox:1",
			forwarded: "docker.io/library/busybox@" + manifest("good").String(),
			resolved:  "docker.io/library/busybox:1", alias: "docker.io/library/busybox:1",
		},
		"a registry with a port": {
			image: "localhost:5000/app:1", forwarded: "localhost:5000/app@" + manifest("good").String(),
			resolved: "localhost:5000/app:1", alias: "localhost:5000/app:1",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			for _, tagged := range []string{app + ":latest", "docker.io/library/busybox:latest", "docker.io/library/busybox:1", "localhost:5000/app:1"} {
				w.push(tagged, "good")
			}
			resp, err := w.pull(t, tc.image)
			if err != nil {
				t.Fatal(err)
			}
			if resp.ImageRef != id("good") {
				t.Errorf("the response names %s", resp.ImageRef)
			}
			var want []string
			if tc.resolved != "" {
				want = append(want, "resolve "+tc.resolved)
			}
			want = append(want, "record allow", "forward "+tc.forwarded)
			if tc.alias != "" {
				want = append(want, "alias "+tc.alias)
			}
			if diff := cmp.Diff(want, w.events); diff != "" {
				t.Errorf("what happened (-want +got):\n%s", diff)
			}
			if s := w.subjects[0]; len(w.subjects) != 1 || s.Image != tc.image || s.Digest != manifest("good") {
				t.Errorf("judged %+v", w.subjects)
			}
		})
	}
}

func TestPullOfWhatPolicyRefuses(t *testing.T) {
	for name, image := range map[string]string{
		"by tag":                              other + ":1",
		"by digest":                           other + "@" + manifest("bad").String(),
		"a signed image's tag and the digest": app + ":1@" + manifest("bad").String(),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			_, err := w.pull(t, image)
			w.wantRefused(t, err, manifest("bad").String()[:19]+"…", `is refused by policy "prod-signed": no signature by authority`, "Sign it, or see: cosentry verify "+image)
		})
	}
}

// The tag is moved between the verdict and the pull: what was judged is what comes.
func TestTagMovedBetweenVerdictAndPull(t *testing.T) {
	w := newWorld()
	w.onForward = func() { w.push(app+":1", "bad") }
	resp, err := w.pull(t, app+":1")
	if err != nil || resp.ImageRef != id("good") {
		t.Fatalf("got %v, %v", resp, err)
	}
	if w.names[app+":1"] != id("good") || w.images[id("bad")] != nil {
		t.Error("what was not judged came to the node")
	}
}

func TestAliasFailureDoesNotFailThePull(t *testing.T) {
	w := newWorld()
	w.aliasErr = errors.New("the store is read-only")
	resp, err := w.pull(t, app+":1")
	if err != nil || resp.ImageRef != id("good") {
		t.Fatalf("got %v, %v", resp, err)
	}
	if !strings.Contains(w.log.String(), "read-only") {
		t.Error("the log does not tell")
	}
}

func TestAFailedPullIsNotAliased(t *testing.T) {
	w := newWorld()
	st, err := status.New(codes.ResourceExhausted, "no space left").WithDetails(&emptypb.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	w.forwardErr = st.Err()
	if _, err := w.pull(t, app+":1"); !errors.Is(err, w.forwardErr) || len(status.Convert(err).Details()) != 1 {
		t.Errorf("got %v; want the runtime's own error with its details", err)
	}
	if w.names[app+":1"] != "" {
		t.Error("a tag was made for what is not here")
	}
}

// What a runtime might read beside the name must not name other content.
func TestPullDropsImageRef(t *testing.T) {
	for _, noAliases := range []bool{false, true} {
		w := newWorld()
		w.noAliases = noAliases
		req := pullRequest(app + ":1")
		req.Image.ImageRef = id("bad")
		if _, err := w.gate(t).PullImage(t.Context(), req, w.forwardPull); err != nil {
			t.Fatal(err)
		}
		if got := w.pulled[0].Image.ImageRef; got != "" {
			t.Errorf("forwarded with image_ref %q", got)
		}
	}
}

func TestPullWithoutAliases(t *testing.T) {
	tagged := app + ":1"
	for name, tc := range map[string]struct {
		change  func(w *world)
		image   string
		forward string
		refused bool
		events  []string // after forward
	}{
		"what came is what was judged": {image: tagged, forward: tagged},
		"by digest nothing is compared": {
			image: app + "@" + manifest("good").String(), forward: app + "@" + manifest("good").String(),
		},
		"another image came, signed as well": {
			image: tagged, forward: tagged,
			change: func(w *world) {
				w.signed[manifest("good2")] = true
				w.onForward = func() { w.push(tagged, "good2") }
			},
			events: []string{"record allow"},
		},
		"another image came, unsigned": {
			image: tagged, forward: tagged, refused: true,
			change: func(w *world) { w.onForward = func() { w.push(tagged, "bad") } },
			events: []string{"record deny", "remove " + tagged},
		},
		"another image came, unsigned, and cannot be removed": {
			image: tagged, forward: tagged, refused: true,
			change: func(w *world) {
				w.onForward = func() { w.push(tagged, "bad") }
				w.removeErr = errors.New("in use")
			},
			events: []string{"record deny", "remove " + tagged},
		},
		"what came has no digest": {
			image: tagged, forward: tagged, refused: true,
			change: func(w *world) {
				w.onForward = func() { w.hereAs(tagged, id("new"), ""); w.tags[tagged] = ""; w.configs[""] = id("new") }
			},
			events: []string{"record deny", "remove " + tagged},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			w.noAliases = true
			if tc.change != nil {
				tc.change(w)
			}
			_, err := w.pull(t, tc.image)
			if tc.refused {
				wantMessage(t, err, codes.Unknown, "SignatureValidationFailed: ")
			} else if err != nil {
				t.Fatal(err)
			}
			i := 0
			for i < len(w.events) && w.events[i] != "forward "+tc.forward {
				i++
			}
			if i == len(w.events) {
				t.Fatalf("not forwarded as %s: %q", tc.forward, w.events)
			}
			if diff := cmp.Diff(tc.events, append([]string(nil), w.events[i+1:]...)); diff != "" {
				t.Errorf("after forward (-want +got):\n%s", diff)
			}
		})
	}
}

// Nothing that goes wrong after a pull by tag may leave the answer at yes.
func TestPullByTagThatCannotBeCompared(t *testing.T) {
	w := newWorld()
	w.noAliases = true
	w.lookupErr = status.Error(codes.Unavailable, "the runtime is restarting")
	_, err := w.pull(t, app+":1")
	wantMessage(t, err, codes.Unavailable, app+":1 could not be judged: ", "restarting")
	if len(w.events) == 0 || w.events[len(w.events)-1] != "remove "+app+":1" {
		t.Errorf("it was left on the node: %q", w.events)
	}
}

func TestPullWhenTheRuntimeCannotBeAsked(t *testing.T) {
	w := newWorld()
	w.canErr = status.Error(codes.Unavailable, "connection refused")
	_, err := w.pull(t, app+":1")
	wantMessage(t, err, codes.Unavailable, app+":1 could not be judged: ", "connection refused")
	if len(w.pulled) != 0 {
		t.Error("pulled without knowing how")
	}
}

func TestPullOfNothing(t *testing.T) {
	for name, req := range map[string]*runtimeapi.PullImageRequest{
		"an empty request": {},
		"an empty name":    pullRequest(""),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			_, err := w.gate(t).PullImage(t.Context(), req, w.forwardPull)
			w.wantRefused(t, err, "an image without a name", "no image is named")
		})
	}
}

func TestCredentialsOfTheRequestAreUsed(t *testing.T) {
	w := newWorld()
	req := pullRequest(app + ":1")
	req.Auth = &runtimeapi.AuthConfig{Username: "u", Password: "p", Auth: "a", ServerAddress: "s", IdentityToken: "i", RegistryToken: "r"}
	if _, err := w.gate(t).PullImage(t.Context(), req, w.forwardPull); err != nil {
		t.Fatal(err)
	}
	got := w.subjects[0].Credentials
	if got.Username != "u" || got.Password != "p" || got.Auth != "a" || got.ServerAddress != "s" || got.IdentityToken != "i" || got.RegistryToken != "r" {
		t.Error("credentials were lost on the way") // not printed: they would be in a log
	}
	if w.pulled[0].Auth != req.Auth {
		t.Error("the runtime does not get them")
	}
}

func TestPullOfAWarnedImageGoesOn(t *testing.T) {
	w := newWorld()
	w.verdicts[manifest("bad")] = verify.Verdict{Allowed: true, Warn: true}
	if _, err := w.pull(t, other+":1"); err != nil {
		t.Fatal(err)
	}
	if len(w.records) != 1 || w.records[0].Decision != "warn" || len(w.pulled) != 1 {
		t.Errorf("records %+v, pulled %d", w.records, len(w.pulled))
	}
}
