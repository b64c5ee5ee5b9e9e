// Package metrics shows the node's volumes and sessions to Prometheus. It keeps
// nothing of its own: every scrape asks anew, and nothing that a scrape asks
// waits for a device.
package metrics

import (
	"context"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-csi/holdfast/internal/control"
)

// Source is what is shown.
type Source interface {
	Volumes(ctx context.Context) []control.Volume
	Sessions() []control.Session
}

// New returns a collector of the node's metrics.
func New(s Source) prometheus.Collector { return collector{s} }

type collector struct{ source Source }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("holdfast_"+name, help, labels, nil)
}

var (
	volumeInfo    = desc("volume_info", "1, with the PersistentVolumeClaim that the volume was made for, if that is known.", "volume_id", "namespace", "persistentvolumeclaim")
	volumeState   = desc("volume_state", "1 for the state that the volume is in.", "volume_id", "state", "guard")
	volumeOutage  = desc("volume_outage_seconds", "How long the outage has lasted that is going on; 0 if none is.", "volume_id")
	volumeOutages = desc("volume_outages_total", "Outages of the volume that ended with its I/O going on.", "volume_id")
	volumeWaited  = desc("volume_outage_seconds_total", "How long the outages lasted that are over.", "volume_id")
	volumeSwaps   = desc("volume_guard_swaps_total", "How often a device was put back below the volume's table.", "volume_id")
	volumeWaiting = desc("volume_requests", "Requests that wait or are under way.", "volume_id")

	sessionLive       = desc("session_live", "1 if a controller of the session is live.", "nqn")
	sessionVolumes    = desc("session_volumes", "Staged volumes of the session.", "nqn")
	sessionOutages    = desc("session_outages_total", "How often the session was lost.", "nqn")
	sessionReconnects = desc("session_reconnects_total", "How often the session was connected again after the kernel had given it up.", "nqn")
)

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		volumeInfo, volumeState, volumeOutage, volumeOutages, volumeWaited, volumeSwaps, volumeWaiting,
		sessionLive, sessionVolumes, sessionOutages, sessionReconnects,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	for _, v := range c.source.Volumes(context.Background()) {
		namespace, claim, _ := strings.Cut(v.Claim, "/")
		gauge(volumeInfo, 1, v.ID, namespace, claim)
		gauge(volumeState, 1, v.ID, v.State, v.Guard)
		outage := 0.0
		if v.WaitingSince != nil {
			outage = time.Since(*v.WaitingSince).Seconds()
		}
		gauge(volumeOutage, outage, v.ID)
		counter(volumeOutages, float64(v.Outages), v.ID)
		counter(volumeWaited, v.OutageSeconds, v.ID)
		counter(volumeSwaps, float64(v.Swaps), v.ID)
		gauge(volumeWaiting, float64(v.Requests), v.ID)
	}
	for _, s := range c.source.Sessions() {
		live := 0.0
		if s.Live {
			live = 1
		}
		gauge(sessionLive, live, s.NQN)
		gauge(sessionVolumes, float64(s.Volumes), s.NQN)
		counter(sessionOutages, float64(s.Outages), s.NQN)
		counter(sessionReconnects, float64(s.Reconnects), s.NQN)
	}
}
