package control

import (
	"context"
	"time"
)

// Volume is one that is staged on the node.
type Volume struct {
	ID    string `json:"id"`
	Claim string `json:"claim,omitempty"` // NAMESPACE/NAME of the PersistentVolumeClaim
	Phase string `json:"phase"`           // staging, staged, unstaging, flushed
	// State is the driver's word for its health, Message says it in a sentence.
	State   string `json:"state"`
	Message string `json:"message"`
	// WaitingSince is when the outage began that is going on.
	WaitingSince *time.Time `json:"waitingSince,omitempty"`
	// Requests is how many reads and writes wait or are under way just now.
	Requests  int      `json:"requests"`
	FSType    string   `json:"fsType,omitempty"` // "" for a block volume
	Guard     string   `json:"guard"`            // kernel or dm
	Disk      string   `json:"disk"`
	NQN       string   `json:"nqn"`
	Published []string `json:"published,omitempty"`
	// Counters since the plugin began.
	Outages       int     `json:"outages"`
	OutageSeconds float64 `json:"outageSeconds"` // of those that are over
	Swaps         int     `json:"swaps"`
}

// Session is one NVMe connection.
type Session struct {
	NQN         string `json:"nqn"`
	Live        bool   `json:"live"`
	Controllers int    `json:"controllers"`
	Volumes     int    `json:"volumes"`
	Attempts    int    `json:"attempts"` // to connect, since the kernel gave up
	Outages     int    `json:"outages"`
	Reconnects  int    `json:"reconnects"` // connects that the watch made
}

// Service is what the node plugin serves.
type Service interface {
	Volumes(ctx context.Context) []Volume
	Sessions() []Session
	// Abandon fails the I/O of one volume from now on.
	Abandon(ctx context.Context, volumeID string) error
}
