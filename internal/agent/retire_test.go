package agent_test

import (
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/internal/agent/agenttest"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

var declared = time.Date(2026, 11, 28, 12, 0, 0, 123456789, time.UTC)

// A host that was declared gone and comes back withdraws everything, gives nothing,
// keeps all volumes, and is as before once it is admitted.
func TestRetire(t *testing.T) {
	f, a := newFixture(t)
	must(t, a.Retire(t.Context(), declared))
	if st, err := a.Status(t.Context(), agenttest.Ref(f.published[0])); err != nil || !st.Ended {
		t.Errorf("status %+v, %v", st, err)
	}
	eventually(t, "nothing is exported", func() bool { return nothingIsExported(f, a, t) })
	refused := func(what string, err error) {
		t.Helper()
		t.Run(what, func(t *testing.T) {
			agenttest.WantErr(t, err, volume.ErrPrecondition, "2026-11-28", "holdfast admit box1")
		})
	}
	refused("publish", second(a.Publish(t.Context(), agenttest.Request(f.free.UUID, 1))))
	refused("publish again", second(a.Publish(t.Context(), agenttest.Request(f.published[0].Volume, 1))))
	refused("create", second(a.Create(t.Context(), volume.CreateRequest{Name: "new", RequiredBytes: 1 << 20})))
	if info, err := a.Info(t.Context()); err != nil || !info.Retired.Equal(declared) {
		t.Errorf("info: %v, %v", info.Retired, err)
	}
	a.Kill()
	f.env.PowerCycle()
	a = f.env.StartServing(t)
	refused("publish after a boot", second(a.Publish(t.Context(), agenttest.Request(f.free.UUID, 1))))
	must(t, a.Delete(t.Context(), f.free.UUID))

	must(t, a.Admit(t.Context(), declared))
	must(t, a.Admit(t.Context(), declared))
	must(t, a.Retire(t.Context(), declared)) // from somebody who has not heard yet
	agenttest.WantErr(t, a.Retire(t.Context(), declared.Add(-time.Hour)), volume.ErrPrecondition, "older")
	if p := publishTo(t, a, volume.Volume{UUID: f.published[0].Volume}, 2); !isShown(f.env, p) || p.Generation != f.published[0].Generation+1 {
		t.Errorf("published after admission: %+v", p)
	}
	if info, err := a.Info(t.Context()); err != nil || !info.Retired.IsZero() {
		t.Errorf("info: %v, %v", info.Retired, err)
	}
	must(t, a.Retire(t.Context(), declared.Add(time.Hour)))
	agenttest.WantErr(t, a.Retire(t.Context(), declared.Add(time.Minute)), volume.ErrPrecondition, "older")
	agenttest.WantErr(t, a.Admit(t.Context(), declared), volume.ErrPrecondition, "again")
}

func nothingIsExported(f fixture, a *agenttest.Agent, t *testing.T) bool {
	t.Helper()
	left, err := a.Publications(t.Context())
	must(t, err)
	for _, p := range f.published {
		if isShown(f.env, p) {
			return false
		}
	}
	return len(left) == 0
}

// Killed between the word and the deed, it does not bring anything back.
func TestRetireAndDie(t *testing.T) {
	f, a := newFixture(t)
	for _, p := range f.published {
		f.env.Kernel.HoldIO(p.SubsystemNQN, p.NSID)
	}
	must(t, a.Retire(t.Context(), declared))
	a.Kill()
	f.env.PowerCycle()
	a = f.env.StartServing(t)
	for _, p := range f.published {
		if isShown(f.env, p) {
			t.Errorf("%+v is exported after the boot", p)
		}
	}
	eventually(t, "no publication is left", func() bool { return nothingIsExported(f, a, t) })
}

func TestRetireBadInput(t *testing.T) {
	_, a := newFixture(t)
	agenttest.WantErr(t, a.Service.Retire(t.Context(), time.Time{}), volume.ErrInvalid)
	if info, err := a.Info(t.Context()); err != nil || !info.Retired.IsZero() {
		t.Errorf("info: %v, %v", info.Retired, err)
	}
}
