package main

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/agent/breakglass"
	"github.com/cosentry/cosentry/criproxy/critest"
)

// unknown is an image that no policy matches; by digest, so that no registry is asked for it.
const unknown = "registry.example/app@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// enforcing is an agent with a runtime and no policies, which refuses everything.
func enforcing(t *testing.T, more string) *process {
	t.Helper()
	p := newProcess(t, more)
	if err := os.Mkdir(p.dir+"/policies", 0o700); err != nil {
		t.Fatal(err)
	}
	critest.Serve(t, p.dir+"/r.sock", critest.NewRuntime(0))
	p.start(t)
	p.eventually(t, "the runtime answers", func() bool { return callVersion(t, p.socket) == nil })
	return p
}

func (p *process) pull(t *testing.T) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := runtimeapi.NewImageServiceClient(critest.Dial(t, p.socket)).PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: unknown}})
	return err
}

func wantRefused(t *testing.T, err error) {
	t.Helper()
	if st := status.Convert(err); st.Code() != codes.Unknown || !strings.HasPrefix(st.Message(), "SignatureValidationFailed: ") {
		t.Fatalf("not refused: %v", err)
	}
}

func wantWords(t *testing.T, what, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%s does not say %q:\n%s", what, w, text)
		}
	}
}

func TestBreakGlass(t *testing.T) {
	p := enforcing(t, "")
	config := p.dir + "/config.yaml"
	wantRefused(t, p.pull(t))

	out, errs, code := command(t, "break-glass", "--config", config, "--reason", "INC-4711", "--for", "1h")
	if code != 0 {
		t.Fatalf("exit %d\n%s%s\n%s", code, out, errs, p.log.String())
	}
	wantWords(t, "the command", out, "everything is let through until", "INC-4711")
	if err := p.pull(t); err != nil {
		t.Fatalf("with a broken glass: %v", err)
	}
	out, _, _ = command(t, "status", "--config", config)
	wantWords(t, "the status", out, "EVERYTHING IS LET THROUGH until", "by uid 0", "INC-4711")
	metrics, _ := p.get(t, "/metrics")
	wantWords(t, "the metrics", metrics, "\ncosentry_break_glass_active 1\n", `cosentry_break_glass_let_through_total{action="pull"} 1`)

	if out, errs, code = command(t, "break-glass", "--config", config, "--end"); code != 0 {
		t.Fatalf("exit %d\n%s%s", code, out, errs)
	}
	wantRefused(t, p.pull(t))
	if out, _, code = command(t, "break-glass", "--config", config, "--end"); code != 0 || !strings.Contains(out, "nothing was done") {
		t.Errorf("ended twice: exit %d, %s", code, out)
	}
	p.stop(t)
	out, _, _ = command(t, "audit", "tail", "--config", config)
	wantWords(t, "the audit log", out,
		" start enforce \"version ", " break-glass enforce \"the glass is broken: everything is let through. It was broken at ", "INC-4711",
		"deny pull -/- "+unknown, " break-glass cached \"no policy matches\"", " break-glass enforce \"the glass is whole again, by uid 0")
}

// The agent that comes after a crash must not refuse what the one before let through, nor forget to say so.
func TestGlassStaysBrokenOverARestart(t *testing.T) {
	p := newProcess(t, "")
	now, err := breakglass.Now()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := breakglass.Begin(breakglass.Path(p.socket), "INC-4711", time.Hour, whoIAm(), now); err != nil {
		t.Fatal(err)
	}
	critest.Serve(t, p.dir+"/r.sock", critest.NewRuntime(0))
	p.start(t)
	p.eventually(t, "the runtime answers", func() bool { return callVersion(t, p.socket) == nil })
	if err := p.pull(t); err != nil {
		t.Error(err)
	}
	p.says(t, "still broken at this start")
	p.stop(t)
}

func TestGlassThatCannotBeBroken(t *testing.T) {
	p := newProcess(t, "mode: enforce\n")
	config := p.dir + "/config.yaml"
	for name, tc := range map[string]struct {
		args []string
		says string
	}{
		"without a reason":   {[]string{"--for", "1h"}, "say why"},
		"without an end":     {[]string{"--reason", "x"}, "say why and for how long"},
		"for too long":       {[]string{"--reason", "x", "--for", "25h"}, "between"},
		"begun and ended":    {[]string{"--reason", "x", "--for", "1h", "--end"}, "goes without"},
		"a reason of blanks": {[]string{"--reason", " ", "--for", "1h"}, "no reason"},
	} {
		t.Run(name, func(t *testing.T) {
			_, errs, code := command(t, append([]string{"break-glass", "--config", config}, tc.args...)...)
			if code != exitUndecided || !strings.Contains(errs, tc.says) {
				t.Errorf("exit %d: %s", code, errs)
			}
			if _, err := os.Lstat(breakglass.Path(p.socket)); !os.IsNotExist(err) {
				t.Errorf("there is a file: %v", err)
			}
		})
	}
	write(t, config, strings.Replace(readFile(t, config), "mode: enforce", "mode: observe", 1))
	if _, errs, code := command(t, "break-glass", "--config", config, "--reason", "x", "--for", "1h"); code == 0 || !strings.Contains(errs, "mode observe") {
		t.Errorf("in observe mode: exit %d: %s", code, errs)
	}
}

func TestNoPodStartsOnAnImageForSandboxesThatIsNotAccepted(t *testing.T) {
	p := enforcing(t, "sandbox: {image: \""+unknown+"\", refuse: true}\n")
	client := runtimeapi.NewRuntimeServiceClient(critest.Dial(t, p.socket))
	_, err := client.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "shop"}}})
	wantRefused(t, err)
	wantWords(t, "the refusal", status.Convert(err).Message(), "this node's image for sandboxes, "+unknown)
	p.eventually(t, "the status tells of the image", func() bool { return len(p.status(t).Sandbox.Images) == 1 })
	out, _, _ := command(t, "status", "--config", p.dir+"/config.yaml")
	wantWords(t, "the status", out, unknown+" is not on this node yet")
	p.stop(t)
}
