package sight

import "time"

// Peers is who is connected to the socket that the agent serves.
type Peers struct {
	// Kubelet says that kubelet is one of them: root's process in kubelet's own unit.
	Kubelet bool `json:"kubelet"`
	// Clients are the connections, oldest first, but for the agent's own.
	Clients []Peer `json:"clients,omitempty"`
	// More is how many connections there are beyond those that are told.
	More int `json:"more,omitempty"`
}

// Peer is one connection, and the process that made it.
type Peer struct {
	PID   int       `json:"pid"` // 0: in a PID namespace that the agent does not see
	UID   int       `json:"uid"`
	Since time.Time `json:"since"`
	// Name is what the process calls itself, Unit the systemd unit that it is in. Both are empty if it has ended since.
	Name string `json:"name,omitempty"`
	Unit string `json:"unit,omitempty"`
	Pod  bool   `json:"pod,omitempty"` // it runs in a pod
	// Kubelet is set for what is kubelet for certain, Like for what only looks like it.
	Kubelet bool `json:"kubelet,omitempty"`
	Like    bool `json:"like,omitempty"`
}

// Refusal is a decision by which an image was refused, or would have been but for observe mode.
type Refusal struct {
	Time time.Time `json:"time"`
	// Action, Decision and Mode are the record's: decision is deny or error.
	Action    string `json:"action"`
	Decision  string `json:"decision"`
	Mode      string `json:"mode"`
	Image     string `json:"image"`
	Namespace string `json:"namespace,omitempty"`
	Pod       string `json:"pod,omitempty"`
	Container string `json:"container,omitempty"`
	Reason    string `json:"reason"`
}
