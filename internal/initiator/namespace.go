package initiator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/pause"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

const (
	// rescanFirst is how long a namespace may take to show up by itself.
	rescanFirst = 200 * time.Millisecond
	rescanEvery = 500 * time.Millisecond
	// identityGrace is how long a wrong identity may last: the kernel may not
	// have scanned since the volume grew or the NSID changed hands. It leaves
	// room for several rescans.
	identityGrace = 3 * time.Second
)

// errNoPath: the disk is there, and no controller with a path to it is live. To
// open it would hang.
var errNoPath = errors.New("no path to it is live")

// WaitNamespace waits until the namespace is a usable block device: identity
// right, size not 0, a path live, the device node there. It returns the
// namespace and the path of its node. What does not show up is asked for with a
// rescan, again and again: the kernel refuses a UUID under a new NSID as a
// duplicate while the old one is not gone, and does not try again by itself.
//
// A namespace that is another one (with the right NSID) is an *IdentityError
// after a few seconds of rescans; otherwise it waits until ctx ends, and the
// error wraps volume.ErrUnavailable.
func (h *Host) WaitNamespace(ctx context.Context, id Identity) (nvmesysfs.Namespace, string, error) {
	if err := id.validate(); err != nil {
		return nvmesysfs.Namespace{}, "", err
	}
	nextRescan := time.Now().Add(rescanFirst)
	var wrongSince time.Time
	for wait := pollMin; ; wait = min(wait*2, pollMax) {
		state, err := h.fs.SessionOf(id.NQN, id.NSID)
		if err != nil {
			return nvmesysfs.Namespace{}, "", fmt.Errorf("session %s: %w", id.NQN, err)
		}
		ns, path, err := h.usable(state, id)
		if err == nil {
			return ns, path, nil
		}
		now := time.Now()
		if !now.Before(nextRescan) {
			h.rescan(state)
			nextRescan = now.Add(rescanEvery)
		}
		var wrong *IdentityError
		switch {
		case !errors.As(err, &wrong):
			wrongSince = time.Time{}
		case wrongSince.IsZero():
			wrongSince = now
		case now.Sub(wrongSince) >= identityGrace:
			return nvmesysfs.Namespace{}, "", fmt.Errorf("%s: %w", id, err)
		}
		if !pause.For(ctx, wait) {
			return nvmesysfs.Namespace{}, "", notUsable(id, err, ctx.Err())
		}
	}
}

// notUsable: a wrong identity that did not last long enough to be believed is
// kept as text, so that the outcome does not look final.
func notUsable(id Identity, err, cause error) error {
	var wrong *IdentityError
	if errors.As(err, &wrong) {
		return fmt.Errorf("%s: %w: %v (%w)", id, volume.ErrUnavailable, err, cause)
	}
	return fmt.Errorf("%s: %w: %w (%w)", id, volume.ErrUnavailable, err, cause)
}

// Rescan asks every live controller of a session to look for namespaces. It
// does not wait for what comes of it.
func (h *Host) Rescan(nqn string) error {
	controllers, err := h.fs.ControllersOf(nqn)
	if err != nil {
		return err
	}
	h.rescan(nvmesysfs.Snapshot{Controllers: controllers})
	return nil
}

// rescan asks every live controller to look for namespaces. Its errors do not
// matter: what counts is whether the disk shows up.
func (h *Host) rescan(state nvmesysfs.Snapshot) {
	for _, c := range state.Controllers {
		if c.Live() {
			_ = h.fs.WriteControl(c.Name, nvmesysfs.RescanController, "1")
		}
	}
}

func (h *Host) usable(state nvmesysfs.Snapshot, id Identity) (nvmesysfs.Namespace, string, error) {
	ns, err := Match(state, id)
	if err != nil {
		return ns, "", err
	}
	if ns.SizeBytes == 0 {
		return ns, "", fmt.Errorf("%s: its size is still 0", ns.Disk)
	}
	live := func(c nvmesysfs.Controller) bool {
		return c.Live() && slices.Contains(ns.Controllers, c.Name)
	}
	if !slices.ContainsFunc(state.Controllers, live) {
		return ns, "", fmt.Errorf("%s: %w", ns.Disk, errNoPath)
	}
	path, err := h.fs.DeviceNode(ns)
	return ns, path, err
}
