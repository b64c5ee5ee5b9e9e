// Package scale shows the controller's side of Holdfast with many nodes and volumes:
// what it holds in memory, how long its calls take, what it asks of the API server,
// and that nothing fails, is made twice or is left. Control plane, sidecars, controller
// and agents are the real ones; nodes are objects that kwok keeps alive, and storage
// hosts have a model of the kernel's target (test/cmd/fakehost).
package scale

// State is what a storage host without a kernel tells of itself.
type State struct {
	Volumes      []Volume      `json:"volumes"`      // on record, in whatever state
	Publications []Publication `json:"publications"` // on record, in whatever state
	Sessions     int           `json:"sessions"`     // on record
	Files        []string      `json:"files"`        // in the pools
	Visible      []Export      `json:"visible"`      // namespaces that the nodes of the sessions would find
	Target       []string      `json:"target"`       // what the target's configuration holds, but for ports
}

// Volume is one on record.
type Volume struct {
	UUID  string `json:"uuid"`
	Name  string `json:"name"`
	State string `json:"state"`
}

// Publication is one on record.
type Publication struct {
	Volume string `json:"volume"`
	Node   string `json:"node"`
	State  string `json:"state"`
	NQN    string `json:"nqn"`
	NSID   uint32 `json:"nsid"`
}

// Export is a namespace at the target.
type Export struct {
	NQN    string `json:"nqn"`
	NSID   uint32 `json:"nsid"`
	Volume string `json:"volume"`
}
