// Package node tests cosentry on a whole node: a real systemd, containerd and
// kubelet, on which `cosentry install` puts it and `cosentry uninstall` takes
// it off.
package node

import (
	"os"
	"testing"

	"github.com/cosentry/cosentry/integration/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Isolated(m.Run)) }
