package gate

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/verify/policy"
)

// Policies select pods by what the request tells of them; a pod that is not told is every policy's.
func TestPoliciesAreToldOfThePod(t *testing.T) {
	labels := map[string]string{"app": "web", "io.kubernetes.pod.name": "pod"}
	annotations := map[string]string{"team": "x", "kubernetes.io/config.source": "api"}
	known := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: "pod", Namespace: "shop", Uid: "u-1"}, Labels: labels, Annotations: annotations,
	}
	for name, tc := range map[string]struct {
		sandbox *runtimeapi.PodSandboxConfig
		want    *policy.Pod
	}{
		"all of it":                     {known, &policy.Pod{Namespace: "shop", Name: "pod", UID: "u-1", Labels: labels, Annotations: annotations}},
		"no sandbox":                    {nil, nil},
		"labels of nobody are no pod's": {&runtimeapi.PodSandboxConfig{Labels: labels}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := signedHere()
			pull := pullRequest(app + ":1")
			pull.SandboxConfig = tc.sandbox
			if _, err := w.gate(t).PullImage(t.Context(), pull, w.forwardPull); err != nil {
				t.Fatal(err)
			}
			create := createRequest(spec(id("good"), app+":1"), spec(app+":1", ""))
			create.SandboxConfig = tc.sandbox
			if _, err := w.gate(t).CreateContainer(t.Context(), create, w.forwardCreate); err != nil {
				t.Fatal(err)
			}
			if len(w.subjects) != 3 {
				t.Fatalf("%d judged", len(w.subjects))
			}
			for _, s := range w.subjects {
				if diff := cmp.Diff(tc.want, s.Pod); diff != "" {
					t.Errorf("%s (-want +got):\n%s", s.Image, diff)
				}
			}
		})
	}
}
