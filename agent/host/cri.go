package host

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/systemd"
)

// askTimeout is how long a runtime, or an agent before it, may take to say who it is.
const askTimeout = 10 * time.Second

// answer is what a runtime says of itself.
type answer struct{ runtime, version string }

// name is the runtime's as sockets are named after it.
func (a answer) name() string {
	if a.runtime == "cri-o" {
		return systemd.CRIO
	}
	return a.runtime
}

// ask calls Version, Status and ImageFsInfo on the CRI socket at path: one call of each of its two services, and the one by which
// kubelet finds out whether its node is ready. Whether the runtime calls itself ready is its own business.
func ask(ctx context.Context, path string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	runtime, image := runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn)
	v, err := runtime.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return answer{}, fmt.Errorf("calling Version: %w", err)
	}
	if _, err := runtime.Status(ctx, &runtimeapi.StatusRequest{}); err != nil {
		return answer{}, fmt.Errorf("calling Status: %w", err)
	}
	if _, err := image.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{}); err != nil {
		return answer{}, fmt.Errorf("calling ImageFsInfo: %w", err)
	}
	return answer{runtime: v.RuntimeName, version: v.RuntimeVersion}, nil
}
