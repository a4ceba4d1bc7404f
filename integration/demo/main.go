// Command demo shows on a real containerd what cosentry lets run and what it
// refuses. It exits 0 only if every row came out as it should, and leaves
// nothing running, mounted or written behind: see package harness.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/cosentry/cosentry/integration/harness"
)

func main() {
	os.Exit(harness.Isolated(func() int {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		if err := run(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "demo:", err)
			return 1
		}
		return 0
	}))
}

func run(ctx context.Context) (err error) {
	began := time.Now()
	tools, err := harness.FindTools()
	if err != nil {
		return err
	}
	say("starting a registry, containerd and cosentry in namespaces of their own")
	s, err := newStage(ctx, tools)
	if err != nil {
		return err
	}
	say("ready after %s: containerd %s, cosentry in front of it, and four policies:", milliseconds(time.Since(began)), s.runtimeVersion)
	say(`"prod-signed" asks for a signature by "release-key", "attested" for one and for provenance,`)
	say(`"released" for one by "release-workflow", "cosentry" for one by "cosentry-key"`)
	fmt.Println()

	t := newTable(os.Stdout)
	t.header()
	failed, tried := 0, 0
	for _, a := range attempts {
		r := a.try(ctx, s)
		t.row(r)
		tried++
		if r.problem != "" {
			failed++
		}
	}
	fmt.Println()
	if err := s.printTimes(); err != nil {
		failed++
		fmt.Println("NOT AS EXPECTED:", err)
	}
	if err := s.printAudit(ctx, tried); err != nil {
		failed++
		fmt.Println("NOT AS EXPECTED:", err)
	}
	logs := s.node.Logs()
	if err := s.node.Close(ctx); err != nil {
		failed++
		fmt.Println("NOT AS EXPECTED:", err)
	}
	if failed > 0 {
		fmt.Fprintln(os.Stderr, logs)
		return fmt.Errorf("%d of the results above are not as expected", failed)
	}
	fmt.Printf("\nAll %d came out as expected, in %.1f s. Nothing of it is left on this machine.\n", tried, time.Since(began).Seconds())
	return nil
}

// say reports progress, beside the table and not in it.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "demo: "+format+"\n", args...) }
