package cluster

import (
	"os"
	"testing"

	"github.com/cosentry/cosentry/integration/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Isolated(m.Run)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
