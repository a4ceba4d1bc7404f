package gate

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestMountedImages(t *testing.T) {
	image := func() *runtimeapi.ImageSpec { return spec(id("good"), app+":1") }
	for name, tc := range map[string]struct {
		mounts []*runtimeapi.ImageSpec
		words  string // empty: allowed
		want   []string
	}{
		"a signed one by name is forwarded by ID": {
			mounts: []*runtimeapi.ImageSpec{spec(app+":1", "")}, want: []string{"record allow", "record allow"},
		},
		"one from the host is none": {
			mounts: []*runtimeapi.ImageSpec{nil}, want: []string{"record allow"},
		},
		"an unsigned one": {
			mounts: []*runtimeapi.ImageSpec{spec(id("bad"), other+":1")}, words: "prod-signed",
			want: []string{"record allow", "record deny"},
		},
		"an unsigned one among signed ones; the rest is not asked for": {
			mounts: []*runtimeapi.ImageSpec{image(), nil, spec(id("bad"), other+":1"), image()}, words: "prod-signed",
			want: []string{"record allow", "record allow", "record deny"},
		},
		"a path": {
			mounts: []*runtimeapi.ImageSpec{spec("/x.tar", "")}, words: "it is a path",
			want: []string{"record allow", "record deny"},
		},
		"an empty one": {
			mounts: []*runtimeapi.ImageSpec{spec("", "")}, words: "no image is named",
			want: []string{"record allow", "record deny"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := signedHere()
			err := w.create(t, image(), tc.mounts...)
			if tc.words == "" {
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range w.created[0].Config.Mounts {
					if m.Image != nil && m.Image.Image != id("good") {
						t.Errorf("mounted by %q", m.Image.Image)
					}
				}
				tc.want = append(tc.want, "forward "+id("good"))
			} else {
				w.wantRefused(t, err, tc.words)
			}
			if diff := cmp.Diff(tc.want, w.events); diff != "" {
				t.Errorf("what happened (-want +got):\n%s", diff)
			}
			for i, r := range w.records {
				if want := map[bool]string{true: "create", false: "mount"}[i == 0]; r.Action != want {
					t.Errorf("record %d is of a %s", i, r.Action)
				}
			}
		})
	}
}

func TestAnUnsignedImageWithSignedMounts(t *testing.T) {
	w := signedHere()
	err := w.create(t, spec(id("bad"), other+":1"), spec(id("good"), app+":1"))
	w.wantRefused(t, err, "prod-signed")
}

// Each different image costs a decision and a record, and a pod's author chooses how many there are.
func TestMoreVolumesThanAreJudged(t *testing.T) {
	w := signedHere()
	var mounts []*runtimeapi.ImageSpec
	for i := range maxImages + 2 {
		mounts = append(mounts, spec(id("good"), fmt.Sprintf("%s:1%s", app, strings.Repeat("0", i))))
	}
	err := w.create(t, spec(id("good"), app+":1"), mounts...)
	w.wantRefused(t, err, "more than 64 different images")
	if n := len(w.records); n != 1+maxImages+1 {
		t.Errorf("%d records", n)
	}
}

func TestImageRefDoesNotNameOtherContent(t *testing.T) {
	w := signedHere()
	image, volume := spec(id("good"), app+":1"), spec(id("good"), app+":1")
	image.ImageRef, volume.ImageRef = id("bad"), id("bad")
	if err := w.create(t, image, volume); err != nil {
		t.Fatal(err)
	}
	cfg := w.created[0].Config
	for _, s := range []*runtimeapi.ImageSpec{cfg.Image, cfg.Mounts[0].Image} {
		if s.Image != id("good") || s.ImageRef != id("good") {
			t.Errorf("forwarded %v", s)
		}
	}
}
