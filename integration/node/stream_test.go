package node

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// stream starts pods one after the other and disturbs each start once, now as
// kubelet learns of the pod, now while its image is judged or pulled. Every
// pod must run in the end; restarts says that a container whose start was cut
// off may have been made a second time, as after a restart of the runtime.
func (s *site) stream(t *testing.T, prefix string, n int, restarts bool, disturb func(i int)) {
	t.Helper()
	seen := make([]atomic.Int32, n) // requests for each pod's image
	s.registry.SetIntercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		for i := range n {
			if strings.Contains(r.URL.Path, fmt.Sprintf("/%s%02d/", prefix, i)) {
				seen[i].Add(1)
			}
		}
		next.ServeHTTP(w, r)
	})
	defer s.registry.SetIntercept(nil)
	for i := range n {
		s.pushSigned(t, fmt.Sprintf("%s%02d:1", prefix, i))
		seen[i].Store(0)
	}
	var pods []string
	for i := range n {
		pod := fmt.Sprintf("%s%02d", prefix, i)
		s.sleeper(t, pod, pod+":1")
		pods = append(pods, pod)
		must(t, until(podTimeout, pod+" to be started", func() bool {
			if i%2 == 0 {
				p, err := s.KubeletPod(t.Context(), pod)
				return err == nil && p != nil
			}
			return seen[i].Load() >= int32(i/2%4+1) // sooner or later in its pull
		}))
		disturb(i)
	}
	for _, pod := range pods {
		for _, c := range s.wantRunning(t, pod) {
			if c.RestartCount != 0 && !restarts {
				t.Errorf("%s was restarted %d times", pod, c.RestartCount)
			}
		}
	}
	s.remove(t, pods...)
}

// troubleLine is a line of kubelet's log that says that something could not be reached, and runtimeLine one about its runtime: about a
// call, which names its code, about our socket, or about one on which nobody listens. kubelet asks others as well, and what it says of
// them is not about us.
var (
	troubleLine = regexp.MustCompile(`(?i)unavailable|connection refused|connection reset|no such file.*\.sock|transport|EOF|error reading from server|DeadlineExceeded`)
	runtimeLine = regexp.MustCompile(`(?i)rpc error: code =|/run/cosentry/|\.sock\b|connection refused|error reading from server`)
)

// trouble are kubelet's lines since the cursor that say so of its runtime, but for those that
// are allowed.
func (s *site) trouble(t *testing.T, cursor string, allowed *regexp.Regexp) (lines, known []string) {
	t.Helper()
	text, err := s.Journal(t.Context(), "kubelet", cursor)
	must(t, err)
	for line := range strings.Lines(text) {
		if !troubleLine.MatchString(line) || !runtimeLine.MatchString(line) {
			continue
		}
		if allowed != nil && allowed.MatchString(line) {
			known = append(known, line)
			continue
		}
		lines = append(lines, line)
	}
	return lines, known
}

// kill ends the agent with SIGKILL, as the kernel does when memory is short.
func (s *site) kill(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := s.Systemctl(ctx, "kill", "--signal=KILL", "cosentry.service")
	must(t, err)
}
