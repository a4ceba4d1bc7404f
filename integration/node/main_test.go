package node

import (
	"os"
	"testing"

	"github.com/cosentry/cosentry/integration/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Isolated(m.Run)) }
