package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/criproxy/critest"
)

// TestMain is cosentry itself where a test starts it as a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("COSENTRY_TEST_MAIN") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// lines is what a process logs.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// process is a running agent on a node of its own.
type process struct {
	dir, socket, http string
	cmd               *exec.Cmd
	log               lines
	unread            io.Closer // ends the reading of its standard error
	ended             chan struct{}
	err               error // of Wait, once ended is closed
}

// newProcess has settings for an agent in front of <dir>/r.sock, and has not started it.
func newProcess(t *testing.T, more string) *process {
	t.Helper()
	dir, err := os.MkdirTemp("", "co") // short: a socket's path may have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("tcp", "127.0.0.1:0") // free a moment later; it is tried again should it be taken
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := &process{dir: dir, socket: dir + "/p.sock", http: l.Addr().String(), ended: make(chan struct{})}
	write(t, dir+"/config.yaml", `
apiVersion: cosentry.dev/v1alpha1
kind: NodeConfig
listen: `+p.socket+`
runtime: {endpoint: `+dir+`/r.sock, type: cri}
policies: {dir: `+dir+`/policies}
registry: {hostsDir: "", dockerConfig: ""}
evidence: {dir: ""}
trust: {dir: `+dir+`, cacheDir: `+dir+`/trust, updatePublicGood: false}
http: {address: "`+p.http+`"}
`+more)
	if !strings.Contains(more, "audit:") {
		write(t, dir+"/config.yaml", readFile(t, dir+"/config.yaml")+"audit: {dir: "+dir+"/audit}\n")
	}
	p.cmd = exec.Command(os.Args[0], "run", "--config", dir+"/config.yaml")
	p.cmd.Env = append(os.Environ(), "COSENTRY_TEST_MAIN=1", "GORACE=atexit_sleep_ms=0")
	return p
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func (p *process) start(t *testing.T) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr, p.unread = w, r
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go io.Copy(&p.log, r) //nolint:errcheck // it ends with the process or with the pipe
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // ended already, as a rule
		<-p.ended
		r.Close()
	})
}

// eventually waits for ok, while the process is alive.
func (p *process) eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		select {
		case <-p.ended:
			t.Fatalf("waiting until %s: the agent is gone: %v\n%s", what, p.err, p.log.String())
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("waited too long until %s\n%s", what, p.log.String())
		}
	}
}

func (p *process) says(t *testing.T, words string) {
	t.Helper()
	p.eventually(t, fmt.Sprintf("it says %q", words), func() bool { return strings.Contains(p.log.String(), words) })
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// stop asks the agent to end and sees that it does so well.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	p.endsWell(t)
}

func (p *process) endsWell(t *testing.T) {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(40 * time.Second):
		t.Fatalf("it does not end\n%s", p.log.String())
	}
	if p.err != nil {
		t.Fatalf("it ended with %v\n%s", p.err, p.log.String())
	}
}

func (p *process) status(t *testing.T) (s sight.Status) {
	t.Helper()
	p.eventually(t, "it tells its status", func() (ok bool) {
		var err error
		s, err = sight.Agent{Socket: p.dir + "/agent.sock"}.Status(context.Background())
		return err == nil
	})
	return s
}

func (p *process) get(t *testing.T, path string) (body string, code int) {
	t.Helper()
	resp, err := http.Get("http://" + p.http + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(data), resp.StatusCode
}

func TestSocketOfSystemd(t *testing.T) {
	p := newProcess(t, "")
	given := p.dir + "/given.sock"
	l, err := net.Listen("unix", given)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// The shell sets LISTEN_PID, which is not known before the process is there.
	args := append([]string{"/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`}, p.cmd.Args...)
	env := p.cmd.Env
	p.cmd = exec.Command(args[0], args[1:]...)
	p.cmd.Env, p.cmd.ExtraFiles = append(env, "LISTEN_FDS=1"), []*os.File{f}
	critest.Serve(t, p.dir+"/r.sock", critest.NewRuntime(0))
	p.start(t)
	p.eventually(t, "the runtime answers through systemd's socket", func() bool { return callVersion(t, given) == nil })
	p.says(t, `"msg":"serving","socket":"`+given+`"`)
	if s := p.status(t); s.Listen != given {
		t.Errorf("status names %s, the socket is %s", s.Listen, given)
	}
	if _, err := os.Lstat(p.socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket of the settings was made as well (%v)", err)
	}
	p.stop(t)
	if _, err := os.Lstat(given); err != nil {
		t.Errorf("systemd's socket is gone: %v", err)
	}
}

// TestAuditThatCannotBeWritten: whoever looks at the node is told, and where the owner requires records
// the node is not ready, because it refuses everything.
func TestAuditThatCannotBeWritten(t *testing.T) {
	for name, required := range map[string]bool{"required": true, "not required": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "audit")
			// The log refuses a folder that others may write.
			if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777)); err != nil {
				t.Fatal(err)
			}
			p := newProcess(t, fmt.Sprintf("audit: {dir: %s, required: %v}\n", dir, required))
			if err := os.Mkdir(p.dir+"/policies", 0o700); err != nil {
				t.Fatal(err)
			}
			critest.Serve(t, p.dir+"/r.sock", critest.NewRuntime(0))
			p.start(t)
			p.eventually(t, "the runtime answers", func() bool { return callVersion(t, p.socket) == nil })
			s := p.status(t)
			if s.Audit.Fault == "" || s.Audit.Required != required || (s.NotReady != "") != required {
				t.Errorf("status: ready %q, audit %+v", s.NotReady, s.Audit)
			}
			body, code := p.get(t, "/readyz")
			if (code == http.StatusServiceUnavailable) != required || strings.Contains(body, "audit") != required {
				t.Errorf("/readyz: %d %s", code, body)
			}
			if body, _ := p.get(t, "/metrics"); !strings.Contains(body, "\ncosentry_audit_writable 0\n") || !strings.Contains(body, "\ncosentry_audit_faults_total 1\n") {
				t.Errorf("the metrics do not tell:\n%s", body)
			}
			out, _, exit := command(t, "status", "--config", p.dir+"/config.yaml")
			if !strings.Contains(out, "NOT BEING WRITTEN") || (exit != 0) != required {
				t.Errorf("cosentry status: exit %d\n%s", exit, out)
			}
			if err := os.Chmod(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			p.eventually(t, "it is over once the folder is mended", func() bool { return p.status(t).Audit.Fault == "" })
			if body, code := p.get(t, "/readyz"); code != http.StatusOK {
				t.Errorf("/readyz after that: %d %s", code, body)
			}
			p.stop(t)
		})
	}
}
