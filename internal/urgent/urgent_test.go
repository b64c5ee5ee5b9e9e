package urgent_test

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/urgent"
)

func attr(t *testing.T) unix.SchedAttr {
	t.Helper()
	a, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return *a
}

// The thread is in real time within, also if one is within another, and as it was
// before afterwards.
func TestDo(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := attr(t)
	within := urgent.Do(func() unix.SchedAttr {
		urgent.Do(func() error { return nil })
		return attr(t)
	})
	if after := attr(t); after != before {
		t.Errorf("it was %+v and is %+v", before, after)
	}
	if os.Geteuid() == 0 && (within.Policy != unix.SCHED_RR || within.Priority != 1) {
		t.Errorf("within it is %+v", within)
	}
}
