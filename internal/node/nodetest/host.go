package nodetest

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

// Namespace is one disk of a target.
type Namespace struct {
	NSID        uint32
	UUID, NGUID uuid.UUID
	SizeBytes   int64
	BlockSize   int
	Medium      Medium
}

// Target is what a machine's sessions lead to.
type Target interface {
	// Visible returns what a host sees in a subsystem; ok is false if it cannot
	// connect to it.
	Visible(nqn, hostNQN string) (list []Namespace, ok bool)
}

// The node that Host publishes to, and where it is to connect.
const (
	HostName  = "box1"
	NodeID    = "node1-00000001"
	ClusterID = "cluster"
	blockSize = 4096
)

var portal = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 2}), 4420)

// Host is a storage host in memory: volumes, publications to one node, and the
// word on formats. As with the real one all publications share a session while
// there are any, and a session that has ended never comes back.
type Host struct {
	mu         sync.Mutex
	silent     bool
	guard      node.Guard
	volumes    map[uuid.UUID]*hosted
	subsystems map[string]map[uint32]Namespace
	session    string // NQN of the session that publications join; "" = none
	sessions   int    // made so far
	nextNSID   uint32
	said       []string // where the agent says that it is reached
}

type hosted struct {
	size       int64
	medium     *Memory
	generation uint64 // the last one
	nsid       uint32 // 0 = not published
	nqn        string
	formatting bool
}

var (
	_ Target                 = (*Host)(nil)
	_ volume.FormatAuthority = (*Host)(nil)
)

// NewHost returns a host without volumes.
func NewHost() *Host {
	return &Host{volumes: map[uuid.UUID]*hosted{}, subsystems: map[string]map[uint32]Namespace{}, guard: node.GuardKernel}
}

// SetGuard is what the class of all volumes asks for from now on.
func (h *Host) SetGuard(g node.Guard) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.guard = g
}

// Create makes a blank volume.
func (h *Host) Create(size int64) uuid.UUID {
	h.mu.Lock()
	defer h.mu.Unlock()
	id := uuid.New()
	h.volumes[id] = &hosted{size: size, medium: &Memory{}}
	return id
}

// Medium is what is behind a volume.
func (h *Host) Medium(id uuid.UUID) *Memory {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.volumes[id].medium
}

// Formatting says whether a format is on record.
func (h *Host) Formatting(id uuid.UUID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.volumes[id].formatting
}

// SetFormatting puts a format on record, or takes it off.
func (h *Host) SetFormatting(id uuid.UUID, on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.volumes[id].formatting = on
}

// Say makes the agent name these portals; none is what an older one says.
func (h *Host) Say(portals ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.said = portals
}

// SetSilent makes the host's agent not answer. Its target does.
func (h *Host) SetSilent(silent bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.silent = silent
}

// Publish gives NodeID a volume, or returns the publication that it has.
func (h *Host) Publish(id uuid.UUID) node.Attachment {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.volumes[id]
	if v.nsid == 0 {
		if h.session == "" {
			h.sessions++
			h.session, h.nextNSID = fmt.Sprintf("%s:%s:fast:%d", volume.NQNPrefix, HostName, h.sessions), 0
			h.subsystems[h.session] = map[uint32]Namespace{}
		}
		h.nextNSID++
		v.generation++
		v.nsid, v.nqn = h.nextNSID, h.session
		h.subsystems[v.nqn][v.nsid] = Namespace{
			NSID: v.nsid, UUID: id, NGUID: volume.NGUID(id, v.generation), SizeBytes: v.size, BlockSize: blockSize, Medium: v.medium,
		}
	}
	ns := h.subsystems[v.nqn][v.nsid]
	return node.Attachment{
		Guard:    h.guard,
		Session:  session(v.nqn),
		Identity: initiator.Identity{NQN: v.nqn, NSID: v.nsid, UUID: id, NGUID: ns.NGUID, SizeBytes: v.size, BlockSize: blockSize},
		Managed:  &node.Managed{Host: HostName, Ref: volume.PublicationRef{Volume: id, Node: NodeID, Generation: v.generation, Token: "token"}},
	}
}

func session(nqn string) initiator.Session {
	hostNQN, hostID := volume.HostIdentity(ClusterID, NodeID)
	return initiator.Session{NQN: nqn, HostNQN: hostNQN, HostID: hostID, Portals: []netip.AddrPort{portal}, Config: nvme.DefaultConnectionConfig()}
}

// Unpublish ends the publication of a volume, and the session with the last.
func (h *Host) Unpublish(id uuid.UUID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.volumes[id]
	if v.nsid == 0 {
		return
	}
	delete(h.subsystems[v.nqn], v.nsid)
	if len(h.subsystems[v.nqn]) == 0 {
		delete(h.subsystems, v.nqn)
		h.session = ""
	}
	v.nsid, v.nqn = 0, ""
}

// Static makes a volume of a target that others run, in a subsystem of its own.
func (h *Host) Static(size int64) (node.Attachment, *Memory) {
	h.mu.Lock()
	defer h.mu.Unlock()
	id, m := uuid.New(), &Memory{}
	nqn := "nqn.2020-01.org.example:" + id.String()
	h.subsystems[nqn] = map[uint32]Namespace{1: {NSID: 1, UUID: id, SizeBytes: size, BlockSize: blockSize, Medium: m}}
	return node.Attachment{Session: session(nqn), Identity: initiator.Identity{NQN: nqn, NSID: 1}, Guard: h.guard}, m
}

// Exchange gives the only volume of a subsystem another UUID, as if there were
// another disk in its place, and returns the one that it had.
func (h *Host) Exchange(nqn string, id uuid.UUID) (before uuid.UUID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for nsid, ns := range h.subsystems[nqn] {
		before, ns.UUID = ns.UUID, id
		h.subsystems[nqn][nsid] = ns
	}
	return before
}

// Visible implements Target.
func (h *Host) Visible(nqn, _ string) ([]Namespace, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	list, ok := h.subsystems[nqn]
	return slices.Collect(maps.Values(list)), ok
}

// Authorities knows this host by its name.
func (h *Host) Authorities(name string) (volume.FormatAuthority, error) {
	if name != HostName {
		return nil, fmt.Errorf("storage host %q: %w", name, volume.ErrUnavailable)
	}
	return h, nil
}

// find must be called with mu held. live is false if the publication has ended.
func (h *Host) find(ref volume.PublicationRef) (v *hosted, live bool, err error) {
	if h.silent {
		return nil, false, fmt.Errorf("the agent does not answer: %w", volume.ErrUnavailable)
	}
	v, ok := h.volumes[ref.Volume]
	if !ok {
		return nil, false, fmt.Errorf("volume %s: %w", ref.Volume, volume.ErrNotFound)
	}
	return v, v.nsid != 0 && v.generation == ref.Generation, nil
}

// Status implements volume.FormatAuthority.
func (h *Host) Status(_ context.Context, ref volume.PublicationRef) (volume.PublicationStatus, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, live, err := h.find(ref)
	if err != nil || !live {
		return volume.PublicationStatus{Ended: err == nil}, err
	}
	return volume.PublicationStatus{Formatting: v.formatting, Blank: !v.medium.Written(), Portals: h.said}, nil
}

// BeginFormat implements volume.FormatAuthority.
func (h *Host) BeginFormat(_ context.Context, ref volume.PublicationRef) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, live, err := h.find(ref)
	switch {
	case err != nil:
		return err
	case !live:
		return fmt.Errorf("generation %d: %w", ref.Generation, volume.ErrEnded)
	case !v.formatting && v.medium.Written():
		return fmt.Errorf("volume %s: %w", ref.Volume, volume.ErrNotBlank)
	}
	v.formatting = true
	return nil
}

// EndFormat implements volume.FormatAuthority.
func (h *Host) EndFormat(_ context.Context, ref volume.PublicationRef) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, live, err := h.find(ref)
	if err == nil && !live {
		err = fmt.Errorf("generation %d: %w", ref.Generation, volume.ErrEnded)
	}
	if err == nil {
		v.formatting = false
	}
	return err
}
