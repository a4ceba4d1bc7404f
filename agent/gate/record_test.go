package gate

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/agent/audit"
	"github.com/cosentry/cosentry/verify"
	"github.com/cosentry/cosentry/verify/evidence"
)

func TestEveryDecisionIsOneRecordAndOneCount(t *testing.T) {
	good := spec(id("good"), app+":1")
	for name, tc := range map[string]struct {
		change  func(w *world)
		act     func(w *world) error
		decided []string
		failed  bool
	}{
		"an allowed pull":  {act: pulling(t, app+":1"), decided: []string{"pull allow"}},
		"a refused pull":   {act: pulling(t, other+":1"), decided: []string{"pull deny"}, failed: true},
		"a path":           {act: pulling(t, "/x"), decided: []string{"pull deny"}, failed: true},
		"an allowed start": {act: creating(t, good), decided: []string{"create allow"}},
		"a refused start":  {act: creating(t, spec(id("bad"), "")), decided: []string{"create deny"}, failed: true},
		"a start with a volume that is mounted three times": {
			act: creating(t, good, good, good, good), decided: []string{"create allow", "mount allow"},
		},
		"a start with two volumes": {
			act: creating(t, good, good, spec(id("good"), app+":1@"+manifest("good").String())), decided: []string{"create allow", "mount allow", "mount allow"},
		},
		"a registry that does not answer": {
			change: func(w *world) { w.failing[manifest("good")] = evidence.ErrUnavailable },
			act:    pulling(t, app+":1"), decided: []string{"pull error"}, failed: true,
		},
		"a runtime that cannot be asked": {
			change: func(w *world) { w.lookupErr = errors.New("x") },
			act:    creating(t, good), decided: []string{"create error"}, failed: true,
		},
		"no policies": {
			change: func(w *world) { w.failing[manifest("good")] = verify.ErrNoPolicy },
			act:    creating(t, good), decided: []string{"create error"}, failed: true,
		},
		"a policy that only warns": {
			change: func(w *world) { w.verdicts[manifest("good")] = verify.Verdict{Allowed: true, Warn: true} },
			act:    creating(t, good), decided: []string{"create warn"},
		},
		"a warning that comes with a refusal": {
			change: func(w *world) { w.verdicts[manifest("good")] = verify.Verdict{Warn: true} },
			act:    creating(t, good), decided: []string{"create deny"}, failed: true,
		},
		"a pull that fails at the runtime was allowed": {
			change: func(w *world) { w.forwardErr = errors.New("x") },
			act:    pulling(t, app+":1"), decided: []string{"pull allow"}, failed: true,
		},
		"a pull by tag that brought other content": {
			change: func(w *world) {
				w.noAliases = true
				w.onForward = func() { w.push(app+":1", "bad") }
			},
			act: pulling(t, app+":1"), decided: []string{"pull allow", "pull deny"}, failed: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := signedHere()
			if tc.change != nil {
				tc.change(w)
			}
			if err := tc.act(w); (err != nil) != tc.failed {
				t.Errorf("got %v", err)
			}
			if diff := cmp.Diff(tc.decided, w.decided); diff != "" {
				t.Errorf("counted (-want +got):\n%s", diff)
			}
			var recorded []string
			for _, r := range w.records {
				recorded = append(recorded, r.Action+" "+r.Decision)
			}
			if diff := cmp.Diff(tc.decided, recorded); diff != "" {
				t.Errorf("recorded (-want +got):\n%s", diff)
			}
		})
	}
}

func pulling(t *testing.T, image string) func(*world) error {
	return func(w *world) error {
		_, err := w.pull(t, image)
		return err
	}
}

func creating(t *testing.T, image *runtimeapi.ImageSpec, mounts ...*runtimeapi.ImageSpec) func(*world) error {
	return func(w *world) error {
		req := proto.Clone(createRequest(image, mounts...)).(*runtimeapi.CreateContainerRequest)
		_, err := w.gate(t).CreateContainer(t.Context(), req, w.forwardCreate)
		return err
	}
}

func TestRecordsHoldWhatWasDecided(t *testing.T) {
	w := signedHere()
	if err := w.create(t, spec(id("good"), app+":1")); err != nil {
		t.Fatal(err)
	}
	if err := w.create(t, spec(id("bad"), other+":1")); err == nil {
		t.Fatal("an unsigned image was let through")
	}
	pod := audit.Pod{Namespace: "shop", Name: "pod", UID: "u-1"}
	want := []audit.Record{{
		Node: "node-1", Action: "create", Decision: "allow", Pod: pod, Container: "main",
		Image: app + ":1", Digest: manifest("good").String(), Mode: "enforce", Revision: "revision",
		Policies: []audit.PolicyResult{{Policy: "prod-signed", Mode: "enforce", Result: "pass", Authority: "release-key", KeyFingerprint: "SHA256:ab"}},
	}, {
		Node: "node-1", Action: "create", Decision: "deny", Pod: pod, Container: "main",
		Image: other + ":1", Digest: manifest("bad").String(), Mode: "enforce", Revision: "revision",
		Reason:   `policy "prod-signed": no signature by authority "release-key" (no signatures found)`,
		Policies: []audit.PolicyResult{{Policy: "prod-signed", Mode: "enforce", Result: "fail", Reason: `no signature by authority "release-key" (no signatures found)`}},
	}}
	if diff := cmp.Diff(want, w.records, cmpopts.IgnoreFields(audit.Record{}, "Duration")); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func TestARequiredRecordThatCannotBeWritten(t *testing.T) {
	for name, tc := range map[string]struct {
		act     func(*world) error
		observe bool
		prefix  string // empty: it goes on
		decided string
	}{
		"an allowed pull":           {act: pulling(t, app+":1"), prefix: app + ":1 is not started: this node requires an audit record", decided: "pull error"},
		"an allowed start":          {act: creating(t, spec(id("good"), app+":1")), prefix: app + ":1 is not started: ", decided: "create error"},
		"a refusal stays a refusal": {act: pulling(t, other+":1"), prefix: "SignatureValidationFailed: ", decided: "pull deny"},
		"observe mode stops nobody": {act: pulling(t, other+":1"), observe: true, decided: "pull deny"},
	} {
		t.Run(name, func(t *testing.T) {
			w := signedHere()
			w.observe = tc.observe
			w.recordErr = errors.New("no space left on device")
			err := tc.act(w)
			if tc.prefix == "" {
				if err != nil {
					t.Errorf("got %v", err)
				}
			} else {
				wantMessage(t, err, codes.Unknown, tc.prefix, "cosentry")
				if len(w.pulled)+len(w.created) != 0 {
					t.Error("it went on without a record")
				}
			}
			if diff := cmp.Diff([]string{tc.decided}, w.decided); diff != "" {
				t.Errorf("counted (-want +got):\n%s", diff)
			}
		})
	}
}

// Observe mode changes nothing about a call, whatever is wrong with it or with us.
func TestObserveForwardsTheRequestAsItCame(t *testing.T) {
	broken := func(w *world) {
		w.lookupErr, w.resolveErr = errors.New("x"), errors.New("x")
		w.canErr = errors.New("x")
	}
	ref := spec(other+":1", "")
	ref.ImageRef = "y"
	for name, tc := range map[string]struct {
		change   func(w *world)
		pull     *runtimeapi.PullImageRequest
		create   *runtimeapi.CreateContainerRequest
		decision string
	}{
		"an unsigned pull":           {pull: pullRequest(other + ":1"), decision: "deny"},
		"a signed pull":              {pull: pullRequest(app + ":1"), decision: "allow"},
		"a pull of nothing":          {pull: &runtimeapi.PullImageRequest{}, decision: "deny"},
		"a pull of a path":           {pull: pullRequest("/x.tar"), decision: "deny"},
		"a pull that fails to judge": {pull: pullRequest(app + ":1"), change: broken, decision: "error"},
		"a pull without aliases":     {pull: pullRequest(app + ":1"), change: func(w *world) { w.noAliases = true }, decision: "allow"},
		"an unsigned start":          {create: createRequest(ref, ref), decision: "deny"},
		"a signed start":             {create: createRequest(spec(app+":1", ""), spec(app+":1", "")), decision: "allow"},
		"a start from a path":        {create: createRequest(spec("/x.tar", "")), decision: "deny"},
		"a start of nothing":         {create: &runtimeapi.CreateContainerRequest{}, decision: "deny"},
		"a start that fails":         {create: createRequest(spec(app+":1", "")), change: broken, decision: "error"},
	} {
		t.Run(name, func(t *testing.T) {
			w := signedHere()
			w.observe = true
			if tc.change != nil {
				tc.change(w)
			}
			g := w.gate(t)
			var came, got proto.Message
			if tc.pull != nil {
				came = proto.Clone(tc.pull)
				_, _ = g.PullImage(t.Context(), tc.pull, w.forwardPull)
				if len(w.pulled) == 1 {
					got = w.pulled[0]
				}
			} else {
				came = proto.Clone(tc.create)
				_, _ = g.CreateContainer(t.Context(), tc.create, w.forwardCreate)
				if len(w.created) == 1 {
					got = w.created[0]
				}
			}
			if got == nil || !proto.Equal(came, got) {
				t.Errorf("came as %v, forwarded as %v", came, got)
			}
			if len(w.records) == 0 || w.records[0].Decision != tc.decision || w.records[0].Mode != "observe" {
				t.Errorf("records %+v", w.records)
			}
		})
	}
}

// A credential is nowhere but in the request that is forwarded and in the question to the registry.
func TestCredentialsAreNotTold(t *testing.T) {
	const secret = "s3cr3t"
	failures := map[string]func(w *world){
		"allowed":    func(*world) {},
		"refused":    func(w *world) { w.signed = nil },
		"unresolved": func(w *world) { w.resolveErr = evidence.ErrUnauthorized },
		"undecided":  func(w *world) { w.failing[manifest("good")] = evidence.ErrUnauthorized },
		"no policy":  func(w *world) { w.failing[manifest("good")] = verify.ErrNoPolicy },
		"no record":  func(w *world) { w.recordErr = errors.New("x") },
		"no alias":   func(w *world) { w.aliasErr = errors.New("x") },
		"other by tag": func(w *world) {
			w.noAliases = true
			w.onForward = func() { w.push(app+":1", "bad") }
			w.removeErr = errors.New("x")
		},
		"runtime is down": func(w *world) { w.canErr = errors.New("x") },
	}
	for name, change := range failures {
		for _, observe := range []bool{false, true} {
			w := newWorld()
			w.observe = observe
			change(w)
			req := pullRequest(app + ":1")
			req.Auth = &runtimeapi.AuthConfig{
				Username: secret, Password: secret, Auth: secret, ServerAddress: secret, IdentityToken: secret, RegistryToken: secret,
			}
			_, err := w.gate(t).PullImage(t.Context(), req, w.forwardPull)
			told := w.log.String()
			if err != nil {
				told += err.Error()
			}
			for _, r := range w.records {
				line, err := r.MarshalJSON()
				if err != nil {
					t.Fatal(err)
				}
				told += string(line)
			}
			if strings.Contains(told, secret) {
				t.Errorf("%s: a credential is told: %s", name, told)
			}
		}
	}
}
