package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// What is in this file is for targets that move to another address. Each record
// has the portals that its volume wants; a session's are those of all its volumes.
// For a static volume the last call's word counts. For one of our storage hosts it
// is the agent's: the publish context is kept by Kubernetes and goes stale.

// withPortals returns req with the portals that count for a volume that is staged.
func withPortals(have Record, req StageRequest) StageRequest {
	if have.Stage.Attachment.Managed != nil && have.Stage.Attachment.Generation() == req.Attachment.Generation() {
		req.Attachment.Session.Portals = have.Stage.Attachment.Session.Portals
	}
	return req
}

// move puts other portals on record. The path over the old ones is left to those
// who watch: it goes when the volume is proven over a new one.
func (n *Node) move(rec *Record, to []netip.AddrPort) error {
	from := rec.Stage.Attachment.Session.Portals
	if initiator.SamePortals(from, to) {
		return nil
	}
	moved := *rec
	moved.Stage.Attachment.Session.Portals = to
	if err := n.records.Put(rec.Stage.VolumeID, moved); err != nil {
		return err
	}
	n.Log.Info("a volume has another address", "volume", rec.Stage.VolumeID, "nqn", rec.nqn(), "from", from, "to", to)
	*rec = moved
	return nil
}

// learn takes the agent's word on where a session is reached now, for all its
// volumes. One that another call is at is left for the next time.
func (n *Node) learn(nqn, host string, said []string) {
	to, err := parsePortals(said)
	if err != nil {
		n.Log.Warn("the storage host names an address that cannot be used", "host", host, "err", err)
		return
	}
	if len(to) == 0 {
		return // it does not say
	}
	for _, r := range n.Records() {
		m := r.Stage.Attachment.Managed
		if r.nqn() != nqn || m == nil || m.Host != host || initiator.SamePortals(r.Stage.Attachment.Session.Portals, to) {
			continue
		}
		if err := n.moveOne(r.Stage.VolumeID, nqn, to); err != nil && !errors.Is(err, volume.ErrBusy) {
			n.Log.Warn("the storage host has another address, and it could not be put on record", "volume", r.Stage.VolumeID, "err", err)
		}
	}
}

func (n *Node) moveOne(volumeID, nqn string, to []netip.AddrPort) error {
	release, err := n.volumes.Lock(volumeID, "new address")
	if err != nil {
		return err
	}
	defer release()
	rec, err := n.records.Get(volumeID)
	if err != nil || rec.nqn() != nqn {
		return err
	}
	return n.move(&rec, to)
}

func parsePortals(said []string) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	for _, s := range said {
		p, err := netip.ParseAddrPort(s)
		if err != nil || p.Port() == 0 || p.Addr().IsUnspecified() || p.Addr().IsMulticast() {
			return nil, fmt.Errorf("address %q: %w", s, volume.ErrInvalid)
		}
		out = append(out, p)
	}
	return out, nil
}

// moveAfter is how long the portals of a publish context are tried before the
// agent is asked for others.
const moveAfter = 5 * time.Second

// reach makes the session of a volume that is being staged.
func (n *Node) reach(ctx context.Context, rec *Record) error {
	err := n.connect(ctx, rec)
	if n.makeRoom(ctx, rec.nqn(), err) {
		// Not final any more: the next attempt finds another machine.
		return fmt.Errorf("%w: %v", volume.ErrUnavailable, err)
	}
	return err
}

func (n *Node) connect(ctx context.Context, rec *Record) error {
	at := &rec.Stage.Attachment
	if at.Managed == nil {
		return n.Fabric.EnsureSession(ctx, at.Session)
	}
	first, cancel := context.WithTimeout(ctx, moveAfter)
	err := n.Fabric.EnsureSession(first, at.Session)
	over := first.Err() != nil
	cancel()
	if err == nil || !over || ctx.Err() != nil {
		return err
	}
	if st, err := n.status(ctx, *rec); err == nil {
		if to, err := parsePortals(st.Portals); err == nil && len(to) > 0 {
			if err := n.move(rec, to); err != nil {
				return err
			}
		}
	}
	return n.Fabric.EnsureSession(ctx, at.Session)
}

// wanted returns the session with the portals of all volumes of this boot that
// want it, those that are being staged included; false if none does.
func (n *Node) wanted(nqn string) (s initiator.Session, volumes []Record, ok bool) {
	for _, r := range n.Records() {
		// Of what is flushed the unmount may still wait in the table.
		if r.nqn() != nqn || r.Ended != NotEnded || r.Phase == Flushed && r.Table == "" {
			continue
		}
		portals := initiator.JoinPortals(s.Portals, r.Stage.Attachment.Session.Portals)
		s = r.Stage.Attachment.Session
		s.Portals = portals
		volumes = append(volumes, r)
	}
	return s, volumes, len(volumes) > 0
}

// Retire takes controllers at addresses away that no volume of the session wants
// any more, if every volume is proven over one that is wanted.
func (n *Node) Retire(ctx context.Context, nqn string) error {
	release, err := n.sessions.close(ctx, nqn)
	if err != nil {
		return err
	}
	defer release()
	s, volumes, ok := n.wanted(nqn)
	if !ok {
		return nil
	}
	state, err := n.Sysfs.SessionOf(nqn, 0)
	if err != nil {
		return err
	}
	if !mayRetire(state, s, volumes) {
		return nil
	}
	n.Log.Info("the session has moved: connections to addresses that nobody wants any more are taken down", "nqn", nqn, "wanted", s.Portals)
	return n.Fabric.Retire(ctx, s)
}

// Drop takes the controllers of a dead session down, if nothing can be lost with
// them.
func (n *Node) Drop(ctx context.Context, nqn string) error {
	release, err := n.sessions.close(ctx, nqn)
	if err != nil {
		return err
	}
	defer release()
	s, volumes, ok := n.wanted(nqn)
	state, err := n.Sysfs.SessionOf(nqn, 0)
	wants := s.Portals
	s.Portals = nil // then all are in excess
	if err != nil || !ok || !inTables(state, volumes) || len(initiator.Excess(state.Controllers, s)) == 0 {
		return err
	}
	n.Log.Info("the session is away for so long that its volumes may be another node's by now: dead connections are taken down, so that nothing goes out by itself when it is back", "nqn", nqn, "portals", wants)
	return n.Fabric.Retire(ctx, s)
}

// mayRetire is a pure function. A volume that is only being staged has no path to
// lose.
func mayRetire(state nvmesysfs.Snapshot, s initiator.Session, volumes []Record) bool {
	return !slices.ContainsFunc(volumes, func(r Record) bool {
		return r.Phase != Staging && !initiator.ProvenAt(state, r.Identity(), s)
	})
}

// makeRoom is for a target that has moved while it was away. The Linux target
// gives a new controller the first ID that is free, which may be the one that the
// dead controller at the old address still has here, and then the kernel refuses
// the new one for as long as the dead one is there. That is deleted, if nothing can
// be lost with it: I/O of every volume waits in a table of its own. It says whether
// there is reason to try again.
func (n *Node) makeRoom(ctx context.Context, nqn string, refused error) bool {
	if !errors.Is(refused, syscall.EINVAL) {
		return false
	}
	s, volumes, ok := n.wanted(nqn)
	state, err := n.Sysfs.SessionOf(nqn, 0)
	if err != nil || !ok || !inTheWay(state, s, volumes) {
		return false
	}
	n.Log.Warn("the target has moved, and the kernel takes no connection to its new address while the dead one to the old address is there: that is taken down", "nqn", nqn, "wanted", s.Portals)
	return n.Fabric.Retire(ctx, s) == nil
}

// inTheWay is a pure function.
func inTheWay(state nvmesysfs.Snapshot, s initiator.Session, volumes []Record) bool {
	return inTables(state, volumes) && len(initiator.Excess(state.Controllers, s)) > 0
}

// inTables says whether a session is dead and I/O of each of its volumes waits in a
// table. It is a pure function. A volume that is only being staged has no I/O.
func inTables(state nvmesysfs.Snapshot, volumes []Record) bool {
	live := slices.ContainsFunc(state.Controllers, nvmesysfs.Controller.Live)
	bare := slices.ContainsFunc(volumes, func(r Record) bool { return r.Table == "" && r.Phase != Staging })
	return !live && !bare
}
