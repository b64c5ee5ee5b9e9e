package initiator_test

import (
	"context"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-csi/holdfast/internal/initiator"
)

// handshakes are a kernel that waits for answers from some portals.
type handshakes struct {
	mu      sync.Mutex
	waits   map[netip.AddrPort]bool
	aborted map[netip.AddrPort]time.Duration // when, since the beginning
	began   time.Time
	err     error
}

func (k *handshakes) Connecting(p netip.AddrPort) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.waits[p], k.err
}

func (k *handshakes) Abort(p netip.AddrPort) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.waits[p] {
		return 0, nil
	}
	k.waits[p], k.aborted[p] = false, time.Since(k.began)
	return 1, nil
}

// TestHurry: only what waits in vain is ended, soon after the portal answers.
func TestHurry(t *testing.T) {
	const roundTrip = 5 * time.Millisecond
	for name, c := range map[string]struct {
		waits    []netip.AddrPort
		silent   time.Duration // how long both portals are; then they answer
		answered time.Duration // when the kernel's own SYN is, 0 for never
		err      error
		aborted  map[netip.AddrPort]time.Duration
		atMost   time.Duration
	}{
		"nothing waits":         {nil, 0, 0, nil, nil, 0},
		"one waits in vain":     {[]netip.AddrPort{portalA}, 0, 0, nil, map[netip.AddrPort]time.Duration{portalA: 25 * time.Millisecond}, 50 * time.Millisecond},
		"both, the net is back": {[]netip.AddrPort{portalA, portalB}, 600 * time.Millisecond, 0, nil, map[netip.AddrPort]time.Duration{portalA: 775 * time.Millisecond, portalB: 775 * time.Millisecond}, time.Second},
		"silence":               {[]netip.AddrPort{portalA}, time.Hour, 0, nil, nil, 2 * time.Second},
		"it is being answered":  {[]netip.AddrPort{portalA}, 0, 10 * time.Millisecond, nil, nil, 50 * time.Millisecond},
		"it cannot be seen":     {[]netip.AddrPort{portalA}, 0, 0, syscall.EPERM, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := &handshakes{waits: map[netip.AddrPort]bool{}, aborted: map[netip.AddrPort]time.Duration{}, began: time.Now(), err: c.err}
				for _, p := range c.waits {
					k.waits[p] = true
				}
				if c.answered > 0 {
					time.AfterFunc(c.answered, func() { k.mu.Lock(); defer k.mu.Unlock(); clear(k.waits) })
				}
				h := initiator.New(initiator.Options{Sockets: k, Probe: func(ctx context.Context, _ netip.AddrPort) error {
					wait := roundTrip
					if time.Since(k.began) < c.silent {
						wait = time.Second // its SYN is lost
					}
					select {
					case <-time.After(wait):
					case <-ctx.Done():
					}
					if wait > roundTrip {
						return syscall.ETIMEDOUT
					}
					return ctx.Err()
				}})
				err := h.Hurry(t.Context(), session(testNQN, portalA, portalB))
				if took := time.Since(k.began); took > c.atMost {
					t.Errorf("took %s", took)
				}
				if (err != nil) != (c.err != nil) {
					t.Error(err)
				}
				synctest.Wait()
				for p, want := range c.aborted {
					if got := k.aborted[p]; got != want {
						t.Errorf("%s ended after %s, want %s", p, got, want)
					}
				}
				if len(k.aborted) != len(c.aborted) {
					t.Errorf("ended %v, want %v", k.aborted, c.aborted)
				}
			})
		})
	}
}
