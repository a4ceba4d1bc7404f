package harness

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Process is a daemon with its output in a file.
type Process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
}

// StartProcess starts the program at path. What it writes is appended to dir/name.log.
func StartProcess(dir, name, path string, env []string, args ...string) (*Process, error) {
	p := &Process{name: name, log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the log of %s: %w", name, err)
	}
	defer log.Close()
	p.cmd = exec.Command(path, args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = append(os.Environ(), env...)
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // the outcome is read from ProcessState
		close(p.done)
	}()
	return p, nil
}

// Signal sends s to the process.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// PID is the process's ID inside the namespace.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.done }

// Stop sends SIGTERM and returns the exit code. A process that is still there
// after limit is killed, and that is an error.
func (p *Process) Stop(limit time.Duration) (int, error) {
	_ = p.Signal(syscall.SIGTERM) // an error says that it has ended, which is seen next
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-timer.C:
		p.Kill()
		return -1, fmt.Errorf("%s did not end within %s of SIGTERM\n%s", p.name, limit, p.Log())
	}
}

// Kill ends the process with SIGKILL and waits for its end.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // an error says that it has ended, which is seen next
	<-p.done
}

// Log is the end of what the process has written.
func (p *Process) Log() string {
	const tail = 8 << 10
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	if len(data) > tail {
		data = data[len(data)-tail:]
		data = data[bytes.IndexByte(data, '\n')+1:]
	}
	return fmt.Sprintf("--- %s\n%s", filepath.Base(p.log), data)
}

// WaitReady waits until ready reports true. The end of the process before
// that is an error that shows its log.
func (p *Process) WaitReady(limit time.Duration, ready func() bool) error {
	ended := false
	err := Until(limit, p.name+" to be ready", func() bool {
		select {
		case <-p.done:
			ended = true
			return true
		default:
			return ready()
		}
	})
	if ended {
		err = fmt.Errorf("%s ended while starting, exit code %d", p.name, p.cmd.ProcessState.ExitCode())
	}
	if err != nil {
		p.Kill()
		return fmt.Errorf("%w\n%s", err, p.Log())
	}
	return nil
}
