// Package watch keeps the sessions of staged volumes as eager as their class
// asks: it looks at sysfs four times a second, because the kernel announces no
// loss, and holds the reconnect delay at one second.
//
// It makes no connection and repairs no device; it reads attributes and writes
// two of them. What it decides is a pure function of what it saw.
package watch

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

// Every is how often sysfs is looked at.
const Every = 250 * time.Millisecond

// eagerDelay is the reconnect delay of an eager session, in seconds. Zero would
// make the kernel spin, and divide by zero at the next write of ctrl_loss_tmo.
const eagerDelay = 1

// Session is what the watch has to know of one.
type Session struct {
	NQN    string
	Config nvme.ConnectionConfig
	Eager  bool
}

// Watch is the loop.
type Watch struct {
	// Sessions returns those of the volumes that are staged now.
	Sessions func() ([]Session, error)
	Sysfs    nvmesysfs.FS
	Log      *slog.Logger

	states map[string]linkState // by NQN and controller; only the loop touches it
}

// Run loops until ctx ends. Ending changes nothing: the kernel goes on alone.
func (w *Watch) Run(ctx context.Context) {
	w.states = map[string]linkState{}
	tick := time.NewTicker(Every)
	defer tick.Stop()
	for {
		w.once()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (w *Watch) once() {
	sessions, err := w.Sessions()
	if err != nil {
		w.Log.Error("the watch cannot read the volume records", "err", err)
		return
	}
	if len(sessions) == 0 {
		return
	}
	s, err := w.Sysfs.Snapshot()
	if err != nil {
		w.Log.Error("the watch cannot read sysfs", "err", err)
		return
	}
	w.say(s, sessions)
	for _, o := range decide(s, sessions) {
		if err := w.Sysfs.WriteControl(o.controller, o.attribute, strconv.Itoa(o.value)); err != nil {
			w.Log.Debug("a controller did not take a setting; it is written again at the next look", "controller", o.controller, "attribute", o.attribute, "err", err)
		}
	}
}

// say logs each change of a session once: lost, back, gone. A session that is
// only being made is neither.
func (w *Watch) say(s nvmesysfs.Snapshot, sessions []Session) {
	ours := map[string]bool{}
	for _, x := range sessions {
		ours[x.NQN] = true
	}
	seen := map[string]linkState{}
	for _, c := range s.Controllers {
		if !ours[c.NQN] {
			continue
		}
		// Names are used again, so the name alone is not the controller.
		key := c.NQN + " " + c.Name
		before := w.states[key]
		now := linkState{wasLive: before.wasLive || c.State == "live", lost: before.lost}
		switch {
		case c.State == "live" && before.lost:
			w.Log.Info("session is back, I/O goes on", "nqn", c.NQN, "controller", c.Name)
			now.lost = false
		case c.State == "connecting" && before.wasLive && !before.lost:
			w.Log.Warn("session is lost, I/O waits while the kernel reconnects", "nqn", c.NQN, "controller", c.Name, "portal", c.Traddr+":"+c.Trsvcid)
			now.lost = true
		}
		seen[key] = now
	}
	for key := range w.states {
		nqn, name, _ := strings.Cut(key, " ")
		if _, there := seen[key]; !there && ours[nqn] {
			w.Log.Warn("the kernel has deleted the controller of a session in use", "nqn", nqn, "controller", name)
		}
	}
	w.states = seen
}

// linkState is what was last said of a controller.
type linkState struct{ wasLive, lost bool }

// order is one attribute to be written.
type order struct {
	controller, attribute string
	value                 int
}

// decide compares the delays that the kernel has with those wanted. The kernel
// keeps ctrl_loss_tmo as a number of attempts computed with the delay of that
// moment, so a change of the delay is followed by writing it again: otherwise
// 600 s set at delay 5 would be over after 120 s at delay 1. It is compared too,
// because that second write may have failed, and because a session that was
// adopted has whatever somebody gave it.
func decide(s nvmesysfs.Snapshot, sessions []Session) []order {
	want := map[string]Session{}
	for _, x := range sessions {
		want[x.NQN] = x
	}
	var out []order
	for _, c := range s.Controllers {
		x, ok := want[c.NQN]
		if !ok || c.State != "live" && c.State != "connecting" && c.State != "resetting" {
			continue
		}
		delay, loss := x.Config.ReconnectDelay, x.Config.CtrlLossTmo
		if x.Eager {
			delay = eagerDelay
		}
		if delay <= 0 {
			continue
		}
		if c.ReconnectDelay != delay {
			out = append(out, order{c.Name, "reconnect_delay", delay})
		}
		if loss != 0 && c.CtrlLossTmo != shownLoss(loss, delay) || loss > 0 && c.ReconnectDelay != delay {
			out = append(out, order{c.Name, "ctrl_loss_tmo", loss})
		}
	}
	return out
}

// shownLoss is what the kernel shows after ctrl_loss_tmo was written: attempts,
// rounded up, times the delay; -1 for ever.
func shownLoss(loss, delay int) int {
	if loss < 0 {
		return -1
	}
	return (loss + delay - 1) / delay * delay
}
