//go:build linux

package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/test/vm/internal/wire"
)

// Lines on the serial console that the harness looks for.
const (
	// ReadyLine tells that the machine is configured.
	ReadyLine = "vm-guest: ready"
	// ProbeLine tells that a machine without configuration booted, which is all that an accelerator has to prove.
	ProbeLine = "vm-guest: no configuration, switching off"
)

const workerArg = "worker"

const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Main runs the program in the role that its arguments name, and returns only in the role of the worker.
func Main(args []string) {
	if len(args) > 1 && args[1] == workerArg {
		milestone("worker: %v", work())
		os.Exit(1)
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "this program is the init of a test machine and does nothing elsewhere")
		os.Exit(2)
	}
	initMain()
}

// milestone prints to the serial console, with the time since the kernel started.
func milestone(format string, args ...any) {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail with a valid clock
	fmt.Fprintf(os.Stderr, "[%5d.%02d] vm-guest: %s\n", ts.Sec, ts.Nsec/1e7, fmt.Sprintf(format, args...))
}

// initMain is process 1. It never returns.
func initMain() {
	defer powerOff()
	defer func() {
		if r := recover(); r != nil {
			milestone("init panicked: %v", r)
		}
	}()
	os.Setenv("PATH", searchPath)
	if _, err := os.Stat(wire.ConfigPath); errors.Is(err, os.ErrNotExist) {
		fmt.Fprintln(os.Stderr, ProbeLine)
		return
	}
	if err := enterRoot(); err != nil {
		milestone("root: %v", err)
		return
	}
	worker, err := startWorker()
	if err != nil {
		milestone("start worker: %v", err)
		return
	}
	reap(worker)
}

func startWorker() (pid int, err error) {
	cmd := exec.Command("/init", workerArg)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	return cmd.Process.Pid, nil
}

// reap collects ended processes until the worker is among them.
func reap(worker int) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			milestone("wait: %v", err)
			return
		case pid == worker:
			milestone("worker ended: exit %d, signal %v", status.ExitStatus(), status.Signal())
			return
		}
	}
}

// powerOff switches the machine off as far as the kernel is able to.
func powerOff() {
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		milestone("power off: %v", err)
	}
	time.Sleep(time.Minute) // process 1 must not end before the power does
}

// work is the worker: configure, say so, serve.
func work() error {
	raw, err := os.ReadFile(wire.ConfigPath)
	if err != nil {
		return err
	}
	var cfg wire.Config
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return fmt.Errorf("decode %s: %w", wire.ConfigPath, err)
	}
	if err := configure(cfg); err != nil {
		return err
	}
	if err := keepFromOOM(); err != nil {
		return err
	}
	milestone("ready")
	go func() {
		loadModules(cfg.Later)
		milestone("the other modules are loaded")
	}()
	return NewServer(cfg, "/var/log").Serve()
}
