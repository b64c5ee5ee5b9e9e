package initiator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/internal/pause"
	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

// Pauses between attempts to connect. An attempt that is refused costs the
// target and the kernel's log a line each.
const (
	retryMin = 250 * time.Millisecond
	retryMax = time.Second
	// connectLimit bounds one connect. The kernel gives up by itself, after 10 s
	// on the queue that hangs; this is for a program that does not return.
	connectLimit = 2 * time.Minute
)

// EnsureSession makes sure that a controller of s is live. Controllers that
// exist for its portals are adopted, whatever state they are in and with the
// options they have; each portal without one is probed and, if it answers,
// connected, one connect at a time on this machine. One live portal is success:
// the others get their attempt in this call and in every further one.
//
// It goes on trying until ctx ends; the error then says which controller is in
// which state and wraps volume.ErrUnavailable. It ends at once if a retry
// cannot help: options that the kernel refuses on every portal, or a session of
// the same subsystem under another host NQN or host ID, which is never touched
// (volume.ErrPrecondition).
func (h *Host) EnsureSession(ctx context.Context, s Session) error {
	if err := s.validate(); err != nil {
		return err
	}
	var last error
	var next time.Time
	apart := retryMin
	for wait := pollMin; ; wait = min(wait*2, pollMax) {
		p, errs, err := h.advance(ctx, s, !time.Now().Before(next), false)
		if err != nil {
			return withLast(err, last)
		}
		if len(errs) > 0 {
			last = errors.Join(errs...)
			next, apart = time.Now().Add(apart), min(apart*2, retryMax)
		}
		if p.live {
			return nil
		}
		if len(p.adopted) == 0 && len(errs) > 0 && !slices.ContainsFunc(errs, retryable) {
			return last
		}
		if !pause.For(ctx, wait) {
			return notLive(s, p, last, ctx.Err())
		}
	}
}

// Restore gives each portal of s that has no controller one attempt, and
// reports those that failed. While nothing of the session is live the first
// success ends it: other sessions may wait for their first, and a second path
// can wait for the next call. It waits for nothing that exists.
func (h *Host) Restore(ctx context.Context, s Session) error {
	if err := s.validate(); err != nil {
		return err
	}
	_, errs, err := h.advance(ctx, s, true, true)
	return errors.Join(append(errs, err)...)
}

// retryable counts ErrAlreadyConnected in: somebody else is making the
// controller just now, and it will show in sysfs.
func retryable(err error) bool {
	var e *ConnectError
	return !errors.As(err, &e) || e.Retryable() || errors.Is(err, ErrAlreadyConnected)
}

// advance looks at the session and, if due, connects what is missing. errs has
// an error for each portal that could not be connected.
func (h *Host) advance(ctx context.Context, s Session, due, firstOnly bool) (p plan, errs []error, err error) {
	held, err := h.sessions.lock(ctx, s.NQN)
	if err != nil {
		return plan{}, nil, err
	}
	defer held.done()
	if p, err = h.plan(s); err != nil || len(p.missing) == 0 || !due {
		return p, nil, err
	}
	errs = h.connectAll(ctx, held, s, p.missing, firstOnly && !p.live)
	p, err = h.plan(s)
	return p, errs, err
}

func (h *Host) plan(s Session) (plan, error) {
	controllers, err := h.fs.ControllersOf(s.NQN)
	if err != nil {
		return plan{}, fmt.Errorf("session %s: %w", s.NQN, err)
	}
	return makePlan(nvmesysfs.Snapshot{Controllers: controllers}, s)
}

// plan is what sysfs says of a session that is wanted.
type plan struct {
	live    bool
	adopted []nvmesysfs.Controller
	missing []netip.AddrPort
}

// makePlan is a pure function. Controllers at addresses that are no portal of s
// neither count nor stand in the way.
func makePlan(state nvmesysfs.Snapshot, s Session) (plan, error) {
	have := map[netip.AddrPort]bool{}
	var p plan
	for _, c := range state.Controllers {
		if c.Ending() {
			continue
		}
		if err := checkOwner(c, s); err != nil {
			return plan{}, err
		}
		at, ok := c.Portal()
		if !ok || !slices.ContainsFunc(s.Portals, func(p netip.AddrPort) bool { return plain(p) == at }) {
			continue
		}
		have[at] = true
		p.adopted = append(p.adopted, c)
		p.live = p.live || c.Live()
	}
	for _, portal := range s.Portals {
		if !have[plain(portal)] {
			have[plain(portal)] = true // named twice, connected once
			p.missing = append(p.missing, portal)
		}
	}
	return p, nil
}

// plain makes addresses comparable: 127.0.0.1 and ::ffff:127.0.0.1 are one.
func plain(p netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(p.Addr().Unmap(), p.Port()) }

// checkOwner refuses a controller that another host identity made: its I/O
// would be another host's, which the target may fence on its own.
func checkOwner(c nvmesysfs.Controller, s Session) error {
	for _, id := range []struct{ what, want, found string }{
		{"host NQN", s.HostNQN, c.HostNQN}, {"host ID", s.HostID, c.HostID},
	} {
		if id.want != "" && id.found != "" && !strings.EqualFold(id.want, id.found) {
			return fmt.Errorf("session %s: %s is connected with %s %s, want %s: whoever made it must disconnect it first: %w",
				s.NQN, c.Name, id.what, id.found, id.want, volume.ErrPrecondition)
		}
	}
	return nil
}

// connectAll probes the portals at once and connects those that answer, one
// after the other, the first to answer first; if one is enough, no further.
func (h *Host) connectAll(ctx context.Context, held *hold, s Session, portals []netip.AddrPort, oneIsEnough bool) (errs []error) {
	type answer struct {
		portal netip.AddrPort
		err    error
	}
	answers := make(chan answer, len(portals)) // nobody may wait to send
	for _, p := range portals {
		go func() { answers <- answer{p, connectError(opProbe, s.target(p), h.probe(ctx, p))} }()
	}
	for range portals {
		a := <-answers
		if a.err == nil {
			a.err = h.connect(ctx, held, s, a.portal)
		}
		if a.err != nil {
			errs = append(errs, a.err)
		} else if oneIsEnough {
			return nil
		}
	}
	return errs
}

// connect makes one connection. When ctx ends, the attempt goes on, and keeps
// both locks until the kernel has answered.
func (h *Host) connect(ctx context.Context, held *hold, s Session, portal netip.AddrPort) error {
	t := s.target(portal)
	if err := h.connecting.lock(ctx, "connect to "+t.NQN); err != nil {
		return err
	}
	held.share()
	done := make(chan error, 1)
	go func() {
		err := h.connectAlone(context.WithoutCancel(ctx), held, t, s.Config)
		done <- err
		if err == nil {
			h.claim(t.NQN, portal) // nobody waits for it
		}
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return connectError(opConnect, t, ctx.Err())
	}
}

// connectAlone gives both locks back when the kernel has answered.
func (h *Host) connectAlone(ctx context.Context, held *hold, t nvme.Target, c nvme.ConnectionConfig) error {
	defer held.done()
	defer h.connecting.unlock()
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	defer h.hurry()()
	return h.connector.Connect(ctx, t, c)
}

func notLive(s Session, p plan, last, cause error) error {
	var seen []string
	for _, c := range p.adopted {
		seen = append(seen, fmt.Sprintf("%s (%s port %s) is %s", c.Name, c.Traddr, c.Trsvcid, c.State))
	}
	for _, m := range p.missing {
		seen = append(seen, fmt.Sprintf("%s is not connected", m))
	}
	return withLast(fmt.Errorf("session %s has no live path: %s: %w (%w)", s.NQN, strings.Join(seen, "; "), volume.ErrUnavailable, cause), last)
}

// withLast adds what the last attempt said, as text: options that the kernel
// refuses on one portal must not make the outcome of all of them look final.
func withLast(err, last error) error {
	if last == nil {
		return err
	}
	return fmt.Errorf("%w; last attempt: %v", err, last)
}
