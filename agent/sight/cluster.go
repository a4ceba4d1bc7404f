package sight

import "time"

// ClusterPolicies are the policies that came by way of the API server. They only add to the node's own.
type ClusterPolicies struct {
	Dir string `json:"dir"`
	// State is none (none have ever come: the node's own hold alone), good, or broken (what is on disk cannot be loaded: the
	// set below stays in force or, where it has no revision, every gated call is refused).
	State string `json:"state"`
	// Set, Revision, Count and Names are of what is in force, since Loaded.
	Set      string    `json:"set,omitempty"`
	Revision string    `json:"revision,omitempty"`
	Count    int       `json:"count"`
	Loaded   time.Time `json:"loaded,omitzero"`
	Names    []string  `json:"names,omitempty"`
	Warnings int       `json:"warnings,omitempty"`
	Broken   string    `json:"broken,omitempty"`
	// Signed says that documents count only if they are signed; Skipped are the first hundred of the SkippedCount that are not.
	Signed       bool      `json:"signed"`
	SkippedCount int       `json:"skippedCount,omitempty"`
	Skipped      []Skipped `json:"skipped,omitempty"`
	// Heartbeat is when sync last knew the folder to be up to date; left out if it never said so.
	Heartbeat      time.Time `json:"heartbeat,omitzero"`
	HeartbeatFault string    `json:"heartbeatFault,omitempty"`
}

// StaleAfter is the age of the heartbeat from which on whoever shows it is loud about it: sync says several times a minute that it is up
// to date. An alert, which calls somebody, may wait longer.
const StaleAfter = 10 * time.Minute

// Skipped is a document of the cluster that is not taken.
type Skipped struct {
	File string `json:"file"`
	Why  string `json:"why"`
}
