package harness

import (
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The beginnings by which kubelet knows two kinds of refusal, on code Unknown
// only (k8s.io/cri-api/pkg/errors).
const (
	Refused     = "SignatureValidationFailed: "
	Unavailable = "RegistryUnavailable: "
)

// OwnerReads puts a refused call into the words that kubelet 1.36 shows for a
// waiting container: its reason and its message.
func OwnerReads(err error, image string, pulling bool) (reason, message string) {
	s := status.Convert(err)
	if !pulling {
		return "CreateContainerError", s.Message()
	}
	if s.Code() == codes.Unknown {
		if rest, ok := strings.CutPrefix(s.Message(), Refused); ok {
			return "SignatureValidationFailed", fmt.Sprintf("image pull failed for %s because the signature validation failed: %s", image, rest)
		}
		if rest, ok := strings.CutPrefix(s.Message(), Unavailable); ok {
			return "RegistryUnavailable", fmt.Sprintf("image pull failed for %s because the registry is unavailable: %s", image, rest)
		}
	}
	return "ErrImagePull", err.Error()
}
