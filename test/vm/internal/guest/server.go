//go:build linux

package guest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/test/vm/internal/wire"
)

const (
	// parked is how many connections wait for requests; more requests at once wait for a dial.
	parked      = 4
	dialTimeout = 5 * time.Second
	dialPause   = 200 * time.Millisecond
)

type server struct {
	token   string
	control string

	mu     sync.Mutex
	procs  map[int]*proc // guarded by mu
	lastID int           // guarded by mu
}

func newServer(cfg wire.Config) *server {
	return &server{token: cfg.Token, control: cfg.Control, procs: make(map[int]*proc)}
}

// serve parks connections for ever.
func (s *server) serve() error {
	var wg sync.WaitGroup
	for range parked {
		wg.Go(s.park)
	}
	wg.Wait()
	return errors.New("no goroutine serves any more")
}

// park keeps one connection waiting for a request at all times, and hands each that gets one to a goroutine of its own.
func (s *server) park() {
	for {
		conn, req, err := s.await()
		if err != nil {
			time.Sleep(dialPause)
			continue
		}
		go s.handle(conn, req)
	}
}

func (s *server) await() (*wire.Conn, wire.Request, error) {
	raw, err := net.DialTimeout("tcp", s.control, dialTimeout)
	if err != nil {
		return nil, wire.Request{}, err
	}
	conn := wire.NewConn(raw)
	var req wire.Request
	if err := conn.WriteLine(wire.Hello{Token: s.token}); err == nil {
		err = conn.ReadLine(&req)
		if err == nil {
			return conn, req, nil
		}
	}
	conn.Close()
	return nil, wire.Request{}, errors.New("connection closed before a request")
}

// handle carries out one request and sends its Result.
func (s *server) handle(conn *wire.Conn, req wire.Request) {
	defer conn.Close()
	if req.Op == wire.OpDial {
		s.dial(conn, req)
		return
	}
	res, err := s.do(conn, req)
	if err != nil {
		res = failure(err)
	}
	_ = conn.WriteResult(res) // the harness may be gone, and nobody else wants to know
}

func (s *server) do(conn *wire.Conn, req wire.Request) (wire.Result, error) {
	switch req.Op {
	case wire.OpExec:
		return run(conn, req)
	case wire.OpStart:
		return s.start(req)
	case wire.OpSignal:
		return s.signal(req)
	case wire.OpWait:
		return s.wait(conn, req)
	case wire.OpStatus:
		return s.status(req)
	case wire.OpPut:
		return wire.Result{}, put(conn, req)
	case wire.OpGet:
		return wire.Result{}, get(conn, req)
	case wire.OpPowerOff:
		return wire.Result{}, shutDown()
	default:
		return wire.Result{}, fmt.Errorf("operation %q is not known", req.Op)
	}
}

// failure keeps the errno, so that the harness can give back an error that errors.Is understands.
func failure(err error) wire.Result {
	res := wire.Result{Error: err.Error()}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		res.Errno = int(errno)
	}
	return res
}

// shutDown stops programs and puts the data disk into order; the power goes a moment later, so that the answer gets out.
func shutDown() error {
	milestone("shutting down")
	stopAll(unix.SIGTERM)
	time.Sleep(100 * time.Millisecond)
	stopAll(unix.SIGKILL)
	unix.Sync()
	if err := unix.Unmount("/data", 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		milestone("unmount /data: %v", err)
	}
	go func() {
		time.Sleep(50 * time.Millisecond)
		powerOff()
	}()
	return nil
}

// stopAll signals every process but this one and its parent, process 1. kill(-1) would spare only the caller.
func stopAll(sig unix.Signal) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		milestone("list processes: %v", err)
		return
	}
	for _, e := range entries {
		var pid int
		if n, _ := fmt.Sscanf(e.Name(), "%d", &pid); n == 1 && pid > 1 && pid != os.Getpid() {
			_ = unix.Kill(pid, sig) // kernel threads ignore it, and the process may be gone
		}
	}
}
