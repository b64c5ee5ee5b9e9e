//go:build linux

package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// startTimeout covers QEMU coming up as far as its monitor.
const startTimeout = 20 * time.Second

// Process is a running QEMU. It dies with the process that started it.
type Process struct {
	cmd    *exec.Cmd
	qmp    *monitor
	stderr tailBuffer
	done   chan struct{} // closed after the end
}

// Start runs QEMU. The serial console goes to console, from a goroutine of its own, until the process has ended. The files
// in the config are closed in every case.
func Start(ctx context.Context, cfg Config, console io.Writer) (*Process, error) {
	defer cfg.closeFiles()
	ours, theirs, err := SocketPair("qmp")
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	argv, files := cfg.args(theirs)
	p := &Process{done: make(chan struct{})}
	p.cmd = exec.Command(program, argv...)
	p.cmd.Stdout, p.cmd.Stderr = console, &p.stderr
	p.cmd.ExtraFiles = files
	p.cmd.WaitDelay = time.Second
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := p.spawn(); err != nil {
		ours.Close()
		return nil, fmt.Errorf("start %s for %s: %w", program, cfg.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if p.qmp, err = newMonitor(ctx, ours); err != nil {
		p.Kill()
		return nil, fmt.Errorf("monitor of %s: %w; QEMU says: %s", cfg.Name, err, p.Stderr())
	}
	return p, nil
}

// spawn starts and waits on a locked thread: the kernel sends the death signal when the thread that forked ends, not when
// the process does.
func (p *Process) spawn() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = p.cmd.Wait() // how it ended is in what it printed
		close(p.done)
	}()
	return <-started
}

// Done is closed when QEMU has ended, whatever the reason.
func (p *Process) Done() <-chan struct{} { return p.done }

// Kill ends QEMU at once and waits for the end.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // fails only when it has ended
	<-p.done
	if p.qmp != nil {
		p.qmp.close()
	}
}

// Stderr returns the end of what QEMU complained about.
func (p *Process) Stderr() string { return strings.TrimSpace(p.stderr.String()) }

// Continue lets a machine that was started paused run.
func (p *Process) Continue(ctx context.Context) error { return p.qmp.execute(ctx, "cont", nil) }

// SetLink plugs or unplugs a network card's cable, which the guest sees as its carrier.
func (p *Process) SetLink(ctx context.Context, nic string, up bool) error {
	return p.qmp.execute(ctx, "set_link", map[string]any{"name": nic, "up": up})
}

// SocketPair returns two connected stream sockets. The second is for a child to inherit.
func SocketPair(name string) (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair for %s: %w", name, err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil { // so that Go's poller serves it and Close interrupts a read
		return nil, nil, errors.Join(err, unix.Close(fds[0]), unix.Close(fds[1]))
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name+" (machine)"), nil
}

func (c Config) closeFiles() {
	for _, nic := range c.NICs {
		nic.Cable.Close()
	}
	if c.Disk != nil && c.Disk.NBD != nil {
		c.Disk.NBD.Close()
	}
}

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct {
	mu  sync.Mutex
	buf []byte
}

const tailLen = 8 << 10

func (b *tailBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf = append(b.buf, p...)
	if len(b.buf) > 2*tailLen {
		b.buf = append(b.buf[:0], b.buf[len(b.buf)-tailLen:]...)
	}
	return len(p), nil
}

func (b *tailBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.buf)
}
