package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/agent/cluster"
	"github.com/cosentry/cosentry/criproxy/critest"
	"github.com/cosentry/cosentry/verify/trust/kmstest"
)

// callVersion makes one call over a connection of its own.
func callVersion(t *testing.T, socket string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err := runtimeapi.NewRuntimeServiceClient(critest.Dial(t, socket)).Version(ctx, &runtimeapi.VersionRequest{})
	return err
}

// TestOutlivesItsLogReader: a journal that is restarted closes the other end of standard error. The
// agent is the node's way to its runtime, and does not die with it.
func TestOutlivesItsLogReader(t *testing.T) {
	p := newProcess(t, "")
	critest.Serve(t, p.dir+"/r.sock", critest.NewRuntime(0))
	p.start(t)
	p.says(t, "connected to the container runtime")
	p.unread.Close()
	conn := critest.Dial(t, p.socket)
	// Each is a line in the log, which is written before it is answered.
	for _, method := range []string{"/other.Service/A", "/other.Service/B", "/other.Service/C"} {
		_ = conn.Invoke(t.Context(), method, &runtimeapi.VersionRequest{}, &runtimeapi.VersionResponse{})
	}
	if err := callVersion(t, p.socket); err != nil {
		t.Errorf("after the log's reader was gone: %v", err)
	}
	p.stop(t)
}

// TestHangupReadsPoliciesAgain: where there was no folder to watch at start, the signal must count.
func TestHangupReadsPoliciesAgain(t *testing.T) {
	p := newProcess(t, "")
	p.start(t)
	p.says(t, "serving")
	if s := p.status(t); s.Policies.Revision != "" {
		t.Fatalf("policies in force without a folder: %+v", s.Policies)
	}
	write(t, filepath.Join(p.dir, "policies", "a.yaml"), static("late", "**", "fail"))
	p.signal(t, syscall.SIGHUP)
	p.eventually(t, "the policies are in force", func() bool { return p.status(t).Policies.Count == 1 })
	p.stop(t)
}

// TestHangupAsksForKeysAgain: a key that was rotated counts at once, where it would have for an hour. What could not be had
// during an outage comes the same way.
func TestHangupAsksForKeysAgain(t *testing.T) {
	services, err := kmstest.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer services.Close()
	for layer, put := range map[string]func(t *testing.T, p *process, policy string){
		"the node's": func(t *testing.T, p *process, policy string) { write(t, p.dir+"/policies/a.yaml", policy) },
		"the cluster's": func(t *testing.T, p *process, policy string) {
			write(t, p.dir+"/policies/a.yaml", static("own", "**", "pass"))
			(&synced{dir: p.dir + "/cluster"}).put(t, cluster.Contents{Documents: []cluster.File{named("p", policy)}})
		},
	} {
		t.Run(layer, func(t *testing.T) {
			vault := services.Vault
			vault.Put("release", newBlobKey(t).key.Public())
			p := newProcess(t, "")
			write(t, p.dir+"/config.yaml", readFile(t, p.dir+"/config.yaml")+"clusterPolicies: {dir: "+p.dir+"/cluster}\n")
			put(t, p, strings.Replace(static("p", "**", "fail"), "static: {action: fail}", "key: {kms: \""+vault.URI("release")+"\"}", 1))
			for name, value := range services.Env() {
				p.cmd.Env = append(p.cmd.Env, name+"="+value)
			}
			p.start(t)
			p.says(t, "fetched what policies refer to")
			p.says(t, `"msg":"serving"`)
			asked := vault.Asked()
			vault.Put("release", newBlobKey(t).key.Public())
			p.signal(t, syscall.SIGHUP)
			p.eventually(t, "the new key is there", func() bool {
				return vault.Asked() > asked && strings.Count(p.log.String(), "fetched what policies refer to") == 2
			})
			p.stop(t)
		})
	}
}

func TestHangupDuringStart(t *testing.T) {
	p := newProcess(t, "")
	// The start waits for this lock.
	lock, err := os.OpenFile(p.socket+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	p.start(t)
	p.says(t, "policies cannot be loaded") // that was before
	p.signal(t, syscall.SIGHUP)
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	p.says(t, "serving")
	p.stop(t)
}

// slowStop is a runtime whose StopContainer waits to be let go.
type slowStop struct {
	*critest.Runtime
	begun, release chan struct{}
}

func (r *slowStop) StopContainer(ctx context.Context, _ *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	close(r.begun)
	select {
	case <-r.release:
	case <-ctx.Done():
	}
	return &runtimeapi.StopContainerResponse{}, ctx.Err()
}

// TestHangupDuringDrain: killed there, the agent would cut off the calls that it waits for, and
// lose their records.
func TestHangupDuringDrain(t *testing.T) {
	p := newProcess(t, "")
	runtime := &slowStop{critest.NewRuntime(0), make(chan struct{}), make(chan struct{})}
	critest.Serve(t, p.dir+"/r.sock", runtime)
	p.start(t)
	p.eventually(t, "the runtime answers", func() bool { return callVersion(t, p.socket) == nil })
	call := make(chan error, 1)
	client := runtimeapi.NewRuntimeServiceClient(critest.Dial(t, p.socket))
	go func() {
		_, err := client.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{})
		call <- err
	}()
	<-runtime.begun
	p.signal(t, syscall.SIGTERM)
	p.eventually(t, "it drains", func() bool {
		c, err := net.Dial("unix", p.socket)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	p.signal(t, syscall.SIGHUP)
	// A status that is still told would come from before the end of its server; the call is what counts.
	close(runtime.release)
	if err := <-call; err != nil {
		t.Errorf("the call that was waited for: %v", err)
	}
	p.endsWell(t)
}
