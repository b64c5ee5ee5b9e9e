package initiator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/holdfast-csi/holdfast/internal/sockdiag"
)

// Sockets looks at and ends connections that are being made.
type Sockets interface {
	Connecting(remote netip.AddrPort) (bool, error)
	Abort(remote netip.AddrPort) (int, error)
}

// kernelSockets is the running kernel.
type kernelSockets struct{}

func (kernelSockets) Connecting(remote netip.AddrPort) (bool, error) {
	return sockdiag.Connecting(remote)
}
func (kernelSockets) Abort(remote netip.AddrPort) (int, error) { return sockdiag.Abort(remote) }

const (
	// answersEvery is how often a portal is asked while the kernel waits for it,
	// answersFor for how long in one call.
	answersEvery = 250 * time.Millisecond
	answersFor   = time.Second
	// settle is the least time after an answer before an attempt that still has
	// none counts as lost: its own may be under way.
	settle = 20 * time.Millisecond
)

// Hurry ends the kernel's attempts to connect to portals of s that are waiting
// for an answer to a SYN which was lost, once the portal answers: the kernel
// would notice up to two seconds later. It begins its next attempt after the
// session's reconnect delay. An attempt whose SYN may still be answered is left
// alone, and so is everything that is connected. It takes a second or two while
// a portal is silent, and returns at once where the kernel waits for none.
func (h *Host) Hurry(ctx context.Context, s Session) error {
	done := make(chan error, len(s.Portals))
	for _, p := range s.Portals {
		go func() { done <- h.hurry(ctx, plain(p)) }()
	}
	var errs []error
	for range s.Portals {
		errs = append(errs, <-done)
	}
	return errors.Join(errs...)
}

func (h *Host) hurry(ctx context.Context, portal netip.AddrPort) error {
	waits, err := h.sockets.Connecting(portal)
	if err != nil || !waits {
		return err
	}
	took, ok := h.answers(ctx, portal)
	if !ok || !sleep(ctx, max(settle, 2*took)) {
		return nil
	}
	if _, err := h.sockets.Abort(portal); err != nil {
		return fmt.Errorf("portal %s answers, and the kernel waits for an answer to an earlier SYN: %w", portal, err)
	}
	return nil
}

// answers asks a portal again and again, without waiting for the earlier
// questions, and says how long the first answer took.
func (h *Host) answers(ctx context.Context, portal netip.AddrPort) (took time.Duration, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, answersFor+probeTime)
	defer cancel()
	const questions = int(answersFor / answersEvery)
	answers := make(chan time.Duration, questions)
	for i := range questions {
		go func() {
			if !sleep(ctx, time.Duration(i)*answersEvery) {
				return
			}
			began := time.Now()
			if h.probe(ctx, portal) == nil {
				answers <- time.Since(began)
			}
		}()
	}
	select {
	case took = <-answers:
		return took, true
	case <-ctx.Done():
		return 0, false
	}
}
