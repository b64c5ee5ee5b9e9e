//go:build linux

package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/test/vm/internal/wire"
)

// outputGrace is how long output is still read after a program has ended but left its output to a child.
const outputGrace = time.Second

// command prepares a program in a session of its own, so that it can be signalled with all its children.
func command(req wire.Request) (*exec.Cmd, error) {
	if len(req.Argv) == 0 {
		return nil, errors.New("no program named")
	}
	cmd := exec.Command(req.Argv[0], req.Argv[1:]...)
	cmd.Env = append([]string{"PATH=" + searchPath, "HOME=/root", "LC_ALL=C", "TERM=dumb", "USER=root"}, req.Env...)
	cmd.Dir = req.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd, nil
}

// run carries out an exec request. It returns when the program has ended.
func run(c *call) (wire.Result, error) {
	cmd, err := command(c.Request)
	if err != nil {
		return wire.Result{}, err
	}
	cmd.Stdout, cmd.Stderr = c.Writer(wire.Data), c.Writer(wire.Stderr)
	cmd.WaitDelay = outputGrace
	var stdin io.WriteCloser
	if c.Stdin {
		if stdin, err = cmd.StdinPipe(); err != nil {
			return wire.Result{}, err
		}
	}
	if err := start(cmd); err != nil {
		return wire.Result{}, err
	}
	c.watch(feed(stdin))
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-c.gone:
			_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) // ESRCH when all have ended
		case <-ended:
		}
	}()
	return exitResult(cmd, cmd.Wait())
}

// feed returns what passes frames on to a program, as long as it reads.
func feed(stdin io.WriteCloser) func(wire.FrameType, []byte) {
	return func(t wire.FrameType, payload []byte) {
		if stdin == nil {
			return
		}
		var err error
		if t == wire.Data {
			_, err = stdin.Write(payload)
		}
		if t == wire.EOF || err != nil {
			_ = stdin.Close() // a program that reads no more is within its rights
			stdin = nil
		}
	}
}

// exitResult turns what Wait returned into a Result; ending with a non-zero code is no error of the request.
func exitResult(cmd *exec.Cmd, err error) (wire.Result, error) {
	if cmd.ProcessState == nil {
		return wire.Result{}, fmt.Errorf("wait for %s: %w", cmd.Path, err)
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok {
		return wire.Result{}, fmt.Errorf("%s: unknown kind of exit status", cmd.Path)
	}
	res := wire.Result{Pid: cmd.ProcessState.Pid(), Exit: status.ExitStatus()}
	if status.Signaled() {
		res.Exit = 128 + int(status.Signal())
	}
	return res, nil
}

// proc is a program in the background.
type proc struct {
	pid  int
	done chan struct{} // closed when it has ended; res is set before
	res  wire.Result
}

func (s *Server) start(req wire.Request) (wire.Result, error) {
	cmd, err := command(req)
	if err != nil {
		return wire.Result{}, err
	}
	if err := os.MkdirAll(s.logDir, 0o755); err != nil {
		return wire.Result{}, err
	}
	log, err := os.OpenFile(filepath.Join(s.logDir, req.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return wire.Result{}, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := start(cmd); err != nil {
		return wire.Result{}, err
	}
	p := &proc{pid: cmd.Process.Pid, done: make(chan struct{})}
	s.mu.Lock()
	s.lastID++
	id := s.lastID
	s.procs[id] = p
	s.mu.Unlock()
	go func() {
		defer close(p.done)
		res, err := exitResult(cmd, cmd.Wait())
		if err != nil {
			res = failure(err)
		}
		p.res = res
	}()
	return wire.Result{ID: id, Pid: p.pid}, nil
}

func (s *Server) find(id int) (*proc, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.procs[id]
	if !ok {
		return nil, fmt.Errorf("no program was started under id %d", id)
	}
	return p, nil
}

// signal reaches the whole process group. A program that has ended is left in peace: its group may be another's.
func (s *Server) signal(req wire.Request) (wire.Result, error) {
	p, err := s.find(req.ID)
	if err != nil {
		return wire.Result{}, err
	}
	select {
	case <-p.done:
		return wire.Result{}, unix.ESRCH
	default:
	}
	if err := unix.Kill(-p.pid, syscall.Signal(req.Signal)); err != nil {
		return wire.Result{}, err
	}
	return wire.Result{Pid: p.pid}, nil
}

func (s *Server) status(req wire.Request) (wire.Result, error) {
	p, err := s.find(req.ID)
	if err != nil {
		return wire.Result{}, err
	}
	select {
	case <-p.done:
		return p.res, nil
	default:
		return wire.Result{Pid: p.pid, Running: true}, nil
	}
}

// wait answers when the program has ended, or gives up with the connection.
func (s *Server) wait(c *call) (wire.Result, error) {
	p, err := s.find(c.ID)
	if err != nil {
		return wire.Result{}, err
	}
	select {
	case <-p.done:
		return p.res, nil
	case <-c.ended():
		return wire.Result{}, errors.New("the harness stopped waiting")
	}
}
