package nvmet_test

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-csi/holdfast/internal/nvmet"
	"github.com/holdfast-csi/holdfast/internal/nvmet/nvmettest"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

func withdrawn(t *testing.T, k *nvmettest.Kernel, nsid uint32) {
	t.Helper()
	for _, ns := range k.Enabled(subA) {
		if ns.NSID == nsid {
			t.Errorf("namespace %d is still enabled", nsid)
		}
	}
	st, err := nvmet.Observe(k, []string{subA}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, there := st.Subsystems[subA].Namespaces[nsid]; there {
		t.Errorf("namespace %d still exists", nsid)
	}
}

func TestWithdraw(t *testing.T) {
	k := nvmettest.New()
	converge(t, k, desiredA())
	var w nvmet.Withdrawer
	for range 2 {
		if err := w.Withdraw(t.Context(), k, subA, 1, time.Hour); err != nil {
			t.Fatal(err)
		}
		withdrawn(t, k, 1)
	}
	if err := w.Withdraw(t.Context(), k, "nqn.none", 1, time.Hour); err != nil {
		t.Fatalf("no such subsystem: %v", err)
	}
	if got := k.Visible(subA, host1); len(got) != 1 || k.Kicks(subA) != 0 {
		t.Errorf("visible %v, kicks %d", got, k.Kicks(subA))
	}
}

// I/O of a dead host ends when the hosts are disconnected, once.
func TestWithdrawKicks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := nvmettest.New()
		converge(t, k, desiredA())
		k.HoldIO(subA, 1)
		var w nvmet.Withdrawer
		begun := time.Now()
		if err := w.Withdraw(t.Context(), k, subA, 1, nvmet.DefaultKickAfter); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begun); d != nvmet.DefaultKickAfter || k.Kicks(subA) != 1 {
			t.Errorf("took %v, %d kicks", d, k.Kicks(subA))
		}
		withdrawn(t, k, 1)
	})
}

// A device that hangs keeps the withdrawal pending; later calls join it, and
// all of them learn when it is done. Other subsystems are not held up.
func TestWithdrawPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := nvmettest.New()
		converge(t, k, desiredA())
		k.ClearEvents()
		k.HoldIO(subA, 1)
		kick := errors.New("no kick")
		k.SetOnOp(func(op, path string) error {
			if path == "subsystems/"+subA+"/attr_qid_max" {
				return kick
			}
			return nil
		})
		var w nvmet.Withdrawer
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := w.Withdraw(ctx, k, subA, 1, time.Second)
		if !errors.Is(err, volume.ErrPending) || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, kick) {
			t.Fatalf("got %v", err)
		}
		if !w.Pending(subA, 1) || w.Pending(subA, 2) || !w.PendingIn(subA) || w.PendingIn(prefix+"b") {
			t.Error("Pending is wrong")
		}
		if err := w.Withdraw(ctx, k, subA, 1, time.Second); !errors.Is(err, volume.ErrPending) {
			t.Fatalf("joined with a dead context: %v", err)
		}
		b := testSubsystem(prefix+"b", host2, 2, 1)
		converge(t, k, nvmet.Desired{Ports: []nvmet.Port{testPort(2)}, Subsystems: []nvmet.Subsystem{b}})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := w.Withdraw(t.Context(), k, subA, 1, time.Second); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		k.ReleaseIO(subA, 1)
		wg.Wait()
		withdrawn(t, k, 1)
		if w.Pending(subA, 1) || w.PendingIn(subA) {
			t.Error("still pending")
		}
		tries := 0
		for _, e := range k.Events() {
			if e.Path == "subsystems/"+subA+"/namespaces/1" {
				tries++
			}
		}
		if tries != 1 {
			t.Errorf("removed %d times, want once", tries)
		}
	})
}

// A refusal is reported and not remembered.
func TestWithdrawFails(t *testing.T) {
	k := nvmettest.New()
	converge(t, k, desiredA())
	k.SetOnOp(func(op, path string) error {
		if op == "rmdir" {
			return syscall.EBUSY
		}
		return nil
	})
	var w nvmet.Withdrawer
	if err := w.Withdraw(t.Context(), k, subA, 1, time.Hour); !errors.Is(err, syscall.EBUSY) || errors.Is(err, volume.ErrPending) {
		t.Fatalf("got %v", err)
	}
	k.SetOnOp(nil)
	if err := w.Withdraw(t.Context(), k, subA, 1, time.Hour); err != nil {
		t.Fatal(err)
	}
	withdrawn(t, k, 1)
}
