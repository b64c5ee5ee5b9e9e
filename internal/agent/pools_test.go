package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/agent/agenttest"
	"github.com/holdfast-csi/holdfast/internal/pool"
	"github.com/holdfast-csi/holdfast/internal/store"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// hung is a pool whose disk stops answering.
type hung struct {
	pool.Pool
	until chan struct{}
}

func (h hung) Capacity(ctx context.Context) (pool.Capacity, error) {
	<-h.until
	return h.Pool.Capacity(ctx)
}

func (h hung) Blank(ctx context.Context, id uuid.UUID) (bool, error) {
	<-h.until
	return h.Pool.Blank(ctx, id)
}

func TestHungPool(t *testing.T) {
	e := agenttest.New(t, "sick", "well")
	until := make(chan struct{})
	defer close(until)
	e.Wrap = func(name string, p pool.Pool) pool.Pool {
		if name == "sick" {
			return hung{p, until}
		}
		return p
	}
	a := e.Start(t, nil)
	a.WaitServing("well")
	began := time.Now()
	v, err := a.Create(t.Context(), volume.CreateRequest{Name: "v", RequiredBytes: 1 << 20, Pool: "well"})
	must(t, err)
	publishTo(t, a, v, 1)
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %s", took)
	}
	eventually(t, "the problem is told", func() bool { return strings.Contains(poolOf(t, a, "sick").Problem, "disk") })
}

// Promises are kept apart, however many are made at once.
func TestPromises(t *testing.T) {
	e := agenttest.New(t, "fast")
	a := e.StartServing(t)
	size := poolOf(t, a, "fast").AvailableBytes / 4
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := 0
	for i := range 12 {
		wg.Go(func() {
			_, err := a.Create(context.Background(), volume.CreateRequest{Name: fmt.Sprint(i), RequiredBytes: size})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				made++
			case !errors.Is(err, volume.ErrNoSpace):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made != 3 && made != 4 { // others use the file system as well
		t.Errorf("%d promises of a quarter each", made)
	}
	if left := poolOf(t, a, "fast").AvailableBytes; left > size {
		t.Errorf("%d left", left)
	}
}

// A session holds 1,024 namespaces; the next one begins another session.
func TestManyPublications(t *testing.T) {
	e := agenttest.New(t, "fast")
	a := e.StartServing(t)
	v := mustCreate(t, a, "v0")
	p := publishTo(t, a, v, 1)
	a.Kill()
	db := e.OpenDB(t)
	must(t, db.Update(func(tx *store.Tx) error {
		for i := range 1023 {
			id := uuid.New()
			must(t, tx.PutVolume(store.Volume{UUID: id, Name: id.String(), Pool: "fast", State: store.VolumeReady}))
			must(t, tx.PutPublication(store.Publication{Volume: id, Node: p.Node, Generation: 1, SubsystemNQN: p.SubsystemNQN, NSID: uint32(i + 10), State: store.PublicationPublished}))
		}
		return nil
	}))
	must(t, db.Close())
	b := e.StartServing(t)
	if q := publishTo(t, b, mustCreate(t, b, "v1"), 1); q.SubsystemNQN == p.SubsystemNQN || q.NSID != 1 {
		t.Errorf("first %+v, next %+v", p, q)
	}
	if w := poolOf(t, b, "fast").Warnings; len(w) > 20 {
		t.Errorf("%d warnings", len(w))
	}
}

// Two pools on one file system promise its space once.
func TestSharedFileSystem(t *testing.T) {
	e := agenttest.New(t, "one", "two")
	a := e.StartServing(t)
	before := poolOf(t, a, "two").AvailableBytes
	size := before / 2
	_, err := a.Create(t.Context(), volume.CreateRequest{Name: "v", Pool: "one", RequiredBytes: size})
	must(t, err)
	if left := poolOf(t, a, "two").AvailableBytes; left > before-size+64<<20 {
		t.Errorf("%d of %d left after a promise of %d in the other pool", left, before, size)
	}
	_, err = a.Create(t.Context(), volume.CreateRequest{Name: "w", Pool: "two", RequiredBytes: before - size/2})
	agenttest.WantErr(t, err, volume.ErrNoSpace)
}

// A pool that is not mounted yet does not hold up the others, and is never
// taken for an empty one.
func TestLatePool(t *testing.T) {
	e := agenttest.New(t, "early", "late")
	e.RetryAfter = 20 * time.Millisecond
	a := e.StartServing(t)
	early, err := a.Create(t.Context(), volume.CreateRequest{Name: "e", RequiredBytes: 1 << 20, Pool: "early"})
	must(t, err)
	late, err := a.Create(t.Context(), volume.CreateRequest{Name: "l", RequiredBytes: 1 << 20, Pool: "late"})
	must(t, err)
	p, q := publishTo(t, a, early, 1), publishTo(t, a, late, 1)
	if p.SubsystemNQN == q.SubsystemNQN || p.Portals[0] == q.Portals[0] {
		t.Errorf("two pools share a session: %+v %+v", p, q)
	}
	a.Kill()
	e.PowerCycle()
	dir := e.Pools[1].Dir
	must(t, os.Rename(dir, dir+".disk"))
	must(t, os.Mkdir(dir, 0o700)) // the empty mount point
	b := e.Start(t, nil)
	b.WaitServing("early")
	if !isShown(e, p) || isShown(e, q) {
		t.Errorf("early %v, late %v", isShown(e, p), isShown(e, q))
	}
	time.Sleep(50 * time.Millisecond)
	if problem := poolOf(t, b, "late").Problem; !strings.Contains(problem, ".holdfast-pool") || !strings.Contains(problem, "mounted") {
		t.Errorf("problem: %s", problem)
	}
	for what, err := range map[string]error{
		"publish": second(b.Publish(t.Context(), agenttest.Request(late.UUID, 1))),
		"create":  second(b.Create(t.Context(), volume.CreateRequest{Name: "x", RequiredBytes: 1 << 20, Pool: "late"})),
		"status":  second(b.Status(t.Context(), agenttest.Ref(q))),
		"delete":  b.Delete(t.Context(), uuid.New()),
	} {
		if !errors.Is(err, volume.ErrUnavailable) && what != "delete" || err == nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	// A fence needs no disk.
	must(t, b.Unpublish(t.Context(), late.UUID, ""))
	must(t, os.Remove(dir))
	must(t, os.Rename(dir+".disk", dir))
	b.WaitServing()
	if r := publishTo(t, b, late, 1); r.Generation != q.Generation+1 || !isShown(e, r) {
		t.Errorf("published %+v after %+v", r, q)
	}
}

func second[T any](_ T, err error) error { return err }

// An agent that cannot open a pool whose exports are complete leaves them be;
// incomplete ones it hides behind the gate.
func TestPoolGoneAtRestart(t *testing.T) {
	f, a := newFixture(t)
	f.env.RetryAfter = 20 * time.Millisecond
	a.Kill()
	marker := filepath.Join(f.env.Pools[0].Dir, ".holdfast-pool")
	must(t, os.Rename(marker, marker+".away"))
	b := f.env.Start(t, nil)
	eventually(t, "the problem is told", func() bool {
		return strings.Contains(poolOf(t, b, "fast").Problem, "marker") || strings.Contains(poolOf(t, b, "fast").Problem, ".holdfast-pool")
	})
	if f.env.Gate.IsClosed(4420) || !isShown(f.env, f.published[0]) {
		t.Error("complete exports were disturbed")
	}
	b.Kill()
	must(t, f.env.Kernel.WriteFile("subsystems/"+f.published[0].SubsystemNQN+"/namespaces/1/enable", "0"))
	c := f.env.Start(t, nil)
	eventually(t, "the gate closes", func() bool { return f.env.Gate.IsClosed(4420) })
	must(t, os.Rename(marker+".away", marker))
	c.WaitServing()
	if f.env.Gate.IsClosed(4420) || !isShown(f.env, f.published[0]) {
		t.Error("not restored")
	}
}
