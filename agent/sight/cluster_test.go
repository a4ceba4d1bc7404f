package sight

import (
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// TestNobodyIsCalledBeforeTheStatusIsLoud: whoever is called by the alert finds in the status why.
func TestNobodyIsCalledBeforeTheStatusIsLoud(t *testing.T) {
	text, err := os.ReadFile("../../deploy/monitoring/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	limits := regexp.MustCompile(`cosentry_cluster_heartbeat_timestamp_seconds > ([0-9]+)\n`).FindAllStringSubmatch(string(text), -1)
	if len(limits) != 1 {
		t.Fatalf("%d alerts on the heartbeat's age, want one", len(limits))
	}
	seconds, err := strconv.Atoi(limits[0][1])
	if err != nil || time.Duration(seconds)*time.Second < StaleAfter {
		t.Errorf("the alert fires after %s s (%v), and the status is loud after %s", limits[0][1], err, StaleAfter)
	}
}
