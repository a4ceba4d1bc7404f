package canary

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cosentry/cosentry/agent/audit"
)

// ours matches the names of canaries and of nothing else: an image that has any other name as well is somebody's.
var ours = regexp.MustCompile(`^127\.0\.0\.1:[0-9]{1,5}/` + repositoryName + `/[0-9a-f]{32}(:[\w.-]{1,128}|@sha256:[0-9a-f]{64})$`)

// sweep removes what canaries have left that were killed before they could clean up.
func (c *attempt) sweep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.waits.clean)
	defer cancel()
	list, err := c.images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return fmt.Errorf("looking for canaries that were left on the node: %s", words(err))
	}
	for _, img := range list.GetImages() {
		names := slices.Concat(img.GetRepoTags(), img.GetRepoDigests())
		if len(names) == 0 || slices.ContainsFunc(names, func(name string) bool { return !ours.MatchString(name) }) {
			continue
		}
		if err := c.remove(ctx, img.GetId()); err != nil {
			return fmt.Errorf("removing a canary that was left on the node: %w", err)
		}
	}
	return nil
}

// clean removes the canary from the node and looks whether it is gone. It goes on when ctx was given up.
func (c *attempt) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.waits.clean)
	defer cancel()
	var err error
	for {
		var id string
		if id, err = c.present(ctx); err == nil && id == "" {
			return nil
		}
		if err == nil {
			err = errors.Join(c.remove(ctx, id), c.remove(ctx, c.registry.ref()))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the canary %s may be left on the node, remove it by hand: %w", c.registry.ref(), errors.Join(ctx.Err(), err))
		case <-time.After(100 * time.Millisecond): // before the next look
		}
	}
}

// present is the ID by which the runtime has the canary; empty if it does not.
func (c *attempt) present(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, name := range []string{c.pulledID, c.registry.ref()} {
		if name == "" {
			continue
		}
		resp, err := c.images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: name}})
		if err != nil {
			return "", fmt.Errorf("asking whether the canary is on the node: %s", words(err))
		}
		if id := resp.GetImage().GetId(); id != "" {
			return id, nil
		}
	}
	return "", nil
}

func (c *attempt) remove(ctx context.Context, name string) error {
	if _, err := c.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: name}}); err != nil {
		return fmt.Errorf("removing %s: %s", name, words(err))
	}
	return nil
}

// lastRecords is how many of the log's last records are looked through. It is far more than a node writes in the seconds
// that a canary takes.
const lastRecords = 4096

// record finds what the agent recorded of the canary since start; nil without an error if it did not.
func (c *attempt) record(ctx context.Context, start time.Time) (*audit.Record, error) {
	if c.o.AuditDir == "" {
		return nil, errors.New("it is not known where the agent's audit log is")
	}
	for end := time.Now().Add(c.waits.record); ; {
		var failure error
		for entry, err := range audit.Read(ctx, c.o.AuditDir, audit.ReadOptions{Last: lastRecords, Since: start.Add(-time.Minute)}) {
			var broken *audit.BrokenError
			switch {
			case errors.As(err, &broken): // a damaged line is for `audit verify`
			case err != nil:
				failure = err
			case entry.Image == c.registry.ref() && entry.Action == audit.ActionPull:
				return &entry.Record, nil
			}
		}
		if ctx.Err() != nil || time.Now().After(end) {
			return nil, failure
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond): // before the next look
		}
	}
}
