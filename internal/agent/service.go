package agent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/internal/gate"
	"github.com/holdfast-csi/holdfast/internal/keylock"
	"github.com/holdfast-csi/holdfast/internal/nvmet"
	"github.com/holdfast-csi/holdfast/internal/pool"
	"github.com/holdfast-csi/holdfast/internal/store"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// PoolOptions is one pool and where it is exported.
type PoolOptions struct {
	Name string
	// Portal is the address of the pool's own nvmet port: a pool that hangs or
	// comes up late is a failure domain of its own.
	Portal netip.AddrPort
	// Open opens the pool; it is tried again until it succeeds, because a file
	// system may be mounted late.
	Open func() (pool.Pool, error)
}

// Options are what a Service is made of. All are required.
type Options struct {
	Host    string // name of the storage host
	Version string
	DB      *store.DB
	Tree    nvmet.Tree
	Gate    gate.Gate
	Pools   []PoolOptions
	Log     *slog.Logger
	// KickAfter is how long withdrawing a namespace may take before the whole
	// session is disconnected to hurry it; 0 means 10 s.
	KickAfter time.Duration
	// RetryAfter is how often what could not be restored is tried again; 0
	// means 2 s for pools and 10 s for single volumes.
	RetryAfter time.Duration
}

const defaultKickAfter = 10 * time.Second

// Service is the agent. It satisfies volume.Backend, volume.Lister,
// volume.FormatAuthority and volume.Retiree.
type Service struct {
	host, version string
	db            *store.DB
	tree          nvmet.Tree
	gate          gate.Gate
	log           *slog.Logger
	pools         map[string]*exportedPool
	kickAfter     time.Duration
	withdrawer    nvmet.Withdrawer
	objects       keylock.Set // "volume UUID" and "name NAME"
	sessions      waitLocks   // by node, pool and profile; and one for the restore of each pool

	retryRestore, retryMissing time.Duration
}

var (
	_ volume.Backend         = (*Service)(nil)
	_ volume.Lister          = (*Service)(nil)
	_ volume.FormatAuthority = (*Service)(nil)
	_ volume.Retiree         = (*Service)(nil)
)

// New returns a Service that serves nothing yet: Run restores the exports.
func New(o Options) *Service {
	s := &Service{
		host: o.Host, version: o.Version, db: o.DB, tree: o.Tree, gate: o.Gate, log: o.Log,
		pools: map[string]*exportedPool{}, kickAfter: o.KickAfter,
	}
	if s.kickAfter == 0 {
		s.kickAfter = defaultKickAfter
	}
	if o.RetryAfter == 0 {
		s.retryRestore, s.retryMissing = retryRestore, retryMissing
	}
	s.withdrawer.Kick = s.kick
	for _, p := range o.Pools {
		s.pools[p.Name] = newExportedPool(p)
	}
	return s
}

// poolNames are sorted, so that whatever goes over all pools does it in one order.
func (s *Service) poolNames() []string { return slices.Sorted(maps.Keys(s.pools)) }

// serving returns a pool that is restored, or volume.ErrUnavailable with the
// reason. A volume whose pool is not configured any more is not gone.
func (s *Service) serving(name string) (*exportedPool, pool.Pool, error) {
	p, ok := s.pools[name]
	if !ok {
		return nil, nil, fmt.Errorf("pool %q: the configuration of storage host %s has %v: %w", name, s.host, s.poolNames(), volume.ErrUnavailable)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.restored {
		why := p.problem
		if why == nil {
			why = fmt.Errorf("its exports are being restored")
		}
		return nil, nil, fmt.Errorf("pool %s of storage host %s does not serve yet: %w: %v", name, s.host, volume.ErrUnavailable, why)
	}
	return p, p.pool, nil
}

// Info describes the host and its pools. A pool whose disk hangs is told as
// such after a few seconds, and all pools are asked at once.
func (s *Service) Info(ctx context.Context) (volume.HostInfo, error) {
	names := s.poolNames()
	info := volume.HostInfo{Installation: s.db.Installation().ID, Version: s.version, Pools: make([]volume.Pool, len(names))}
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { info.Pools[i] = s.poolInfo(ctx, s.pools[name]) })
	}
	wg.Wait()
	var err error
	info.Retired, err = s.retiredSince()
	return info, err
}

func (s *Service) poolInfo(ctx context.Context, p *exportedPool) volume.Pool {
	out := volume.Pool{Name: p.name, Portals: []string{p.portal.String()}, Warnings: p.warnings()}
	_, _, err := s.serving(p.name)
	if err == nil {
		var c pool.Capacity
		if c, err = p.capacity(ctx); err == nil {
			var available int64
			available, err = s.available(p.name, c)
			out.TotalBytes, out.AvailableBytes, out.BlockSize = c.TotalBytes-c.ReserveBytes, max(available, 0), c.BlockSize
			out.Warnings = append(out.Warnings, c.Warnings...)
		}
	}
	if err != nil {
		out.Problem = err.Error()
	}
	return out
}

// available is what a pool can still promise.
func (s *Service) available(name string, c pool.Capacity) (available int64, err error) {
	err = s.db.View(func(tx *store.Tx) error {
		available, err = s.availableIn(tx, name, c)
		return err
	})
	return available, err
}

// availableIn counts every volume at its full size: until thin provisioning is
// managed, a promise is kept by space that nobody else was promised. Pools that
// share a file system share its space; what the other's volumes take already is
// in ForeignBytes.
func (s *Service) availableIn(tx *store.Tx, name string, c pool.Capacity) (int64, error) {
	left := c.TotalBytes - c.ReserveBytes - c.ForeignBytes
	promised, err := tx.Promised()
	left -= promised[name]
	for other, p := range s.pools {
		if last := p.lastCapacity(); other != name && last.FileSystem == c.FileSystem && last.TotalBytes > 0 {
			left -= max(0, promised[other]-last.AllocatedBytes)
		}
	}
	return left, err
}
