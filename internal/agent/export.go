package agent

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-csi/holdfast/internal/nvmet"
	"github.com/holdfast-csi/holdfast/internal/pool"
	"github.com/holdfast-csi/holdfast/internal/store"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

const model = "Holdfast"

// export makes the kernel's target show one publication. Of its session
// nothing else is planned: what the others show, or are ceasing to show, is
// theirs, and a plan made of all of them could bring back a namespace that is
// being withdrawn at this moment.
func (s *Service) export(ctx context.Context, p *exportedPool, session store.Session, pub store.Publication) error {
	ns, err := s.namespace(ctx, p.backing(), pub)
	if err != nil {
		return err
	}
	if !s.settled(ctx, session.NQN) {
		return fmt.Errorf("another volume is still being withdrawn from the node's session: %w", volume.ErrPending)
	}
	port := portOf(p)
	actual, err := nvmet.Observe(s.tree, []string{session.NQN}, []uint16{port.ID})
	if err != nil {
		return fmt.Errorf("read the target's state: %w: %w", volume.ErrUnavailable, err)
	}
	if err := s.wholeSession(p, actual, session, pub); err != nil {
		return err
	}
	for nsid := range actual.Subsystems[session.NQN].Namespaces {
		if nsid != pub.NSID {
			delete(actual.Subsystems[session.NQN].Namespaces, nsid)
		}
	}
	wanted := subsystemOf(p, session)
	wanted.Namespaces = []nvmet.Namespace{ns}
	steps, err := nvmet.Plan(actual, nvmet.Desired{Ports: []nvmet.Port{port}, Subsystems: []nvmet.Subsystem{wanted}})
	if err == nil {
		err = nvmet.Apply(ctx, s.tree, steps)
	}
	return explain(p, err)
}

// settleTime is how long a publish waits for a volume that is just being withdrawn
// from the session: one that has no I/O stuck takes the kernel some milliseconds.
const settleTime = 500 * time.Millisecond

// settled waits for withdrawals from subsystems, and says whether they are done:
// until then the kernel lets nobody look into them.
func (s *Service) settled(ctx context.Context, nqns ...string) bool {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	all := true
	for _, nqn := range nqns {
		all = s.withdrawer.Await(ctx, nqn) && all
	}
	return all
}

// wholeSession notices a session whose subsystem is gone while others of its
// publications stand: somebody else has taken the target apart. Linking the
// subsystem with the new namespace alone would tell the node that the others do
// not exist, so the pool is restored as a whole instead.
func (s *Service) wholeSession(p *exportedPool, actual nvmet.State, session store.Session, pub store.Publication) error {
	if _, there := actual.Subsystems[session.NQN]; there {
		return nil
	}
	pubs, err := s.publicationsIn(session.NQN)
	if err != nil {
		return err
	}
	for _, other := range pubs {
		if other.NSID != pub.NSID && other.State == pubPublished {
			err := fmt.Errorf("subsystem %s has vanished from the target; pool %s is restored: %w", session.NQN, p.name, volume.ErrUnavailable)
			p.distrust(err)
			return err
		}
	}
	return nil
}

func subsystemOf(p *exportedPool, session store.Session) nvmet.Subsystem {
	return nvmet.Subsystem{NQN: session.NQN, Serial: session.Serial, Model: model, HostNQN: session.HostNQN, PortID: portOf(p).ID}
}

// namespace is what shows a publication. A file that is missing or has not the
// size on record would be another disk to the node.
func (s *Service) namespace(ctx context.Context, backing pool.Pool, pub store.Publication) (nvmet.Namespace, error) {
	rec, err := s.ready(pub.Volume)
	if err != nil {
		return nvmet.Namespace{}, err
	}
	info, err := backing.Inspect(ctx, pub.Volume)
	switch {
	case errors.Is(err, volume.ErrNotFound):
		// Not ErrNotFound: the volume exists, its bytes do not.
		err = fmt.Errorf("volume %s: the pool has lost it: %w (%v)", pub.Volume, volume.ErrDataLoss, err)
	case err == nil && info.SizeBytes != rec.SizeBytes:
		err = fmt.Errorf("volume %s has %d bytes in the pool and %d on record: %w", pub.Volume, info.SizeBytes, rec.SizeBytes, volume.ErrDataLoss)
	}
	return nvmet.Namespace{NSID: pub.NSID, Path: backing.Path(pub.Volume), UUID: pub.Volume, NGUID: pub.NGUID}, err
}

func portOf(p *exportedPool) nvmet.Port {
	return nvmet.Port{ID: p.portal.Port(), Address: p.portal.Addr(), TCPPort: p.portal.Port()}
}

// removeSubsystem takes an empty session out of the target, and its host unless
// another session needs it. The host is named here because, after a crash, no
// subsystem may name it any more.
func (s *Service) removeSubsystem(ctx context.Context, session store.Session) error {
	actual, err := nvmet.Observe(s.tree, []string{session.NQN}, s.portIDs())
	if err != nil {
		return fmt.Errorf("read the target's state: %w: %w", volume.ErrUnavailable, err)
	}
	steps, err := nvmet.Plan(actual, nvmet.Desired{Absent: []string{session.NQN}})
	if err == nil {
		steps = append(steps, nvmet.Step{Op: nvmet.OpRmdir, Path: "hosts/" + session.HostNQN, Object: "host " + session.HostNQN})
		err = nvmet.Apply(ctx, s.tree, steps)
	}
	if err != nil {
		return fmt.Errorf("remove subsystem %s: %w: %w", session.NQN, volume.ErrPending, err)
	}
	return nil
}

func (s *Service) portIDs() []uint16 {
	var ids []uint16
	for _, name := range s.poolNames() {
		ids = append(ids, portOf(s.pools[name]).ID)
	}
	return ids
}

// explain turns what the kernel says when a port cannot listen into what to do.
func explain(p *exportedPool, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("listen on %s for pool %s: the address is already in use; stop what uses it or give the pool another port: %w: %w", p.portal, p.name, volume.ErrUnavailable, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("listen on %s for pool %s: this machine does not have the address (yet): %w: %w", p.portal, p.name, volume.ErrUnavailable, err)
	default:
		return fmt.Errorf("export from pool %s on %s: %w: %w", p.name, p.portal, volume.ErrUnavailable, err)
	}
}

// failedNamespace says which namespace could not be shown, if that is what err
// is about. A namespace that could not be withdrawn is another matter.
func failedNamespace(err error) (nqn string, nsid uint32, ok bool) {
	var step *nvmet.StepError
	if !errors.As(err, &step) {
		return "", 0, false
	}
	building := step.Step.Op == nvmet.OpMkdir || step.Step.Op == nvmet.OpWrite && step.Step.Value != "0"
	parts := strings.Split(step.Step.Path, "/") // subsystems/NQN/namespaces/NSID[/ATTRIBUTE]
	if !building || len(parts) < 4 || parts[0] != "subsystems" || parts[2] != "namespaces" {
		return "", 0, false
	}
	n, err := strconv.ParseUint(parts[3], 10, 32)
	return parts[1], uint32(n), err == nil
}
