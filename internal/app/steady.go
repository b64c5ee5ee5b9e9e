package app

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// oomScore is what the kubelet gives itself and containerd: the last to be
// killed but for what must never be.
const oomScore = -999

// niceness is the highest priority of those that share: what is done here is little
// and everything else waits for it (setpriority(2)).
const niceness = -20

// steady makes the process one that can heal a volume while the node is out of
// memory or of processors: what it has in memory stays there, the kernel serves its
// requests for memory without waiting for writes that may wait for this very
// process, it is not what is killed first, and it is the first to compute: once a
// storage host is back, all that has waited for it begins at once. Where the machine
// does not allow one of them, the others still help.
//
// This is the part that is done before anything touches a device: what is set on
// every thread waits for every thread, and one may be waiting for a device.
func steady(log *slog.Logger) {
	attempt(log, "be an I/O flusher", beFlusher)
	attempt(log, "raise the priority", beFirst)
	attempt(log, "lower the OOM score", func() error { return os.WriteFile("/proc/self/oom_score_adj", fmt.Append(nil, oomScore), 0) })
}

// settle is the part of it that is done once the process has started.
func settle(log *slog.Logger) {
	attempt(log, "let go of what only the start needed", shed)
	attempt(log, "lock memory", lockMemory)
}

func attempt(log *slog.Logger, what string, try func() error) {
	if err := try(); err != nil {
		log.Warn("healing a volume while the node is in trouble may take longer, or fail", "cannot", what, "err", err)
	}
}

// lockMemory keeps in memory what is there and what is touched from now on.
// Pages that are never touched are not brought in: the runtime reserves far more
// than it uses (MCL_ONFAULT, Linux 4.4).
func lockMemory() error {
	return unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
}

// beFlusher sets PR_SET_IO_FLUSHER (Linux 5.6) on every thread; those made later
// inherit it.
func beFlusher() error {
	return onAllThreads(syscall.SYS_PRCTL, unix.PR_SET_IO_FLUSHER, 1, 0)
}

// onAllThreads makes a system call on each thread; what it leaves out is zero.
func onAllThreads(trap, a, b, c uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall6(trap, a, b, c, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// beFirst sets the priority of every thread; those made later inherit it. Programs
// that are run do not keep it: see internal/command.
func beFirst() error {
	nice := niceness
	return onAllThreads(syscall.SYS_SETPRIORITY, unix.PRIO_PROCESS, 0, uintptr(nice))
}

// shed gives the garbage of the start back, and the pages of the program that
// the start alone has used: locked, they would stay for ever. What is needed again
// comes back from the page cache.
func shed() error {
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	for _, r := range textRanges(string(maps), exe) {
		_, _, errno := unix.Syscall(unix.SYS_MADVISE, r.from, r.to-r.from, unix.MADV_DONTNEED)
		if errno != 0 {
			err = errors.Join(err, errno)
		}
	}
	return err
}

type addresses struct{ from, to uintptr }

// textRanges finds the read-only mappings of a file in /proc/PID/maps (proc(5)):
// nothing in them can have been changed.
func textRanges(maps, file string) (out []addresses) {
	s := bufio.NewScanner(strings.NewReader(maps))
	for s.Scan() {
		var r addresses
		var mode, offset, dev, inode, path string
		if n, _ := fmt.Sscanf(s.Text(), "%x-%x %s %s %s %s %s", &r.from, &r.to, &mode, &offset, &dev, &inode, &path); n == 7 && path == file && mode[1] == '-' {
			out = append(out, r)
		}
	}
	return out
}
