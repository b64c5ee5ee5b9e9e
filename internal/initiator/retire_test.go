package initiator_test

import (
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/initiator/initiatortest"
)

// Retire takes what is at other addresses, and nothing else: not another
// session's, and not another host's.
func TestRetire(t *testing.T) {
	t.Parallel()
	f := initiatortest.New(t)
	h := f.Host()
	for _, nqn := range []string{testNQN, otherNQN} {
		f.AddSubsystem(nqn, portalA, portalB)
		if err := h.EnsureSession(t.Context(), session(nqn, portalA, portalB)); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Retire(t.Context(), session(testNQN, portalA, portalB)); err != nil || count(t, f, testNQN) != 2 {
		t.Errorf("%v, %d controllers", err, count(t, f, testNQN))
	}
	if err := h.Retire(t.Context(), session(testNQN, portalB)); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); count(t, f, testNQN) != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the old one is still there")
		}
	}
	s, err := f.FS().Session(testNQN)
	if err != nil {
		t.Fatal(err)
	}
	if at, _ := s.Controllers[0].Portal(); at != portalB {
		t.Errorf("what is left is at %v", at)
	}
	if n := count(t, f, otherNQN); n != 2 {
		t.Errorf("%d controllers of the other session", n)
	}
	foreign := session(otherNQN, portalB)
	foreign.HostNQN += "0"
	if err := h.Retire(t.Context(), foreign); err != nil || count(t, f, otherNQN) != 2 {
		t.Errorf("%v, %d controllers", err, count(t, f, otherNQN))
	}
}

func count(t *testing.T, f *initiatortest.Fake, nqn string) int {
	t.Helper()
	s, err := f.FS().Session(nqn)
	if err != nil {
		t.Fatal(err)
	}
	return len(s.Controllers)
}

var _ initiator.Owners = (*owners)(nil)

// TestLimit: of one session, whatever state it is in.
func TestLimit(t *testing.T) {
	t.Parallel()
	f := initiatortest.New(t)
	h := f.Host()
	for _, nqn := range []string{testNQN, otherNQN} {
		f.AddSubsystem(nqn, portalA, portalB)
		if err := h.EnsureSession(t.Context(), session(nqn, portalA, portalB)); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Limit(testNQN, 5); err != nil {
		t.Fatal(err)
	}
	for nqn, want := range map[string]int{testNQN: 5, otherNQN: -1} {
		s, err := f.FS().Session(nqn)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range s.Controllers {
			if c.CtrlLossTmo != want {
				t.Errorf("%s of %s: ctrl_loss_tmo %d, want %d", c.Name, nqn, c.CtrlLossTmo, want)
			}
		}
	}
}
