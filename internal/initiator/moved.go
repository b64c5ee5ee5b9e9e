package initiator

import (
	"context"
	"net/netip"
	"slices"

	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
)

// What is in this file is for a target that has moved to another address.

// SamePortals says whether two lists name the same portals, in any order.
func SamePortals(a, b []netip.AddrPort) bool {
	in := func(list []netip.AddrPort) func(netip.AddrPort) bool {
		return func(p netip.AddrPort) bool { return slices.ContainsFunc(list, same(p)) }
	}
	return !slices.ContainsFunc(a, not(in(b))) && !slices.ContainsFunc(b, not(in(a)))
}

func same(p netip.AddrPort) func(netip.AddrPort) bool {
	return func(o netip.AddrPort) bool { return plain(o) == plain(p) }
}

func not(f func(netip.AddrPort) bool) func(netip.AddrPort) bool {
	return func(p netip.AddrPort) bool { return !f(p) }
}

// JoinPortals adds to a those of b that are not in it. It changes neither.
func JoinPortals(a, b []netip.AddrPort) []netip.AddrPort {
	out := slices.Clip(a)
	for _, p := range b {
		if !slices.ContainsFunc(out, same(p)) {
			out = append(out, p)
		}
	}
	return out
}

// Excess returns the controllers of s at addresses that are no portal of it. It
// is a pure function. What another host identity made is not ours to judge.
func Excess(controllers []nvmesysfs.Controller, s Session) []nvmesysfs.Controller {
	var out []nvmesysfs.Controller
	for _, c := range controllers {
		at, ok := c.Portal()
		if ok && c.NQN == s.NQN && !c.Ending() && checkOwner(c, s) == nil && !slices.ContainsFunc(s.Portals, same(at)) {
			out = append(out, c)
		}
	}
	return out
}

// ProvenAt says whether the namespace of id is there, is the right one, and has a
// live path over a portal of s: the kernel takes a second path to a namespace only
// if all its identifiers are those of the first. It is a pure function.
func ProvenAt(state nvmesysfs.Snapshot, id Identity, s Session) bool {
	return slices.ContainsFunc(state.Namespaces, func(ns nvmesysfs.Namespace) bool {
		return id.claims(ns) && id.Check(ns) == nil && slices.ContainsFunc(state.Controllers, func(c nvmesysfs.Controller) bool {
			at, ok := c.Portal()
			return ok && c.Live() && c.NQN == s.NQN && slices.Contains(ns.Controllers, c.Name) && slices.ContainsFunc(s.Portals, same(at))
		})
	})
}

// Retire begins to delete the controllers of s that are in excess, and does not
// wait: a live one whose path is silent takes a minute, and nobody wants it any
// more. What is refused the next call tries again.
func (h *Host) Retire(ctx context.Context, s Session) error {
	held, err := h.sessions.lock(ctx, s.NQN)
	if err != nil {
		return err
	}
	defer held.done()
	controllers, err := h.ours(s.NQN)
	if err != nil {
		return err
	}
	for _, c := range Excess(controllers, s) {
		h.delete(c)
	}
	return nil
}
