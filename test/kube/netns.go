//go:build linux

package kube

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// netns is a network namespace of this machine, in which the control plane runs, so
// that its ports and addresses clash with nobody's.
type netns struct {
	name string
	dir  string // logs of what runs in it
	all  []*process
}

const netnsPrefix = "holdfast-"

// newNetns makes one, and removes those whose test was killed.
func newNetns(ctx context.Context, dir string) (*netns, error) {
	old, _ := filepath.Glob("/run/netns/" + netnsPrefix + "*")
	for _, path := range old {
		name := filepath.Base(path)
		if pid, err := strconv.Atoi(strings.TrimPrefix(name, netnsPrefix)); err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = exec.Command("ip", "netns", "del", name).Run() // tidying only
		}
	}
	n := &netns{name: netnsPrefix + strconv.Itoa(os.Getpid()), dir: dir}
	if err := run(ctx, "ip", "netns", "add", n.name); err != nil {
		return nil, err
	}
	return n, n.ip(ctx, "link set lo up")
}

// ip runs ip(8) in the namespace.
func (n *netns) ip(ctx context.Context, words string) error {
	return run(ctx, "ip", append([]string{"-n", n.name}, strings.Fields(words)...)...)
}

func run(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// command is one to be run in the namespace. nsenter turns into it, so the signals
// that it gets are the command's.
func (n *netns) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=/run/netns/" + n.name, name}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// process is one that runs until it is told to stop.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{}
}

// start runs a program of the control plane, with a log beside the others.
func (n *netns) start(name, program string, args ...string) (*process, error) {
	log, err := os.OpenFile(filepath.Join(n.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the program has it
	p := &process{name: name, cmd: n.command(context.Background(), program, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }() // how it ended is in its log
	n.all = append(n.all, p)
	return p, nil
}

// ended says whether the process is gone.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stopTime is how long a program may take to end in order.
const stopTime = 5 * time.Second

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.done:
	case <-time.After(stopTime):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// close ends all programs, the last first, and removes the namespace.
func (n *netns) close() error {
	for i := len(n.all) - 1; i >= 0; i-- {
		n.all[i].stop()
	}
	return run(context.Background(), "ip", "netns", "del", n.name)
}
