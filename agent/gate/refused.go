package gate

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// IsRefused reports whether err, as a client of the CRI socket got it, is a refusal in the words by which kubelet
// knows one. It does not prove who wrote them.
func IsRefused(err error) bool {
	s := status.Convert(err)
	return err != nil && s.Code() == codes.Unknown && strings.HasPrefix(s.Message(), refusedPrefix)
}
