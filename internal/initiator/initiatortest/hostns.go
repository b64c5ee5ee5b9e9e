package initiatortest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

func (h *hostCase) findsNamespace() {
	early, late := newNamespace(1), newNamespace(1025) // above the target's NN, which is allowed
	h.rig.AddNamespace(h.session.NQN, early)
	h.ensure(h.session)
	first, _ := h.wait(h.identity(early))
	add := time.AfterFunc(100*time.Millisecond, func() { h.rig.AddNamespace(h.session.NQN, late) })
	defer add.Stop()
	second, _ := h.wait(h.identity(late))
	if first.Disk == second.Disk || first.NSID != 1 || second.NSID != 1025 || second.NGUID != late.NGUID {
		h.Errorf("first %+v, second %+v", first, second)
	}
	byUUID, _ := h.wait(initiator.Identity{NQN: h.session.NQN, UUID: early.UUID})
	if byUUID.Disk != first.Disk {
		h.Errorf("by UUID %+v, want %s", byUUID, first.Disk)
	}
	_, _, err := h.host.WaitNamespace(h.Context(), initiator.Identity{NQN: h.session.NQN})
	wantErrors(h.T, err, volume.ErrInvalid)
}

func (h *hostCase) movedUUID() {
	old := newNamespace(1)
	h.rig.AddNamespace(h.session.NQN, old)
	h.ensure(h.session)
	h.wait(h.identity(old))
	moved := old
	moved.NSID, moved.NGUID = 2, uuid.New()
	h.rig.AddNamespace(h.session.NQN, moved)
	h.rig.RemoveNamespace(h.session.NQN, old.NSID)
	if ns, _ := h.wait(h.identity(moved)); ns.NSID != 2 || ns.UUID != old.UUID {
		h.Errorf("found %+v", ns)
	}
}

func (h *hostCase) wrongIdentity() {
	ns := newNamespace(1)
	h.rig.AddNamespace(h.session.NQN, ns)
	h.ensure(h.session)
	var wg sync.WaitGroup
	for _, c := range []struct {
		what  string
		wrong func(*initiator.Identity)
	}{
		{"UUID", func(id *initiator.Identity) { id.UUID = uuid.New() }},
		{"NGUID", func(id *initiator.Identity) { id.NGUID = uuid.New() }},
		{"size in bytes", func(id *initiator.Identity) { id.SizeBytes++ }},
		{"logical block size", func(id *initiator.Identity) { id.BlockSize = 512 }},
	} {
		wg.Go(func() { h.refuses(ns, c.what, c.wrong) })
	}
	wg.Wait()
}

func (h *hostCase) refuses(ns Namespace, what string, wrong func(*initiator.Identity)) {
	id := h.identity(ns)
	wrong(&id)
	begin := time.Now()
	_, path, err := h.host.WaitNamespace(h.within(settle), id)
	wantErrors(h.T, err, volume.ErrPrecondition)
	var e *initiator.IdentityError
	if !errors.As(err, &e) || path != "" || len(e.Wrong) != 1 || !strings.HasPrefix(e.Wrong[0], what+": want ") {
		h.Errorf("%s: got %q, %v", what, path, err)
	}
	if d := time.Since(begin); d > settle/2 {
		h.Errorf("%s: refused only after %v", what, d)
	}
}

func (h *hostCase) absent() {
	h.ensure(h.session)
	_, _, err := h.host.WaitNamespace(h.within(time.Second), h.identity(newNamespace(1)))
	wantErrors(h.T, err, volume.ErrUnavailable, context.DeadlineExceeded)
	ns := newNamespace(2)
	h.rig.AddNamespace(h.session.NQN, ns)
	h.wait(h.identity(ns))
	h.lose() // the disk is there still, and nothing may open it
	_, _, err = h.host.WaitNamespace(h.within(time.Second), h.identity(ns))
	wantErrors(h.T, err, volume.ErrUnavailable, context.DeadlineExceeded)
}

func (h *hostCase) grown() {
	ns := newNamespace(1)
	h.rig.AddNamespace(h.session.NQN, ns)
	h.ensure(h.session)
	h.wait(h.identity(ns))
	published := h.identity(ns)
	ns.SizeBytes *= 2
	h.rig.AddNamespace(h.session.NQN, ns)
	if now, _ := h.wait(h.identity(ns)); now.SizeBytes != ns.SizeBytes {
		h.Errorf("found %+v", now)
	}
	h.wait(published)
}
