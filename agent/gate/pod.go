package gate

import (
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/verify/policy"
)

// podOf is what a request tells of its pod; nil if it tells nothing, in which case policies for certain pods apply as
// well. Labels and annotations are kept as they come: those that the pod's author wrote, and those that
// kubelet adds (io.kubernetes.pod.name and its kin, kubernetes.io/config.source). Nobody changes them after that.
func podOf(sandbox *runtimeapi.PodSandboxConfig) *policy.Pod {
	m := sandbox.GetMetadata()
	if m == nil {
		return nil
	}
	return &policy.Pod{
		Namespace: m.GetNamespace(), Name: m.GetName(), UID: m.GetUid(),
		Labels: sandbox.GetLabels(), Annotations: sandbox.GetAnnotations(),
	}
}
