package agent

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/internal/pool"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// capacityTime is how long a file system may take to say how full it is.
const capacityTime = 3 * time.Second

// capacityAge is how long an answer is good: a file system is asked what each of its
// volumes takes, and a host that makes many at once is asked all the time. What is
// promised is counted to the byte beside it.
const capacityAge = time.Second

// maxWarnings is how many volumes that are not exported are named.
const maxWarnings = 10

// place is where a publication is shown.
type place struct {
	nqn  string
	nsid uint32
}

// exportedPool is a pool with its state of service.
type exportedPool struct {
	name   string
	portal netip.AddrPort
	open   func() (pool.Pool, error)
	wake   chan struct{} // has room for one: "look at the pool again now"

	mu       sync.Mutex
	lastAt   time.Time       // of last; guarded by mu
	pool     pool.Pool       // nil until it could be opened; guarded by mu
	restored bool            // every publication of it is exported; guarded by mu
	problem  error           // why not; guarded by mu
	missing  map[place]error // guarded by mu
	question *question       // the one that is not answered yet; guarded by mu
	last     pool.Capacity   // the last answer; guarded by mu

	// Guarded by the lock of the pool's restore:
	kicked map[string]time.Time // when, by NQN
	gated  []uint16             // ports that the last restore closed beside the pool's own
}

// question is one look at how full a pool is. A file system that hangs answers
// late or never, so there is at most one.
type question struct {
	done   chan struct{}
	answer pool.Capacity // valid once done is closed, as is err
	err    error
}

func newExportedPool(o PoolOptions) *exportedPool {
	return &exportedPool{name: o.Name, portal: o.Portal, open: o.Open, wake: make(chan struct{}, 1), kicked: map[string]time.Time{}}
}

// openPool opens the pool if it is not open yet. The lock is not held
// meanwhile: the file system may hang. Only the pool's restore calls it.
func (s *Service) openPool(ctx context.Context, p *exportedPool) (pool.Pool, error) {
	if backing := p.backing(); backing != nil {
		return backing, nil
	}
	backing, err := p.open()
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.pool = backing
	p.mu.Unlock()
	// Others must know from now on whether this pool shares their space.
	_, err = p.capacity(ctx)
	return backing, err
}

func (p *exportedPool) backing() pool.Pool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pool
}

func (p *exportedPool) isRestored() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.restored
}

func (p *exportedPool) succeed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.restored, p.problem = true, nil
}

func (p *exportedPool) fail(problem error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.restored, p.problem = false, problem
}

// distrust has the pool restored again, at once.
func (p *exportedPool) distrust(why error) {
	p.fail(why)
	p.look()
}

// look has somebody look at the pool now.
func (p *exportedPool) look() {
	select {
	case p.wake <- struct{}{}:
	default: // somebody has asked already
	}
}

func (p *exportedPool) setMissing(missing map[place]error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.missing = missing
}

func (p *exportedPool) missingPlaces() map[place]error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.missing)
}

func (p *exportedPool) found(at place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.missing, at)
}

// warnings tell what keeps single volumes from being exported.
func (p *exportedPool) warnings() (list []string) {
	for at, err := range p.missingPlaces() {
		list = append(list, fmt.Sprintf("namespace %d of %s is not exported: %v", at.nsid, at.nqn, err))
	}
	slices.Sort(list)
	if more := len(list) - maxWarnings; more > 0 {
		list = append(list[:maxWarnings:maxWarnings], fmt.Sprintf("%d more namespaces are not exported", more))
	}
	return list
}

// capacity asks the file system, and gives up waiting in time: one pool that
// hangs must not keep the host from answering for the others.
func (p *exportedPool) capacity(ctx context.Context) (pool.Capacity, error) {
	p.mu.Lock()
	if time.Since(p.lastAt) < capacityAge {
		defer p.mu.Unlock()
		return p.last, nil
	}
	q := p.question
	if q == nil {
		q = &question{done: make(chan struct{})}
		p.question = q
		go p.ask(q, p.pool) //nolint:contextcheck // its answer is shared by callers that come and go
	}
	p.mu.Unlock()
	timer := time.NewTimer(capacityTime)
	defer timer.Stop()
	select {
	case <-q.done:
		return q.answer, q.err
	case <-ctx.Done():
		return pool.Capacity{}, fmt.Errorf("pool %s: %w: %w", p.name, volume.ErrUnavailable, ctx.Err())
	case <-timer.C:
		return pool.Capacity{}, fmt.Errorf("pool %s: its file system has not answered for %s; is its disk well? %w", p.name, capacityTime, volume.ErrUnavailable)
	}
}

func (p *exportedPool) lastCapacity() pool.Capacity {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

func (p *exportedPool) ask(q *question, backing pool.Pool) {
	q.answer, q.err = backing.Capacity(context.Background()) // it cannot be interrupted anyway
	p.mu.Lock()
	p.question = nil
	if q.err == nil {
		p.last, p.lastAt = q.answer, time.Now()
	}
	p.mu.Unlock()
	close(q.done)
}
