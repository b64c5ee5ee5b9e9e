package app

import (
	"fmt"
	"log/slog"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// oomScore is what the kubelet gives itself and containerd: the last to be
// killed but for what must never be.
const oomScore = -999

// steady makes the process one that can heal a volume while the node is out of
// memory: what it has in memory stays there, the kernel serves its requests for
// memory without waiting for writes that may wait for this very process, and it
// is not what is killed first. Where the machine does not allow one of them, the
// others still help.
func steady(log *slog.Logger) {
	for what, try := range map[string]func() error{
		// Pages that are never touched are not brought in: the runtime reserves
		// far more than it uses (MCL_ONFAULT, Linux 4.4).
		"lock memory":       func() error { return unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT) },
		"be an I/O flusher": beFlusher,
		"lower the OOM score": func() error {
			return os.WriteFile("/proc/self/oom_score_adj", fmt.Append(nil, oomScore), 0)
		},
	} {
		if err := try(); err != nil {
			log.Warn("healing a volume when memory is short may fail", "cannot", what, "err", err)
		}
	}
}

// beFlusher sets PR_SET_IO_FLUSHER (Linux 5.6) on every thread; those made later
// inherit it.
func beFlusher() error {
	_, _, errno := syscall.AllThreadsSyscall6(syscall.SYS_PRCTL, unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
