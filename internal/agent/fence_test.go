package agent_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/agent/agenttest"
	"github.com/holdfast-csi/holdfast/internal/nvmet"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// A write whose data never comes keeps a namespace from being withdrawn. Until
// it is gone the answer is "not finished", the volume belongs to nobody else,
// and the rest of the session works on.
func TestSlowFence(t *testing.T) {
	f, a := newFixture(t)
	p := f.published[0]
	f.env.Kernel.HoldIO(p.SubsystemNQN, p.NSID)
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		agenttest.WantErr(t, a.Service.Unpublish(ctx, p.Volume, p.Node), volume.ErrPending)
		cancel()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := a.Service.Publish(ctx, agenttest.Request(p.Volume, 2))
	agenttest.WantErr(t, err, volume.ErrPending)
	agenttest.WantErr(t, a.Delete(t.Context(), p.Volume), volume.ErrInUse)
	if st, err := a.Status(t.Context(), agenttest.Ref(p)); err != nil || !st.Ended {
		t.Errorf("status %+v %v", st, err)
	}
	began := time.Now()
	if q := publishTo(t, a, f.free, 1); !isShown(f.env, q) || time.Since(began) > time.Second {
		t.Errorf("the node cannot get another volume: %+v after %s", q, time.Since(began))
	}
	f.env.Kernel.ReleaseIO(p.SubsystemNQN, p.NSID)
	must(t, a.Unpublish(t.Context(), p.Volume, p.Node))
	if q := publishTo(t, a, volume.Volume{UUID: p.Volume}, 2); q.Generation != p.Generation+1 {
		t.Errorf("%+v after %+v", q, p)
	}
}

// A fence that takes a moment is waited for: the next volume goes to the same
// session.
func TestPublishBesideFence(t *testing.T) {
	f, a := newFixture(t)
	p := f.published[0]
	f.env.Kernel.HoldIO(p.SubsystemNQN, p.NSID)
	fenced := make(chan error, 1)
	go func() { fenced <- a.Service.Unpublish(t.Context(), p.Volume, p.Node) }()
	eventually(t, "the fence has begun", func() bool {
		st, err := a.Status(t.Context(), agenttest.Ref(p))
		return err == nil && st.Ended
	})
	time.AfterFunc(20*time.Millisecond, func() { f.env.Kernel.ReleaseIO(p.SubsystemNQN, p.NSID) })
	if q := publishTo(t, a, f.free, 1); !isShown(f.env, q) || q.SubsystemNQN != p.SubsystemNQN {
		t.Errorf("%+v beside %+v", q, p)
	}
	must(t, <-fenced)
}

// A fence that takes too long disconnects the session, once.
func TestKick(t *testing.T) {
	f, a := newFixture(t)
	a.Kill()
	f.env.KickAfter = 30 * time.Millisecond
	a = f.env.StartServing(t)
	p := f.published[0]
	f.env.Kernel.HoldIO(p.SubsystemNQN, p.NSID)
	must(t, a.Unpublish(t.Context(), p.Volume, p.Node))
	// The fence has ended with the unlink; what else the session has comes back after it.
	eventually(t, "the other volume of the session is back, and the gate open", func() bool {
		return isShown(f.env, f.published[1]) && !f.env.Gate.IsClosed(4420)
	})
	kicks := 0
	for _, e := range f.env.Kernel.Events() {
		if e.Op == nvmet.OpUnlink && e.Path == "ports/4420/subsystems/"+p.SubsystemNQN {
			kicks++
		}
	}
	if kicks != 1 {
		t.Errorf("disconnected %d times", kicks)
	}
}

// A fence that was begun is finished after a crash without being asked again.
func TestFenceAfterCrash(t *testing.T) {
	f, a := newFixture(t)
	p := f.published[0]
	a.Faults.KillAt(1, false)
	_ = a.Unpublish(t.Context(), p.Volume, p.Node)
	a.Kill()
	if !isShown(f.env, p) {
		t.Fatal("the fault came too late")
	}
	b := f.env.StartServing(t)
	eventually(t, "the fence is finished", func() bool {
		pubs, err := b.Publications(t.Context())
		return err == nil && len(pubs) == 1 && !isShown(f.env, p)
	})
}

// A fence that runs while another volume of the session is being published
// stays: the publish must not bring the namespace back. The fence strikes at
// each of the publish's looks at the kernel in turn.
func TestFenceDuringPublish(t *testing.T) {
	for at := 1; ; at++ {
		f, a := newFixture(t)
		victim := f.published[0]
		reads, fenced := 0, make(chan error, 1)
		a.Faults.SetOnRead(func() {
			if reads++; reads != at {
				return
			}
			a.Faults.SetOnRead(nil)
			go func() { fenced <- a.Service.Unpublish(t.Context(), victim.Volume, victim.Node) }()
			// The fence itself needs nothing that the publish holds.
			eventually(t, "the namespace is withdrawn", func() bool { return !isShown(f.env, victim) })
		})
		publishTo(t, a, f.free, 1)
		if reads < at {
			return
		}
		must(t, <-fenced)
		if isShown(f.env, victim) {
			t.Fatalf("look %d: the namespace is back after its fence", at)
		}
		a.Kill()
	}
}

// TestManyCallers lets several nodes fight for a few volumes. At no moment may
// two nodes see one volume, no place may be used twice, and what is published
// is shown.
func TestManyCallers(t *testing.T) {
	e := agenttest.New(t, "fast")
	w := &watcher{env: e, last: map[uuid.UUID]uint64{}, places: map[string]uuid.UUID{}}
	faults := &agenttest.Faults{OnChange: func() { w.look(t) }}
	a := e.Start(t, faults)
	a.WaitServing()
	var ids []uuid.UUID
	for i := range 4 {
		ids = append(ids, mustCreate(t, a, fmt.Sprint(i)).UUID)
	}
	var wg sync.WaitGroup
	for node := 1; node <= 5; node++ {
		r := rand.New(rand.NewPCG(1, uint64(node)))
		wg.Go(func() {
			for range 60 {
				id := ids[r.IntN(len(ids))]
				p, err := a.Publish(t.Context(), agenttest.Request(id, node))
				if err != nil {
					w.allow(t, "publish", err)
					continue
				}
				w.published(t, p)
				for {
					err := a.Unpublish(t.Context(), id, p.Node)
					if err == nil {
						break
					}
					w.allow(t, "unpublish", err)
				}
			}
		})
	}
	wg.Wait()
	for _, dir := range []string{"subsystems", "hosts"} {
		if left, err := e.Kernel.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v %v", dir, left, err)
		}
	}
}

type watcher struct {
	env    *agenttest.Env
	mu     sync.Mutex
	last   map[uuid.UUID]uint64
	places map[string]uuid.UUID
}

func (w *watcher) allow(t *testing.T, what string, err error) {
	if !errors.Is(err, volume.ErrBusy) && !errors.Is(err, volume.ErrPublishedElsewhere) && !errors.Is(err, volume.ErrPending) {
		t.Errorf("%s: %v", what, err)
	}
}

func (w *watcher) published(t *testing.T, p volume.Publication) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := fmt.Sprintf("%s/%d", p.SubsystemNQN, p.NSID)
	if _, used := w.places[at]; used || p.Generation <= w.last[p.Volume] {
		t.Errorf("%+v: used before %v, last generation %d", p, used, w.last[p.Volume])
	}
	w.places[at], w.last[p.Volume] = p.Volume, p.Generation
	if !isShown(w.env, p) {
		t.Errorf("published and not shown: %+v", p)
	}
}

func (w *watcher) look(t *testing.T) {
	nqns, err := w.env.Kernel.ReadDir("subsystems")
	if err != nil {
		t.Error(err)
	}
	seen := map[uuid.UUID]string{}
	for _, nqn := range nqns {
		for _, ns := range w.env.Kernel.Enabled(nqn) {
			if other, twice := seen[ns.UUID]; twice {
				t.Errorf("volume %s is shown by %s and %s", ns.UUID, other, nqn)
			}
			seen[ns.UUID] = nqn
		}
	}
}
