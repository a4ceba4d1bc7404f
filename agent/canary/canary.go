// Package canary proves that a node judges what it pulls, by trying: it serves an image that was made up this moment, that
// nobody can have signed, from a registry of its own on 127.0.0.1, and has it pulled through a CRI socket.
//
// A rule that silently does nothing is the worst failure, and an image that comes through proves little by itself:
// the node's own rules may allow it. So the answer is put beside the audit record that the agent wrote about this very
// image, whose name holds 128 random bits. What came through without a record went past the agent.
//
// It promises to leave nothing behind: what was pulled is removed again and looked for afterwards, and what a canary that
// was killed has left is removed by the next one. The image holds no program; nothing of it is ever run.
//
// It must run on the node, in its network namespace: agent and runtime both ask its registry.
package canary

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/agent/gate"
	"github.com/cosentry/cosentry/criproxy"
)

// Outcome is what became of a canary.
type Outcome string

// The outcomes. Only the first two prove that policies are enforced, or would be.
const (
	// Refused: it was refused in the agent's words, and nothing of it is on the node.
	Refused Outcome = "refused"
	// Recorded: it was let through, and the agent recorded that policy refuses it, as it does in observe mode.
	Recorded Outcome = "recorded"
	// Allowed: it was let through because the node's own rules allow it, and the agent recorded that.
	Allowed Outcome = "allowed"
	// Undecided: the agent was asked and could not judge it.
	Undecided Outcome = "undecided"
	// Unseen: it is, or was, on the node, and the agent has not recorded it: this socket is not guarded.
	Unseen Outcome = "unseen"
)

// Result is what became of a canary.
type Result struct {
	Outcome Outcome `json:"outcome"`
	// Image is the canary's name, which is in no other record and in no other log line.
	Image string `json:"image"`
	// Why is how the outcome came about, in words.
	Why string `json:"why"`
	// Answer is what the socket answered; empty if it was that the image was pulled.
	Answer string `json:"answer,omitempty"`
	// Record is the agent's record of it; nil if none was found.
	Record *audit.Record `json:"record,omitempty"`
}

// Enforced reports whether the canary proves that an image is refused that policy refuses, or would be but for
// observe mode.
func (r Result) Enforced() bool { return r.Outcome == Refused || r.Outcome == Recorded }

// Seen reports whether the canary proves that calls on the socket come before the agent's gate, whatever that decides.
func (r Result) Seen() bool { return r.Outcome != Unseen && r.Outcome != "" }

// Options say where a canary is sent.
type Options struct {
	// Socket is the CRI socket: the one that kubelet uses.
	Socket string
	// AuditDir is where the agent keeps its records.
	AuditDir string
	// Namespace is the one that the pull claims to be for. Empty claims none, which is judged wherever anything is.
	Namespace string
	// Timeout bounds the attempt, without what is done to clean up; zero means a minute.
	Timeout time.Duration
}

// waits bound what comes after the answer: record is how long the record is waited for, which the agent writes before it
// answers unless its disk hangs; clean bounds cleaning up, which goes on when the attempt was given up.
type waits struct{ record, clean time.Duration }

const (
	defaultTimeout = time.Minute
	// maxAnswer bounds what is repeated of an answer, in bytes.
	maxAnswer = 1024
)

// Pull sends a canary through the socket. An error means that it could not be tried, or that something of it may be left
// on the node; the result beside an error of the second kind is whole.
func Pull(ctx context.Context, o Options) (Result, error) {
	return pull(ctx, o, waits{record: 3 * time.Second, clean: 20 * time.Second})
}

func pull(ctx context.Context, o Options, w waits) (_ Result, err error) {
	conn, err := criproxy.Dial(o.Socket)
	if err != nil {
		return Result{}, fmt.Errorf("sending a canary: %w", err)
	}
	defer conn.Close()
	c := &attempt{o: o, waits: w, images: runtimeapi.NewImageServiceClient(conn)}
	if c.o.Timeout <= 0 {
		c.o.Timeout = defaultTimeout
	}
	if err := c.ready(ctx, conn); err != nil {
		return Result{}, err
	}
	if err := c.sweep(ctx); err != nil {
		return Result{}, err
	}
	if c.image, err = newImage(); err != nil {
		return Result{}, fmt.Errorf("making a canary: %w", err)
	}
	if c.registry, err = serve(c.image); err != nil {
		return Result{}, fmt.Errorf("serving a canary: %w", err)
	}
	defer c.registry.close()
	result, err := c.try(ctx)
	// Closed before the runtime is asked to forget the image, so that a pull that was given up cannot still succeed.
	c.registry.close()
	return result, errors.Join(err, c.clean(ctx))
}

// attempt is one canary.
type attempt struct {
	o        Options
	waits    waits
	images   runtimeapi.ImageServiceClient
	image    *image
	registry *registry
	pulledID string
}

// ready asks the socket for its version, so that a socket on which nobody answers is not taken for one that refuses.
func (c *attempt) ready(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := runtimeapi.NewRuntimeServiceClient(conn).Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return fmt.Errorf("sending a canary: the CRI does not answer on %s: %s", c.o.Socket, words(err))
	}
	return nil
}

// try pulls the canary and finds out what that means.
func (c *attempt) try(ctx context.Context) (Result, error) {
	start := time.Now()
	pull, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	req := &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: c.registry.ref()}}
	if c.o.Namespace != "" {
		req.SandboxConfig = &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{
			Name: podName, Uid: c.image.name, Namespace: c.o.Namespace,
		}}
	}
	resp, answer := c.images.PullImage(pull, req)
	c.pulledID = resp.GetImageRef()
	if err := ctx.Err(); err != nil {
		return Result{}, fmt.Errorf("sending a canary: %w", err)
	}
	r := Result{Image: c.registry.ref()}
	if answer != nil {
		r.Answer = words(answer)
	}
	record, recordErr := c.record(ctx, start)
	r.Record = record
	r.Outcome, r.Why = c.judge(ctx, answer, record, recordErr)
	if r.Outcome == "" {
		return Result{}, fmt.Errorf("sending a canary: %s", r.Why)
	}
	return r, nil
}

// judge says what an answer and a record mean together. No outcome means that the answer proves nothing.
func (c *attempt) judge(ctx context.Context, answer error, record *audit.Record, recordErr error) (Outcome, string) {
	refused := isRefusal(answer, c.registry.repository())
	if here := c.arrived(ctx, answer, record == nil); here != "" && (refused || record == nil) {
		switch {
		case refused:
			return Unseen, "the answer was a refusal and yet " + here
		case recordErr != nil:
			return Unseen, here + ", and whether the agent recorded it cannot be told: " + recordErr.Error()
		}
		return Unseen, here + ", and the agent has no record of it: calls on this socket go past the agent, or its audit log is not being written"
	}
	switch {
	case record == nil && refused:
		return Refused, "it was refused in the agent's words, but no record of that was found" + because(recordErr)
	case record == nil:
		return "", "the runtime did not pull it, and no record says that it was judged" + because(recordErr) + ": " + words(answer)
	case record.Decision == audit.DecisionError:
		return Undecided, "the agent could not judge it: " + clip(record.Reason)
	case record.Decision == audit.DecisionDeny && refused:
		return Refused, clip(record.Reason)
	case record.Decision == audit.DecisionDeny:
		return Recorded, "it was let through, and the record says that it would be refused: " + clip(record.Reason)
	case refused:
		return Undecided, "it was refused, and the record says " + clip(record.Decision) + ": " + clip(record.Reason)
	}
	return Allowed, allowedBy(record)
}

// arrived says how it is known that the runtime has, or had, bytes of the canary; empty if it does not. The agent itself reads
// manifests and configs; a layer, only a runtime has reason to read. That one was read counts only while no record says that the agent
// was asked: whoever can listen to the node's loopback learns the canary's name there and can read it too, and must not be able to
// have an installation undone by it.
func (c *attempt) arrived(ctx context.Context, answer error, unrecorded bool) string {
	switch id, err := c.present(ctx); {
	case answer == nil:
		return "the runtime pulled it"
	case err == nil && id != "":
		return "it is on the node"
	case unrecorded && c.registry.layerRead.Load():
		return "its layer was downloaded"
	}
	return ""
}

// allowedBy says which of the node's rules let the canary through.
func allowedBy(r *audit.Record) string {
	var passed []string
	for _, p := range r.Policies {
		passed = append(passed, fmt.Sprintf("policy %q: %s", p.Policy, p.Result))
	}
	why := "the node's rules let it through"
	if r.Decision == audit.DecisionWarn {
		why = "a policy whose mode is warn let it through"
	}
	if r.Reason != "" {
		why += ": " + r.Reason
	}
	if len(passed) > 0 {
		why += " (" + strings.Join(passed, ", ") + ")"
	}
	return clip(why)
}

// isRefusal reports whether the answer is the gate's refusal of this very image. A runtime, or whoever else serves the
// socket, has other words, and a refusal of something else proves nothing.
func isRefusal(answer error, repository string) bool {
	return gate.IsRefused(answer) && strings.Contains(status.Convert(answer).Message(), repository)
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return " (" + err.Error() + ")"
}

func words(err error) string { return clip(status.Convert(err).Message()) }

// clip makes what others wrote fit for one line.
func clip(s string) string {
	s = gate.Printable(s)
	if len(s) > maxAnswer {
		s = s[:maxAnswer]
		s = strings.ToValidUTF8(s, "") + "…"
	}
	return s
}
