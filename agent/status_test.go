package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/agent/sight"
	"github.com/cosentry/cosentry/criproxy/critest"
	"github.com/cosentry/cosentry/verify/trust"
)

// rows collects what is written of a status.
func rows(write func(row rower)) string {
	var b strings.Builder
	write(func(name, format string, args ...any) { fmt.Fprintf(&b, "%s|%s\n", name, fmt.Sprintf(format, args...)) })
	return b.String()
}

func TestStatusOfNamespaces(t *testing.T) {
	read := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for want, n := range map[string]sight.Namespaces{
		"namespaces|all\n": {Enforce: "all"},
		"namespaces|prod, team-*\nexempt|kube-system, ci-*\n": {Enforce: "prod, team-*", Exempt: []string{"kube-system", "ci-*"}},
		"namespaces|labelled, 2 of 9, /n.yaml read at 2026-03-01T12:00:00Z\n": {
			Enforce: "labelled", File: "/n.yaml", State: "good", Count: 9, Labelled: 2, Loaded: read},
		"namespaces|all; what follows is where the cluster's policies hold too\nnamespaces|labelled, 2 of 9, /n.yaml read at 2026-03-01T12:00:00Z\n": {
			Enforce: "labelled", ForCluster: true, File: "/n.yaml", State: "good", Count: 9, Labelled: 2, Loaded: read},
		"NAMESPACES|judged in ALL: there is no file /n.yaml\n":              {Enforce: "labelled", File: "/n.yaml", State: "missing"},
		"NAMESPACES|judged in ALL: the file cannot be read: it is a pipe\n": {Enforce: "labelled", File: "/n.yaml", State: "broken", Fault: "it is a pipe"},
		"NAMESPACES|as the file said at 2026-03-01T12:00:00Z, 2 of 9 labelled; since then it cannot be read: it is a pipe\n": {
			Enforce: "labelled", File: "/n.yaml", State: "broken", Count: 9, Labelled: 2, Loaded: read, Fault: "it is a pipe"},
	} {
		if diff := cmp.Diff(want, rows(func(row rower) { namespaceRows(n, row) })); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
}

func TestStatusOfTrust(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	in := func(d time.Duration) time.Time { return now.Add(d) }
	const day = 24 * time.Hour
	for name, tc := range map[string]struct {
		t    sight.Trust
		want string
	}{
		"a root that lasts": {
			sight.Trust{Kind: trust.KindRoot, Name: "public-good", OK: true, Expires: in(90 * day), From: "TUF repository https://tuf.example version 12", Fetched: in(-day)},
			"trust root|public-good, until 2026-05-30T12:00:00Z, from TUF repository https://tuf.example version 12, fetched 2026-02-28T12:00:00Z (1 day ago)\n",
		},
		"a root without an end":          {sight.Trust{Kind: trust.KindRoot, Name: "corp", OK: true}, "trust root|corp\n"},
		"a root that ends in eight days": {sight.Trust{Kind: trust.KindRoot, Name: "corp", OK: true, Expires: in(8 * day)}, "trust root|corp, until 2026-03-09T12:00:00Z\n"},
		"a root that ends in a week":     {sight.Trust{Kind: trust.KindRoot, Name: "corp", OK: true, Expires: in(7*day - time.Second)}, "EXPIRES SOON|trust root corp, until 2026-03-08T11:59:59Z: 6 days left\n"},
		"a root that ends in an hour":    {sight.Trust{Kind: trust.KindRoot, Name: "corp", OK: true, Expires: in(time.Hour)}, "EXPIRES SOON|trust root corp, until 2026-03-01T13:00:00Z: 1h0m0s left\n"},
		"a root that has ended":          {sight.Trust{Kind: trust.KindRoot, Name: "corp", Error: "expired", Expires: in(-day)}, "EXPIRED|trust root corp, until 2026-02-28T12:00:00Z\n|expired\n"},
		"a key that was never reached":   {sight.Trust{Kind: "kms key", Name: "awskms:///x", Error: "no answer"}, "NOT USABLE|kms key awskms:///x\n|no answer\n"},
		"a key whose refresh failed":     {sight.Trust{Kind: "kms key", Name: "awskms:///x", OK: true, Error: "no answer", Fetched: in(-day)}, "kms key|awskms:///x, fetched 2026-02-28T12:00:00Z (1 day ago)\n|no answer\n"},
		"a key that was fetched":         {sight.Trust{Kind: trust.KindKMS, Name: "awskms:///x", OK: true, Fetched: in(-90 * time.Minute)}, "kms key|awskms:///x, fetched 2026-03-01T10:30:00Z (1h30m0s ago)\n"},
		"a key fetched by a clock ahead": {sight.Trust{Kind: trust.KindKMS, Name: "awskms:///x", OK: true, Fetched: in(day)}, "kms key|awskms:///x, fetched 2026-03-02T12:00:00Z\n"},
		"a rule that is not kept":        {sight.Trust{Kind: trust.KindRemote, Name: "https://x", OK: true, Disk: "is not kept on disk: full"}, "remote rule|https://x\n|is not kept on disk: full\n"},
		"authorities that sign on":       {sight.Trust{Kind: trust.KindRoot, Name: "corp", OK: true, Ends: in(8 * day)}, "trust root|corp\n"},
		"authorities that end in a week": {sight.Trust{Kind: trust.KindRoot, Name: "corp", OK: true, Ends: in(7*day - time.Second)},
			"trust root|corp\nSIGNS UNTIL|trust root corp: no authority of some kind in it signs after 2026-03-08T11:59:59Z, 6 days left: what is signed afterwards will not be accepted, what was signed before will\n"},
		"authorities that have ended": {sight.Trust{Kind: trust.KindRoot, Name: "corp", OK: true, Ends: in(-day)},
			"trust root|corp\nSIGNS NO MORE|trust root corp: no authority of some kind in it signs after 2026-02-28T12:00:00Z: what is signed since is not accepted, what was signed before is\n"},
		"what can be used is only counted":   {sight.Trust{Kind: "secret", Name: "a/b/c", OK: true}, "references|1 others can be used\n"},
		"a ConfigMap that is not there":      {sight.Trust{Kind: "configmap", Name: "a/b", Error: "not there"}, "NOT USABLE|configmap a/b\n|not there\n"},
		"a root that is there and unrenewed": {sight.Trust{Kind: trust.KindRoot, Name: "corp", OK: true, Error: "no answer", Expires: in(9 * day)}, "trust root|corp, until 2026-03-10T12:00:00Z\n|no answer\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, rows(func(row rower) { trustRows([]sight.Trust{tc.t}, now, row) })); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	// What is fine does not push out what is not.
	var mixed []sight.Trust
	for range 1000 {
		mixed = append(mixed, sight.Trust{Kind: trust.KindKMS, Name: "awskms:///x", OK: true})
	}
	mixed = append(mixed, sight.Trust{Kind: "secret", Name: "a/b/c"})
	if text := rows(func(row rower) { trustRows(mixed, now, row) }); !strings.HasPrefix(text, "NOT USABLE|secret a/b/c\n") {
		t.Errorf("first is not what cannot be used:\n%s", text)
	}
	many := make([]sight.Trust, 1000)
	if text := rows(func(row rower) { trustRows(many, now, row) }); strings.Count(text, "NOT USABLE") != maxTrustRows || !strings.Contains(text, "and 960 more") {
		t.Errorf("a thousand references:\n%s", text)
	}
}

// A policy names what its owner likes, and a server answers what it likes.
func TestStatusIsOneRowALine(t *testing.T) {
	var out bytes.Buffer
	s := sight.Status{Trust: []sight.Trust{{Kind: "kms key", Name: "x\x1b[2J", Error: "a\nmode  observe"}}}
	if err := printStatus(&out, s, "table"); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "\x1b") || strings.Contains(out.String(), "\nmode  observe") {
		t.Errorf("%q", out.String())
	}
}

// TestNamespacesOfARunningAgent: which namespaces are judged is what the settings and the file say, and the status tells.
func TestNamespacesOfARunningAgent(t *testing.T) {
	p := newProcess(t, "namespaces: {enforce: labelled, exempt: [kube-system], file: __DIR__/namespaces.yaml}\n")
	write(t, p.dir+"/config.yaml", strings.ReplaceAll(readFile(t, p.dir+"/config.yaml"), "__DIR__", p.dir))
	write(t, p.dir+"/policies/a.yaml", static("shut", "**", "fail"))
	critest.Serve(t, p.dir+"/r.sock", critest.NewRuntime(0))
	p.start(t)
	p.eventually(t, "the runtime answers", func() bool { return callVersion(t, p.socket) == nil })
	client := runtimeapi.NewImageServiceClient(critest.Dial(t, p.socket))
	pulls := func(namespace string) bool {
		_, err := client.PullImage(t.Context(), &runtimeapi.PullImageRequest{
			Image:         &runtimeapi.ImageSpec{Image: "registry.example/app@sha256:" + strings.Repeat("a", 64)},
			SandboxConfig: &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Namespace: namespace, Uid: "u"}},
		})
		if err != nil && !strings.Contains(err.Error(), "SignatureValidationFailed: ") {
			t.Fatal(err)
		}
		return err == nil
	}
	if !pulls("kube-system") || pulls("legacy") || pulls("") {
		t.Error("without a file every namespace that is not exempt is judged")
	}
	if s := p.status(t).Namespaces; s.State != "missing" || s.Enforce != "labelled" || !cmp.Equal(s.Exempt, []string{"kube-system"}) {
		t.Errorf("status %+v", s)
	}
	if body, _ := p.get(t, "/metrics"); !strings.Contains(body, `cosentry_namespaces_file{state="missing"} 1`) {
		t.Error("the metric does not tell")
	}
	write(t, p.dir+"/namespaces.yaml", "apiVersion: v1\nkind: NamespaceList\nitems:\n- metadata: {name: legacy}\n- metadata: {name: shop, labels: {policy.sigstore.dev/include: \"true\"}}\n")
	p.eventually(t, "the file is in force", func() bool { return p.status(t).Namespaces.State == "good" })
	if !pulls("legacy") || pulls("shop") || pulls("new") || !pulls("kube-system") {
		t.Error("the labels are not what is enforced")
	}
	out, _, code := command(t, "status", "--config", p.dir+"/config.yaml")
	if code != 0 || !strings.Contains(out, "labelled, 1 of 2") {
		t.Errorf("exit %d\n%s", code, out)
	}
	out, _, _ = command(t, "status", "--config", p.dir+"/config.yaml", "-o", "json")
	var s sight.Status
	if err := json.Unmarshal([]byte(out), &s); err != nil || s.Namespaces.Labelled != 1 {
		t.Errorf("%v: %+v", err, s.Namespaces)
	}
	tail, _, _ := command(t, "audit", "tail", "--config", p.dir+"/config.yaml", "-n", "0")
	if !strings.Contains(tail, `allow pull kube-system/p`) || !strings.Contains(tail, `"namespace \"kube-system\" is not enforced on this node, so nothing was judged"`) {
		t.Errorf("the records:\n%s", tail)
	}
	p.stop(t)
}

// TestStatusOfWhatPoliciesReferTo: a secret that is not there does not break the policies, and is told of until it is.
func TestStatusOfWhatPoliciesReferTo(t *testing.T) {
	p := newProcess(t, "")
	write(t, p.dir+"/policies/a.yaml", `apiVersion: policy.sigstore.dev/v1beta1
kind: ClusterImagePolicy
metadata: {name: by-secret}
spec:
  images: [{glob: "registry.example/**"}]
  authorities: [{key: {secretRef: {name: release}}}]
`)
	critest.Serve(t, p.dir+"/r.sock", critest.NewRuntime(0))
	p.start(t)
	p.eventually(t, "the runtime answers", func() bool { return callVersion(t, p.socket) == nil })
	unusable := func() (n int) {
		for _, s := range p.status(t).Trust {
			if s.Kind == trust.KindSecret && !s.OK {
				n++
			}
		}
		return n
	}
	if n := unusable(); n != 1 {
		t.Fatalf("%d secrets are not usable: %+v", n, p.status(t).Trust)
	}
	if out, _, code := command(t, "status", "--config", p.dir+"/config.yaml"); code != 0 || !strings.Contains(out, "NOT USABLE") || !strings.Contains(out, "release") {
		t.Errorf("exit %d\n%s", code, out)
	}
	if body, _ := p.get(t, "/metrics"); !strings.Contains(body, `cosentry_trust_unusable{kind="secret",layer="node"} 1`) {
		t.Error("the metric does not tell")
	}
	write(t, p.dir+"/secrets/cosign-system/release/cosign.pub", newSigned(t).publicKey)
	p.eventually(t, "the secret is there", func() bool { return unusable() == 0 })
	if body, _ := p.get(t, "/metrics"); !strings.Contains(body, `cosentry_trust_unusable{kind="secret",layer="node"} 0`) {
		t.Error("the metric still tells")
	}
	p.stop(t)
}
