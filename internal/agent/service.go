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

	"github.com/google/uuid"

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
}

const defaultKickAfter = 10 * time.Second

// Service is the agent. It satisfies volume.Backend, volume.Lister and
// volume.FormatAuthority.
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
	sessions      waitLocks   // by node, pool and profile
	promises      sync.Mutex  // serialises "is there room" with "it is promised"
}

var (
	_ volume.Backend         = (*Service)(nil)
	_ volume.Lister          = (*Service)(nil)
	_ volume.FormatAuthority = (*Service)(nil)
)

// exportedPool is a pool with its state of service.
type exportedPool struct {
	name   string
	portal netip.AddrPort
	open   func() (pool.Pool, error)

	mu       sync.Mutex
	pool     pool.Pool // nil until it could be opened; guarded by mu
	restored bool      // every publication of it is exported; guarded by mu
	problem  error     // why not; guarded by mu
}

// New returns a Service that serves nothing yet: Run restores the exports.
func New(o Options) *Service {
	s := &Service{
		host: o.Host, version: o.Version, db: o.DB, tree: o.Tree, gate: o.Gate, log: o.Log,
		pools: map[string]*exportedPool{}, kickAfter: o.KickAfter,
	}
	if s.kickAfter == 0 {
		s.kickAfter = defaultKickAfter
	}
	for _, p := range o.Pools {
		s.pools[p.Name] = &exportedPool{name: p.Name, portal: p.Portal, open: p.Open}
	}
	return s
}

// poolNames are sorted, so that whatever goes over all pools does it in one order.
func (s *Service) poolNames() []string { return slices.Sorted(maps.Keys(s.pools)) }

// serving returns a pool that is restored, or volume.ErrUnavailable with the
// reason.
func (s *Service) serving(name string) (*exportedPool, pool.Pool, error) {
	p, ok := s.pools[name]
	if !ok {
		return nil, nil, fmt.Errorf("pool %q: storage host %s has %v: %w", name, s.host, s.poolNames(), volume.ErrInvalid)
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

// Info describes the host and its pools.
func (s *Service) Info(ctx context.Context) (volume.HostInfo, error) {
	info := volume.HostInfo{Installation: s.db.Installation().ID, Version: s.version}
	for _, name := range s.poolNames() {
		info.Pools = append(info.Pools, s.poolInfo(ctx, s.pools[name]))
	}
	return info, nil
}

func (s *Service) poolInfo(ctx context.Context, p *exportedPool) volume.Pool {
	out := volume.Pool{Name: p.name, Portals: []string{p.portal.String()}}
	_, backing, err := s.serving(p.name)
	if err == nil {
		var room room
		if room, err = s.room(ctx, p.name, backing); err == nil {
			out.TotalBytes, out.AvailableBytes, out.BlockSize, out.Warnings = room.total, max(room.available, 0), room.blockSize, room.warnings
		}
	}
	if err != nil {
		out.Problem = err.Error()
	}
	return out
}

// room is what a pool can still promise.
type room struct {
	total, available int64
	blockSize        int
	warnings         []string
}

// room counts every volume at its full size: until thin provisioning is
// managed, a promise is kept by space that nobody else was promised.
func (s *Service) room(ctx context.Context, name string, backing pool.Pool) (room, error) {
	c, err := backing.Capacity(ctx)
	if err != nil {
		return room{}, err
	}
	var promised int64
	err = s.db.View(func(tx *store.Tx) error {
		vs, err := tx.Volumes(uuid.Nil, 0)
		for _, v := range vs {
			if v.Pool == name {
				promised += v.SizeBytes
			}
		}
		return err
	})
	usable := c.TotalBytes - c.ReserveBytes
	return room{usable, usable - c.ForeignBytes - promised, c.BlockSize, c.Warnings}, err
}
