//go:build kernel

package sockdiag

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// TestAbort: a connection whose SYN is lost ends when it is told to, one that is
// made and one to another port stay.
func TestAbort(t *testing.T) {
	for _, address := range []string{"127.0.0.1", "::1"} {
		t.Run(address, func(t *testing.T) {
			l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			portal := netip.MustParseAddrPort(l.Addr().String())
			made, err := net.Dial("tcp", portal.String())
			if err != nil {
				t.Fatal(err)
			}
			defer made.Close()
			if is, err := Connecting(portal); is || err != nil {
				t.Fatalf("connecting: %v, %v", is, err)
			}
			drop(t)
			began, done := time.Now(), make(chan error, 1)
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				_, err := (&net.Dialer{}).DialContext(ctx, "tcp", portal.String())
				done <- err
			}()
			for {
				is, err := Connecting(portal)
				if err != nil {
					t.Fatal(err)
				}
				if is {
					break
				}
				if time.Since(began) > 10*time.Second {
					t.Fatal("nothing is seen to connect")
				}
			}
			other := netip.AddrPortFrom(portal.Addr(), portal.Port()^1)
			if n, err := Abort(other); n != 0 || err != nil {
				t.Errorf("aborted %d to %s, %v", n, other, err)
			}
			if n, err := Abort(portal); n != 1 || err != nil {
				t.Errorf("aborted %d, %v", n, err)
			}
			if err := <-done; !errors.Is(err, syscall.ECONNABORTED) {
				t.Errorf("the dial ended with %v", err)
			}
			if _, err := made.Write([]byte("x")); err != nil {
				t.Errorf("what was connected: %v", err)
			}
		})
	}
}

// drop loses every SYN until the test ends.
func drop(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("nft", "table inet lost { chain i { type filter hook input priority 0; tcp flags & (syn|ack) == syn drop; }; }").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("nft", "delete table inet lost").Run() })
}
