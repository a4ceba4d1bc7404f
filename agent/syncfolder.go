package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/cosentry/cosentry/agent/cluster"
)

// giveLimit is for all of it. What is not done by then is left to the next start of the pod, or has it fail.
const giveLimit = 2 * time.Minute

// giveFolder gives the folder of the cluster's documents to the user that sync runs as, and tells if it had to begin with a new one.
func giveFolder(ctx context.Context, w io.Writer, dir string, uid int) error {
	ctx, cancel := context.WithTimeout(ctx, giveLimit)
	defer cancel()
	given, err := cluster.Give(ctx, dir, uid)
	if err != nil {
		return err
	}
	if given.Aside != "" {
		fmt.Fprintf(w, "WARNING: %s is set aside as %s, and an empty one takes its place: %s. "+
			"Somebody has written to it who is not cosentry sync. Find out who, and remove what was set aside.\n", dir, given.Aside, given.Why)
	}
	if given.Left {
		fmt.Fprintln(w, "There is more of what was set aside before than could be removed now; it goes with the next starts.")
	}
	return nil
}
