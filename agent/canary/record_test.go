package canary

import (
	"strings"
	"testing"

	"github.com/cosentry/cosentry/agent/audit"
)

// Whoever names an image like a canary must not vanish from sight with it.
func TestOnlyACanaryIsOne(t *testing.T) {
	name, hash := strings.Repeat("0123456789abcdef", 2), "sha256:"+strings.Repeat("0123456789abcdef", 4)
	image := "127.0.0.1:40123/cosentry-canary/" + name + "@" + hash
	sent := func(change func(r *audit.Record)) audit.Record {
		r := audit.Record{Action: audit.ActionPull, Decision: audit.DecisionDeny, Image: image, Digest: hash}
		change(&r)
		return r
	}
	named := func(image string) audit.Record {
		return sent(func(r *audit.Record) { r.Image, r.Digest = image, "" })
	}
	for what, r := range map[string]audit.Record{
		"for no pod":        sent(func(*audit.Record) {}),
		"for a namespace":   sent(func(r *audit.Record) { r.Pod = audit.Pod{Namespace: "shop", Name: "cosentry-canary", UID: name} }),
		"that was an error": sent(func(r *audit.Record) { r.Decision, r.Digest = audit.DecisionError, "" }),
	} {
		if !Is(r) {
			t.Errorf("a canary %s is not seen", what)
		}
	}
	for what, r := range map[string]audit.Record{
		"a container's create": sent(func(r *audit.Record) { r.Action = audit.ActionCreate }),
		"a mount":              sent(func(r *audit.Record) { r.Action = audit.ActionMount }),
		"the sandbox's image":  sent(func(r *audit.Record) { r.Action = audit.ActionSandbox }),
		"a container":          sent(func(r *audit.Record) { r.Container = "c" }),
		"another digest":       sent(func(r *audit.Record) { r.Digest = "sha256:" + strings.Repeat("f", 64) }),
		"a pod's pull":         sent(func(r *audit.Record) { r.Pod = audit.Pod{Namespace: "shop", Name: "web", UID: "u"} }),
		"a pod named so": sent(func(r *audit.Record) {
			r.Pod = audit.Pod{Namespace: "shop", Name: "cosentry-canary", UID: "4f5b0a5e-1c9d-4d24-9c3b-000000000001"}
		}),
		"a pod named otherwise":      sent(func(r *audit.Record) { r.Pod = audit.Pod{Namespace: "shop", Name: "web", UID: name} }),
		"a pod without a name":       sent(func(r *audit.Record) { r.Pod = audit.Pod{Namespace: "shop"} }),
		"a tag":                      named("127.0.0.1:40123/cosentry-canary/" + name + ":v1"),
		"a tag and a digest":         named("127.0.0.1:40123/cosentry-canary/" + name + ":v1@" + hash),
		"no digest":                  named("127.0.0.1:40123/cosentry-canary/" + name),
		"a digest of another kind":   named("127.0.0.1:40123/cosentry-canary/" + name + "@sha512:" + strings.Repeat("0", 128)),
		"a short digest":             named(image[:len(image)-1]),
		"a long digest":              named(image + "0"),
		"another name":               named("127.0.0.1:40123/cosentry-canary/web@" + hash),
		"a name in capitals":         named(strings.Replace(image, name, strings.ToUpper(name), 1)),
		"a deeper name":              named(strings.Replace(image, name, "x/"+name, 1)),
		"another repository":         named(strings.Replace(image, "cosentry-canary", "cosentry-canaries", 1)),
		"another host":               named(strings.Replace(image, "127.0.0.1", "registry.example", 1)),
		"another host of loopback":   named(strings.Replace(image, "127.0.0.1", "127.0.0.2", 1)),
		"a host that ends like this": named("evil.example/" + image),
		"no port":                    named(strings.Replace(image, ":40123", "", 1)),
		"port 0":                     named(strings.Replace(image, ":40123", ":0", 1)),
		"a port that is none":        named(strings.Replace(image, ":40123", ":65536", 1)),
		"a line more":                named(image + "\n"),
		"a scheme":                   named("docker://" + image),
		"nothing":                    {},
	} {
		if Is(r) {
			t.Errorf("%s passes for a canary", what)
		}
	}
}

// What is sent is what is recognised.
func TestACanaryIsRecognised(t *testing.T) {
	for _, namespace := range []string{"", "shop"} {
		n := newNode(t, func(n *node, image string) error {
			p := n.sandbox
			rec := audit.Record{Action: audit.ActionPull, Decision: audit.DecisionDeny, Image: image, Pod: audit.Pod{Namespace: p.GetNamespace(), Name: p.GetName(), UID: p.GetUid()}}
			if err := n.log.Append(rec); err != nil {
				n.t.Error(err)
			}
			return refusal(image)
		})
		r, err := Pull(t.Context(), Options{Socket: n.socket, AuditDir: n.audit, Namespace: namespace})
		if err != nil || r.Record == nil {
			t.Fatalf("%+v, %v", r, err)
		}
		if r.Record.Pod.Namespace != namespace || !Is(*r.Record) {
			t.Errorf("not recognised: %+v", r.Record)
		}
	}
}
