package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// agentStatus are the parts of /status that the steps look at.
type agentStatus struct {
	Mode     string `json:"mode"`
	NotReady string `json:"notReady"`
	Peers    struct {
		Kubelet bool `json:"kubelet"`
	} `json:"peers"`
	Namespaces struct {
		Labelled int `json:"labelled"`
	} `json:"namespaces"`
	ClusterPolicies struct {
		Set    string   `json:"set"`
		Names  []string `json:"names"`
		Broken string   `json:"broken"`
		// SkippedCount is how many documents were not signed as they should be.
		SkippedCount int `json:"skippedCount"`
	} `json:"clusterPolicies"`
}

// as returns nil if the agent is in the mode, can judge, is what kubelet talks to, and has these policies of the cluster.
func (a agentStatus) as(mode string, policies ...string) error {
	switch {
	case a.NotReady != "" || a.ClusterPolicies.Broken != "":
		return fmt.Errorf("the agent is not ready: %s %s", a.NotReady, a.ClusterPolicies.Broken)
	case a.Mode != mode:
		return fmt.Errorf("the agent's mode is %s", a.Mode)
	case !a.Peers.Kubelet:
		return errors.New("kubelet is not connected to the agent")
	case !slices.Equal(a.ClusterPolicies.Names, policies):
		return fmt.Errorf("the policies of the cluster are %q", a.ClusterPolicies.Names)
	}
	return nil
}

// status asks the agent on the node. The machine has the network of the test.
func status(ctx context.Context) (agentStatus, error) {
	var found agentStatus
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:9477/status", nil)
	if err != nil {
		return found, err
	}
	resp, err := http.DefaultClient.Do(request)
	if err != nil {
		return found, fmt.Errorf("asking the agent for its status: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return found, fmt.Errorf("asking the agent for its status: %w", err)
	}
	if err := json.Unmarshal(body, &found); err != nil {
		return found, fmt.Errorf("reading the agent's status: %w: %.200s", err, body)
	}
	return found, nil
}

// wantAgent waits until the agent is in the stage's mode, in kubelet's way, and has these policies of the cluster.
func (s *stage) wantAgent(t *testing.T, policies ...string) {
	t.Helper()
	must(t, eventually(t.Context(), patience, "the agent to "+s.mode+" with "+strings.Join(policies, ", "), func(ctx context.Context) error {
		now, err := status(ctx)
		if err != nil {
			return err
		}
		return now.as(s.mode, policies...)
	}))
}

// wantNodeRuns and wantNodeRefused ask kubelet itself about a static pod: the API server need not be there.
func (s *stage) wantNodeRuns(t *testing.T, name string) {
	t.Helper()
	must(t, eventually(t.Context(), patience, name+" to run", func(ctx context.Context) error {
		pod, err := s.machine.KubeletPod(ctx, name)
		if err != nil {
			return err
		}
		if pod == nil {
			return errors.New("kubelet has not seen it")
		}
		return running(pod)
	}))
}

func (s *stage) wantNodeRefused(t *testing.T, name string, words ...string) {
	t.Helper()
	var message string
	must(t, eventually(t.Context(), patience, name+" to be refused", func(ctx context.Context) error {
		pod, err := s.machine.KubeletPod(ctx, name)
		if err != nil {
			return err
		}
		if pod == nil {
			return errors.New("kubelet has not seen it")
		}
		message, err = refusal(pod)
		return err
	}))
	for _, word := range words {
		if !strings.Contains(message, word) {
			t.Errorf("the message about %s does not say %q: %s", name, word, message)
		}
	}
}

// command runs cosentry beside the node, as an owner does at his desk.
func (s *stage) command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, s.tools.Cosentry, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("cosentry %s: %w\n%s%s", strings.Join(args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.String(), nil
}
