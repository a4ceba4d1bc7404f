package integration

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cosentry/cosentry/integration/harness"
)

// TestTagMovedUnderOtherCreates is an attack on the moment between judging and running. containerd takes the bytes of a
// new container from the record of the image's first name. A tenant copies prod's image to a repository of his own,
// so that it gets a name of his, and then moves that name to other bytes, which his own policy allows, while
// prod's containers are being created: they must never be made of his bytes.
func TestTagMovedUnderOtherCreates(t *testing.T) {
	const rounds, creators = 8, 3
	tenant, err := harness.NewKey()
	must(t, err)
	w := newWorld(t, func(w *world, s *harness.Settings) {
		s.Policies = map[string]string{
			"prod.yaml": harness.KeyPolicy("prod", w.Registry.Addr+"/prod/**", w.release.PublicPEM),
			"team.yaml": harness.KeyPolicy("team", w.Registry.Addr+"/a-team/**", tenant.PublicPEM),
		}
	})
	good, err := w.Images.Saying("good")
	must(t, err)
	evil, err := w.Images.Saying("evil")
	must(t, err)
	d, err := w.Registry.Push("prod/app:1", good)
	must(t, err)
	must(t, w.release.SignClassic(t.Context(), w.Registry, d))
	copied, err := w.Registry.Push("a-team/x:good", good)
	must(t, err)
	must(t, tenant.SignClassic(t.Context(), w.Registry, copied))
	other, err := w.Registry.Push("a-team/x:evil", evil)
	must(t, err)
	must(t, tenant.SignClassic(t.Context(), w.Registry, other))
	id := w.wantRun(t, w.image("prod/app:1"), "good").Ref

	move := func(pod *harness.Pod, to string) {
		h, err := v1.NewHash(to)
		must(t, err)
		must(t, w.Registry.Retag("a-team/x", "1", h))
		if _, err := w.kubelet.Pull(t.Context(), pod, w.image("a-team/x:1"), nil); err != nil {
			t.Fatal(err)
		}
	}
	tenants, victim := w.pod(), w.pod()
	created := 0
	for round := range rounds {
		move(tenants, copied.DigestStr())
		var mu sync.Mutex
		made := map[string]string{}
		var creates sync.WaitGroup
		stop := make(chan struct{})
		for g := range creators {
			creates.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					name := fmt.Sprintf("c%d-%d-%d", round, g, i)
					c, err := w.kubelet.Create(t.Context(), victim, harness.Container{Name: name, Image: w.image("prod/app:1")}, id, nil)
					if err != nil && !passing(err) {
						t.Errorf("create: %v", err)
					}
					if err == nil {
						mu.Lock()
						made[name] = c
						mu.Unlock()
					}
				}
			})
		}
		move(tenants, other.DigestStr())
		close(stop)
		creates.Wait()
		for name, c := range made {
			created++
			must(t, w.kubelet.Start(t.Context(), c))
			out, err := w.kubelet.Wait(t.Context(), victim, name, c)
			must(t, err)
			if !strings.Contains(out, "good") {
				t.Fatalf("round %d: a container created as %s printed %q", round, w.image("prod/app:1"), out)
			}
		}
	}
	if created == 0 {
		t.Error("no container was created in all the rounds, so nothing was tried")
	}
}

// passing are the errors of a create in the moment in which a name of its image is being moved: kubelet tries again.
func passing(err error) bool {
	return status.Code(err) == codes.NotFound ||
		strings.Contains(err.Error(), "kubelet will retry")
}

// TestPortsThatDialAlike: Go dials port 05001 as 5001, so a policy for host:5001 would be gone around.
func TestPortsThatDialAlike(t *testing.T) {
	w := newWorld(t, nil)
	image, err := w.Images.Saying("evil")
	must(t, err)
	_, err = w.Registry.Push("prod/app:1", image)
	must(t, err)
	host, port, _ := strings.Cut(w.Registry.Addr, ":")
	_, err = w.run(harness.Container{Image: host + ":0" + port + "/prod/app:1"})
	wantRefused(t, err, "leading zeros")
}
