package sight

import "time"

// Sandbox is how things stand with the image of which the runtime makes pods' sandboxes.
type Sandbox struct {
	// Refuse says that no pod starts while the image is not accepted.
	Refuse bool           `json:"refuse"`
	Images []SandboxImage `json:"images,omitempty"`
	// Looked is when they were judged last; left out if they were not yet.
	Looked time.Time `json:"looked,omitzero"`
	// Fault is why the image is not known now; Images are then what was known before.
	Fault string `json:"fault,omitempty"`
}

// SandboxImage is an image of sandboxes.
type SandboxImage struct {
	Name   string `json:"name"`
	Digest string `json:"digest,omitempty"`
	// Allowed says that policy accepts it; Absent that it is not on the node yet, and nothing was judged.
	Allowed bool   `json:"allowed"`
	Absent  bool   `json:"absent,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

// BreakGlass is a glass that is broken: everything is let through until it ends.
type BreakGlass struct {
	Begun  time.Time `json:"begun"`
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
	By     string    `json:"by"`
}
