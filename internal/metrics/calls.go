package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Calls counts the CSI calls of one process, by method and gRPC code, and how long
// they took.
type Calls struct{ prometheus.ObserverVec }

// NewCalls returns one that has seen no call, and what to register.
func NewCalls() (Calls, prometheus.Collector) {
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "holdfast_csi_call_seconds",
		Help: "How long CSI calls took, by method and gRPC code.",
		// From a lookup to the deadline of a sidecar (15 s by default) and beyond.
		Buckets: []float64{.01, .05, .25, 1, 5, 15, 60},
	}, []string{"method", "code"})
	return Calls{seconds}, seconds
}

// Saw counts a call. The method is the name alone, NodeStageVolume.
func (c Calls) Saw(method, code string, took time.Duration) {
	c.WithLabelValues(method, code).Observe(took.Seconds())
}
