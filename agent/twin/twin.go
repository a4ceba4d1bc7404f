// Package twin runs a test's program a second time: as another user, or in another network namespace.
//
// It promises that the second process has said what it had to say before the test goes on, and is told to end with the test.
// For tests only.
package twin

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// Start runs one test of this program as another process with more in its environment, and returns its number and the line
// that it told.
func Start(t testing.TB, test string, attr *syscall.SysProcAttr, env ...string) (pid int, told string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+test+"$") // another user cannot come by its path
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = attr
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid, strings.TrimSpace(line)
}

// Nobody is the user of whom nothing is to be believed.
func Nobody() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
}

// Tell is for the other process: it tells the test one line, and waits for the test's end.
func Tell(line string) {
	fmt.Println(line)
	_, _ = os.Stdin.Read(make([]byte, 1)) // its end is an error
}
