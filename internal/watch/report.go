package watch

import (
	"maps"
	"slices"
	"time"
)

// Report is what the watch says of a volume.
type Report struct {
	State State
	Since time.Time
	// WaitSince is when the outage began that is going on; zero if none is.
	WaitSince time.Time
	// Attempts is how often a connect has been tried since the kernel gave up.
	Attempts int
	// Reconnects counts the outages that ended well.
	Reconnects int
	// Waited is how long those lasted, Swaps how often a device was put back.
	Waited time.Duration
	Swaps  int
	// Why explains Refused.
	Why string
	// Asks says that the volume is there, and waits for the cluster's word on whose it
	// is.
	Asks bool
}

// Report returns the last word on a volume; false if the watch has not seen it.
func (w *Watch) Report(id string) (Report, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r, ok := w.reports[id]
	return r, ok
}

// Link is what the watch says of a session.
type Link struct {
	NQN         string
	Live        bool
	Controllers int
	Attempts    int // to connect, since the kernel gave up
	Outages     int
	Connects    int // that the watch made
	// LostSince is zero while the session is live.
	LostSince time.Time
}

// Links returns the last word on all sessions.
func (w *Watch) Links() []Link {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.links)
}

func (w *Watch) publish(volumes []Volume) {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.reports)
	for _, v := range volumes {
		m, s := w.volumes[v.ID], w.sessions[v.Session.NQN]
		if m == nil || s == nil {
			continue
		}
		w.reports[v.ID] = Report{State: m.state, Since: m.since, WaitSince: m.waitSince, Attempts: s.failures, Reconnects: m.reconnects, Waited: m.waited, Swaps: m.swaps, Why: m.why, Asks: m.asks}
	}
	w.links = w.links[:0]
	for _, nqn := range slices.Sorted(maps.Keys(w.sessions)) {
		s, f := w.sessions[nqn], w.seen.sessions[nqn]
		w.links = append(w.links, Link{NQN: nqn, Live: s.lostSince.IsZero() && s.wasLive, Controllers: len(f.controllers), Attempts: s.failures, Outages: s.outages, Connects: s.connects, LostSince: s.lostSince})
	}
}

// sayBlind logs once that a look failed, and with what.
func (w *Watch) sayBlind(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != w.blind && err != nil {
		w.Log.Error("the watch cannot see what the kernel has", "err", err)
	}
	w.blind = text
}

// saySession logs each change of a session once: lost, back.
func (w *Watch) saySession(f facts, s *sessionMemory) {
	if !slices.ContainsFunc(f.volumes, func(v Volume) bool { return !v.Unsettled && !v.Ended }) {
		return // it is being made, or taken down
	}
	switch live := f.live(); {
	case s.wasLive && !live && s.lostSince.IsZero():
		w.Log.Warn("session is lost, I/O waits", "nqn", f.session.NQN, "controllers", len(f.controllers), "volumes", len(f.volumes))
	case s.wasLive && live && !s.lostSince.IsZero():
		w.Log.Info("session is back", "nqn", f.session.NQN, "after", f.now.Sub(s.lostSince).Round(time.Millisecond))
	}
}

// sayVolume logs each change of a volume once. That it waits because its session
// is away is said of the session.
func (w *Watch) sayVolume(v Volume, before, now volumeMemory) {
	if before.asks && now.feeds > before.feeds && !now.silentAt.IsZero() {
		w.Log.Warn("the cluster does not say whether the volume is still this node's: its I/O goes on", "volume", v.ID)
	}
	if before.state == now.state {
		return
	}
	switch now.state {
	case Serving:
		if before.served && !before.waitSince.IsZero() {
			w.Log.Info("volume is back, I/O goes on", "volume", v.ID, "after", now.since.Sub(before.waitSince).Round(time.Millisecond))
		}
	case Refused:
		w.Log.Error("where the volume should be is something else: it is not used, and I/O waits", "volume", v.ID, "why", now.why)
	case Fenced:
		w.Log.Warn("the volume was given away: its I/O will fail after the grace", "volume", v.ID, "grace", w.Grace)
	case Detached:
		w.Log.Warn("the volume is there again, and the cluster says that it is not attached to this node any more: its I/O waits", "volume", v.ID)
	case Lost:
		w.Log.Error("volume is lost until it is staged again", "volume", v.ID)
	case Waiting, Failing:
	}
}
