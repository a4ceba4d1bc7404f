package integration

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/integration/harness"
)

// TestRequestsPerDecision counts what the registry sees of decisions about
// images that are on the node, so that nobody but cosentry asks it.
func TestRequestsPerDecision(t *testing.T) {
	w := newWorld(t, func(_ *world, s *harness.Settings) {
		s.Edit = func(config map[string]any) { config["cache"] = map[string]any{"denyTTL": "1h"} }
	})
	w.pushSigned("warm-up:1", "the registry has been talked to")
	w.wantRun(t, w.image("warm-up:1"), "the registry has been talked to")
	pod := w.pod()
	for _, form := range []string{"classic", "bundle", "unsigned"} {
		digest := w.push(form+":1", form)
		switch form {
		case "classic":
			must(t, w.release.SignClassic(t.Context(), w.Registry, digest))
		case "bundle":
			must(t, w.release.SignBundle(t.Context(), w.Registry, digest))
		}
		ref := w.pullAround(w.image(form + ":1"))
		c := harness.Container{Name: form, Image: w.image(form + ":1")}
		w.Registry.Requests()
		_, err := w.kubelet.Create(t.Context(), pod, c, ref, nil)
		if form == "unsigned" {
			wantRefused(t, err)
		} else {
			must(t, err)
		}
		if cold := w.Registry.Requests(); len(cold) > 5 {
			t.Errorf("%s: %d requests for a cold decision, want at most 5:\n%s", form, len(cold), strings.Join(cold, "\n"))
		} else {
			t.Logf("%s: %d requests cold", form, len(cold))
		}
		c.Name += "-again"
		_, err = w.kubelet.Create(t.Context(), pod, c, ref, nil)
		if form == "unsigned" {
			wantRefused(t, err)
		} else {
			must(t, err)
		}
		if warm := w.Registry.Requests(); len(warm) > 0 {
			t.Errorf("%s: %d requests for a warm decision, want none:\n%s", form, len(warm), strings.Join(warm, "\n"))
		}
		if w.lastRecord(t, c.Image)["cache_hit"] != true {
			t.Errorf("%s: the record of the second decision does not say that it came from the cache", form)
		}
	}
}

// TestMemoryAtRest reads the resident memory that is cosentry's own, after some work. What that took is given back
// within a minute; what is at rest is what remains then.
func TestMemoryAtRest(t *testing.T) {
	// Each processor has buffers of its own: what is measured must not depend on how many this machine has.
	w := newWorld(t, func(_ *world, s *harness.Settings) { s.Env = append(s.Env, "GOMAXPROCS=2") })
	w.pushSigned("app:1", "signed")
	for range 3 {
		w.wantRun(t, w.image("app:1"), "signed")
	}
	// In KiB; 40 MiB together, as docs/performance.md says. What is mapped from files are pages of the program, of which the kernel maps
	// more at a time where pages are larger.
	const anonymous, mapped = 16 << 10, 24 << 10
	var kib map[string]int
	look := func(when string) {
		kib = memoryOf(t, w.agent.PID())
		if when != "" {
			t.Logf("%s: resident %d KiB, of which anonymous %d, mapped from files %d", when, kib["VmRSS"], kib["RssAnon"], kib["RssFile"])
		}
	}
	look("after work")
	err := harness.Until(2*time.Minute, "what the work took to be given back", func() bool {
		look("")
		return kib["VmRSS"] > 0 && kib["RssAnon"] <= anonymous && kib["RssFile"] <= mapped
	})
	look("at the end")
	if err != nil {
		t.Errorf("%v: want at most %d KiB anonymous, and %d mapped from files", err, anonymous, mapped)
	}
}

// memoryOf reads the sizes of proc_pid_status(5), in KiB.
func memoryOf(t *testing.T, pid int) map[string]int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	kib := map[string]int{}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[2] == "kB" {
			kib[strings.TrimSuffix(fields[0], ":")], err = strconv.Atoi(fields[1])
			must(t, err)
		}
	}
	return kib
}

// BenchmarkVersion and BenchmarkListContainers compare a call on containerd
// itself with the same call through cosentry.
func BenchmarkVersion(b *testing.B) {
	w := newWorld(b, nil)
	for name, k := range map[string]*harness.Kubelet{"direct": w.Direct, "proxied": w.kubelet} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_, err := k.Runtime.Version(b.Context(), &runtimeapi.VersionRequest{})
				must(b, err)
			}
		})
	}
}

func BenchmarkListContainers(b *testing.B) {
	const containers = 200
	w := newWorld(b, nil)
	w.pushSigned("app:1", "signed")
	ref := w.pullAround(w.image("app:1"))
	pod := w.pod()
	for i := range containers {
		_, err := w.Direct.Create(b.Context(), pod, harness.Container{Name: fmt.Sprint("c", i), Image: w.image("app:1")}, ref, nil)
		must(b, err)
	}
	for name, k := range map[string]*harness.Kubelet{"direct": w.Direct, "proxied": w.kubelet} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				list, err := k.Runtime.ListContainers(b.Context(), &runtimeapi.ListContainersRequest{})
				must(b, err)
				if len(list.Containers) != containers {
					b.Fatalf("%d containers listed", len(list.Containers))
				}
			}
		})
	}
}

// BenchmarkWarmRefusal times a whole refused creation, call and audit record
// included: it ends with the decision, which comes from the cache.
func BenchmarkWarmRefusal(b *testing.B) {
	w := newWorld(b, func(_ *world, s *harness.Settings) {
		s.Edit = func(config map[string]any) { config["cache"] = map[string]any{"denyTTL": "1h"} }
	})
	w.push("evil:1", "unsigned")
	ref := w.pullAround(w.image("evil:1"))
	pod := w.pod()
	refused := func(b *testing.B) {
		_, err := w.kubelet.Create(b.Context(), pod, harness.Container{Name: "main", Image: w.image("evil:1")}, ref, nil)
		if err == nil {
			b.Fatal("an unsigned image was accepted")
		}
	}
	refused(b)
	for b.Loop() {
		refused(b)
	}
}
