package watch

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

// want is what a class asks for.
type want struct {
	config nvme.ConnectionConfig
	eager  bool
}

func TestSettings(t *testing.T) {
	t.Parallel()
	session := func(loss, delay int, eager bool) want {
		return want{nvme.ConnectionConfig{CtrlLossTmo: loss, ReconnectDelay: delay}, eager}
	}
	controller := func(state string, loss, delay int) []nvmesysfs.Controller {
		return []nvmesysfs.Controller{{Name: "nvme1", NQN: "ours", State: state, CtrlLossTmo: loss, ReconnectDelay: delay}}
	}
	delayTo := func(v int) setting { return setting{"nvme1", "reconnect_delay", v} }
	lossTo := func(v int) setting { return setting{"nvme1", "ctrl_loss_tmo", v} }
	for name, c := range map[string]struct {
		want        want
		controllers []nvmesysfs.Controller
		settings    []setting
	}{
		"as wanted":                   {session(-1, 5, false), controller("live", -1, 5), nil},
		"eager, as wanted":            {session(-1, 5, true), controller("live", -1, 1), nil},
		"eager, for ever":             {session(-1, 5, true), controller("live", -1, 5), []setting{delayTo(1)}},
		"eager, bounded":              {session(600, 5, true), controller("live", 600, 5), []setting{delayTo(1), lossTo(600)}},
		"eager, bounded, done":        {session(600, 5, true), controller("live", 600, 1), nil},
		"the second write was lost":   {session(600, 5, true), controller("live", 120, 1), []setting{lossTo(600)}},
		"rounded up by the kernel":    {session(600, 7, false), controller("live", 602, 7), nil},
		"an attempt too few":          {session(600, 7, false), controller("live", 595, 7), []setting{lossTo(600)}},
		"the loss is the kernel's":    {session(0, 5, true), controller("live", 600, 5), []setting{delayTo(1)}},
		"not eager":                   {session(-1, 5, false), controller("live", -1, 10), []setting{delayTo(5)}},
		"not eager, delay of kernel":  {session(-1, 0, false), controller("live", -1, 10), nil},
		"adopted, would give up":      {session(-1, 5, true), controller("live", 600, 10), []setting{delayTo(1), lossTo(-1)}},
		"adopted, bounded for ever":   {session(600, 5, false), controller("live", -1, 5), []setting{lossTo(600)}},
		"kernel without the delay":    {session(-1, 5, true), controller("live", -1, -1), []setting{delayTo(1)}},
		"while it reconnects":         {session(-1, 5, true), controller("connecting", -1, 5), []setting{delayTo(1)}},
		"while it resets":             {session(-1, 5, true), controller("resetting", -1, 5), []setting{delayTo(1)}},
		"new":                         {session(-1, 5, true), controller("new", -1, 5), nil},
		"being deleted":               {session(-1, 5, true), controller("deleting", -1, 5), nil},
		"being deleted, no more I/O":  {session(-1, 5, true), controller("deleting (no IO)", -1, 5), nil},
		"dead":                        {session(-1, 5, true), controller("dead", -1, 5), nil},
		"nothing there":               {session(-1, 5, true), nil, nil},
		"two paths, one as it should": {session(-1, 5, true), append(controller("live", -1, 1), nvmesysfs.Controller{Name: "nvme2", NQN: "ours", State: "connecting", CtrlLossTmo: -1, ReconnectDelay: 5}), []setting{{"nvme2", "reconnect_delay", 1}}},
	} {
		got := settings(c.controllers, c.want.config, c.want.eager)
		if diff := cmp.Diff(c.settings, got, cmp.AllowUnexported(setting{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestSettingsSettle: what is written is what the kernel shows afterwards, for
// every pair that a class may have, so that the watch comes to rest.
func TestSettingsSettle(t *testing.T) {
	t.Parallel()
	for _, loss := range []int{-1, 1, 2, 59, 60, 600, 86400} {
		for _, delay := range []int{1, 2, 3, 5, 7, 10, 60, 100} {
			for _, eager := range []bool{false, true} {
				k := kernel{attempts: 60, delay: 10}
				config := nvme.ConnectionConfig{CtrlLossTmo: loss, ReconnectDelay: delay}
				for _, o := range settings(k.controllers(), config, eager) {
					k.write(o)
				}
				if again := settings(k.controllers(), config, eager); len(again) > 0 {
					t.Errorf("loss %d, delay %d, eager %v: %+v, and again %v", loss, delay, eager, k, again)
				}
				if shown := k.controllers()[0].CtrlLossTmo; loss > 0 && shown < loss || loss < 0 && shown != -1 {
					t.Errorf("loss %d, delay %d, eager %v: the kernel gives up after %d", loss, delay, eager, shown)
				}
			}
		}
	}
}

// kernel keeps the two attributes as nvme_ctrl_loss_tmo_store and
// nvme_ctrl_reconnect_delay_store do (drivers/nvme/host/sysfs.c).
type kernel struct{ attempts, delay int }

func (k *kernel) write(o setting) {
	switch {
	case o.attribute == "reconnect_delay":
		k.delay = o.value
	case o.value < 0:
		k.attempts = -1
	default:
		k.attempts = (o.value + k.delay - 1) / k.delay
	}
}

func (k *kernel) controllers() []nvmesysfs.Controller {
	loss := -1
	if k.attempts >= 0 {
		loss = k.attempts * k.delay
	}
	return []nvmesysfs.Controller{{Name: "nvme1", NQN: "ours", State: "live", CtrlLossTmo: loss, ReconnectDelay: k.delay}}
}

// While the machine goes down a session that is away gives up soon; one that is
// live, and one of a shutdown that was cancelled, is as it was.
func TestFinite(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		finite bool
		state  string
		has    int
		want   []string
	}{
		"away":        {true, "connecting", -1, []string{"set nvme1 ctrl_loss_tmo=2"}},
		"away, told":  {true, "connecting", 2, nil},
		"live":        {true, "live", -1, nil},
		"live, told":  {true, "live", 2, []string{"set nvme1 ctrl_loss_tmo=-1"}},
		"cancelled":   {false, "connecting", 2, []string{"set nvme1 ctrl_loss_tmo=-1"}},
		"no shutdown": {false, "connecting", -1, nil},
	} {
		v := ourVolume()
		v.Finite, v.Session.Config.ReconnectDelay = c.finite, 1
		f := bySession([]Volume{v})[0]
		f.now, f.controllers = start, factsOf(0, v).controllers
		f.controllers[0].State, f.controllers[0].CtrlLossTmo = c.state, c.has
		if diff := cmp.Diff(c.want, words(decideSession(rules{}, f, &sessionMemory{}))); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}
