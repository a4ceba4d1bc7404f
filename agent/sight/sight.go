// Package sight lets the node's owner look at a running agent: /metrics, /healthz, /readyz and /status over HTTP, on a unix socket
// that root alone can connect to and, for Prometheus and people, on a loopback address; and the clients that cosentry's own commands use.
//
// It promises that who is not root on the node answers for nobody: the agent is asked on its socket alone, and where another is
// asked on loopback, who listens there is looked up first. Whoever fills one address keeps nobody from another.
//
// It shows names of policies, images and pods to anyone on the node, and never a credential.
package sight

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Status is what `cosentry status -o json` prints.
type Status struct {
	Version string `json:"version"`
	Node    string `json:"node"`
	Mode    string `json:"mode"`
	Listen  string `json:"listen"`
	// NotReady is why the agent cannot judge what it is asked to judge; empty if it can.
	NotReady string `json:"notReady,omitempty"`
	// SettingsBroken is there while the settings file is not in force.
	SettingsBroken *SettingsBroken `json:"settingsBroken,omitempty"`
	// Runtime is the runtime's socket, RuntimeState the state of the connection to it as gRPC
	// names it (READY, IDLE, CONNECTING, TRANSIENT_FAILURE).
	Runtime      string    `json:"runtime"`
	RuntimeState string    `json:"runtimeState"`
	Started      time.Time `json:"started"`
	Policies     Policies  `json:"policies"`
	// ClusterPolicies are left out where the cluster has no say.
	ClusterPolicies *ClusterPolicies `json:"clusterPolicies,omitempty"`
	Namespaces      Namespaces       `json:"namespaces"`
	// Trust is how things stand with what policies refer to and do not hold.
	Trust []Trust `json:"trust,omitempty"`
	// NoMatch is what happens to an image that no policy matches.
	NoMatch string `json:"noMatch"`
	// CachedVerdicts is the number of verdicts in the cache.
	CachedVerdicts int `json:"cachedVerdicts"`
	// Decisions counts decisions since the start, by action and decision.
	Decisions map[string]map[string]uint64 `json:"decisions"`
	Audit     Audit                        `json:"audit"`
	// Sandbox is about the image of which the runtime makes pods' sandboxes.
	Sandbox Sandbox `json:"sandbox"`
	// BreakGlass is there while everything is let through.
	BreakGlass *BreakGlass `json:"breakGlass,omitempty"`
	Peers      Peers       `json:"peers"`
	// LastRefusal is the newest that the agent knows of; nil if there is none.
	LastRefusal *Refusal `json:"lastRefusal,omitempty"`
}

// Policies are those in force and those on disk.
type Policies struct {
	Revision string    `json:"revision,omitempty"` // in force; empty if none is
	Count    int       `json:"count"`
	Loaded   time.Time `json:"loaded,omitzero"`
	Names    []string  `json:"names,omitempty"`
	Warnings int       `json:"warnings,omitempty"` // what `policy check` warns of
	// Broken is why the files on disk are not in force; empty if they are.
	Broken string `json:"broken,omitempty"`
}

// Namespaces says where images are judged.
type Namespaces struct {
	// Enforce is all, labelled, or the patterns of the settings, separated by commas; Exempt wins over it.
	Enforce string   `json:"enforce"`
	Exempt  []string `json:"exempt,omitempty"`
	// ForCluster says that the labels came by way of the API server, or others than root can write them: they say where the cluster's policies hold, and the node's
	// own hold in all namespaces that are not exempt.
	ForCluster bool `json:"forCluster,omitempty"`
	// File and what follows are there where Enforce is labelled. State is good, missing (images are judged in all namespaces)
	// or broken (what the file last said holds); Count and Labelled are of the file in force, read at Loaded.
	File     string    `json:"file,omitempty"`
	State    string    `json:"state,omitempty"`
	Count    int       `json:"count,omitempty"`
	Labelled int       `json:"labelled,omitempty"`
	Loaded   time.Time `json:"loaded,omitzero"`
	Fault    string    `json:"fault,omitempty"`
}

// Trust is one thing that policies refer to.
type Trust struct {
	// Layer is "cluster" for what policies of the cluster refer to, and empty for what the node's own do.
	Layer string `json:"layer,omitempty"`
	Name  string `json:"name"`
	Kind  string `json:"kind"` // secret, configmap, kms key, remote rule, trust root
	// OK says that it can be used now, although Error may tell of an attempt to renew it that failed.
	OK      bool      `json:"ok"`
	Error   string    `json:"error,omitempty"`
	Fetched time.Time `json:"fetched,omitzero"`
	Expires time.Time `json:"expires,omitzero"` // will not be used after; never, if it is left out
	Ends    time.Time `json:"ends,omitzero"`    // of a trust root: no authority of some kind signs after; it stays in use
	// Disk says how what is kept in trust.cacheDir differs from what is in use; empty: it does not.
	Disk string `json:"disk,omitempty"`
	From string `json:"from,omitempty"`
}

// Audit is the state of the audit log.
type Audit struct {
	Dir      string `json:"dir"`
	Required bool   `json:"required"`
	// Sequence and Hash are the last record's in the file.
	Sequence uint64 `json:"sequence"`
	Hash     string `json:"hash"`
	// Fault is why records are not being written; empty if they are.
	Fault string `json:"fault,omitempty"`
	// Queued is how many records wait in memory, Lost how many are in no file and will be in none.
	Queued int    `json:"queued,omitempty"`
	Lost   uint64 `json:"lost,omitempty"`
}

func (s Sources) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.Metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(s.Status())
	})
	return mux
}
