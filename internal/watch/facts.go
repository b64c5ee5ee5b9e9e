package watch

import (
	"net/netip"
	"slices"
	"time"

	"github.com/holdfast-csi/holdfast/internal/guard"
	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
)

// facts are what one look found of one session.
type facts struct {
	now         time.Time
	session     initiator.Session
	portals     []netip.AddrPort // of all volumes that want the session
	eager       bool
	finite      bool
	volumes     []Volume
	controllers []nvmesysfs.Controller
	// namespaces are those of the last full look; looked says that it was this one.
	namespaces []nvmesysfs.Namespace
	looked     bool
	tables     map[string]table
}

// table is what was found of one: absent if there is none of the name, unseen if
// it could not be looked at.
type table struct {
	guard.State
	absent, unseen bool
}

// live says whether a controller of the session is live.
func (f facts) live() bool {
	return slices.ContainsFunc(f.controllers, nvmesysfs.Controller.Live)
}

// subsystems are those of the session's controllers.
func (f facts) subsystems() []string {
	var names []string
	for _, c := range f.controllers {
		names = append(names, c.Subsystem)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// away says whether a controller of the session is not live.
func (f facts) away() bool {
	return slices.ContainsFunc(f.controllers, func(c nvmesysfs.Controller) bool { return !c.Live() })
}

// candidate returns the device of v: identity right, a controller with a path
// to it live. Without native multipath there can be more than one disk of it.
func (f facts) candidate(v Volume) (nvmesysfs.Namespace, error) {
	at := f.standing(v.Identity)
	var reachable []nvmesysfs.Namespace
	for _, ns := range at {
		if slices.ContainsFunc(f.controllers, func(c nvmesysfs.Controller) bool {
			return c.Live() && slices.Contains(ns.Controllers, c.Name)
		}) {
			reachable = append(reachable, ns)
		}
	}
	ns, err := initiator.Match(nvmesysfs.Snapshot{Namespaces: reachable}, v.Identity)
	if err == nil {
		return ns, nil
	}
	if _, there := initiator.Match(nvmesysfs.Snapshot{Namespaces: at}, v.Identity); there == nil {
		return nvmesysfs.Namespace{}, errNoPath
	}
	return ns, err
}

// standing are the namespaces that may stand where id should be: those of its
// NSID. With hundreds of volumes a close look at each would be one at all others.
func (f facts) standing(id initiator.Identity) (out []nvmesysfs.Namespace) {
	if id.NSID == 0 {
		return f.namespaces
	}
	for i := range f.namespaces {
		if f.namespaces[i].NSID == id.NSID {
			out = append(out, f.namespaces[i])
		}
	}
	return out
}

// missing says whether a portal of the session has no controller.
func (f facts) missing() bool {
	for _, p := range f.session.Portals {
		there := slices.ContainsFunc(f.controllers, func(c nvmesysfs.Controller) bool {
			at, ok := c.Portal()
			return ok && !c.Ending() && at.Addr() == p.Addr().Unmap() && at.Port() == p.Port()
		})
		if !there {
			return true
		}
	}
	return false
}

// excess are controllers at addresses that no volume wants.
func (f facts) excess() []nvmesysfs.Controller { return initiator.Excess(f.controllers, f.session) }

// leaving says whether a session has a path over an address that is wanted and
// others that are in excess: it is looked at until those are gone.
func (f facts) leaving() bool {
	return len(f.excess()) > 0 && slices.ContainsFunc(f.controllers, func(c nvmesysfs.Controller) bool {
		at, ok := c.Portal()
		return ok && c.Live() && slices.Contains(f.session.Portals, at)
	})
}

// unfinished says whether the session is not yet as it should be, also where all
// its volumes are served.
func (f facts) unfinished() bool { return f.leaving() || f.missing() && wanted(f.volumes) }

// moved says whether the session has left the addresses that are in excess: each
// volume is proven over one that is wanted. Of what was not looked at just now
// nothing is proven.
func (f facts) moved() bool {
	if !f.looked || !f.leaving() {
		return false
	}
	state := nvmesysfs.Snapshot{Controllers: f.controllers, Namespaces: f.namespaces}
	return !slices.ContainsFunc(f.volumes, func(v Volume) bool {
		return !v.Ended && !initiator.ProvenAt(state, v.Identity, f.session)
	})
}
