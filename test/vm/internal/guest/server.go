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
	// lingerTimeout bounds the wait for the harness to close.
	lingerTimeout = 5 * time.Second
)

// Server carries out the requests of the harness.
type Server struct {
	token   string
	control string
	logDir  string // of started programs

	mu     sync.Mutex
	procs  map[int]*proc // guarded by mu
	lastID int           // guarded by mu
}

// NewServer makes a Server that keeps the outputs of started programs in logDir.
func NewServer(cfg wire.Config, logDir string) *Server {
	return &Server{token: cfg.Token, control: cfg.Control, logDir: logDir, procs: make(map[int]*proc)}
}

// Serve dials the harness and parks connections for ever.
func (s *Server) Serve() error {
	var wg sync.WaitGroup
	for range parked {
		wg.Go(s.park)
	}
	wg.Wait()
	return errors.New("no goroutine serves any more")
}

// park keeps one connection waiting for a request at all times, and hands each that gets one to a goroutine of its own.
func (s *Server) park() {
	for {
		conn, req, err := s.await()
		if err != nil {
			time.Sleep(dialPause)
			continue
		}
		go s.Handle(conn, req)
	}
}

func (s *Server) await() (*wire.Conn, wire.Request, error) {
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

// Handle carries out one request, sends its Result and closes the connection.
func (s *Server) Handle(conn *wire.Conn, req wire.Request) {
	defer conn.Close()
	if req.Op == wire.OpDial {
		s.dial(conn, req)
		return
	}
	c := &call{Conn: conn, Request: req}
	res, err := s.do(c)
	if err != nil {
		res = failure(err)
	}
	if conn.WriteResult(res) != nil {
		return // the harness is gone, and nobody else wants to know
	}
	// The harness closes when it has the Result. Closing first could lose it: data that then still arrives, such as input
	// that the program did not read, makes the kernel reset the connection.
	select {
	case <-c.ended():
	case <-time.After(lingerTimeout):
	}
}

// call is a request being carried out.
type call struct {
	*wire.Conn
	wire.Request
	gone chan struct{} // closed when the harness has closed the connection; nil until somebody reads
}

// ended reads what still comes, if nobody does so yet.
func (c *call) ended() <-chan struct{} {
	if c.gone == nil {
		c.watch(func(wire.FrameType, []byte) {})
	}
	return c.gone
}

// watch hands all further frames to each, from a goroutine that ends with the connection.
func (c *call) watch(each func(wire.FrameType, []byte)) {
	c.gone = make(chan struct{})
	go func() {
		defer close(c.gone)
		for {
			t, payload, err := c.ReadFrame()
			if err != nil {
				return
			}
			each(t, payload)
		}
	}()
}

func (s *Server) do(c *call) (wire.Result, error) {
	switch c.Op {
	case wire.OpExec:
		return run(c)
	case wire.OpStart:
		return s.start(c.Request)
	case wire.OpSignal:
		return s.signal(c.Request)
	case wire.OpWait:
		return s.wait(c)
	case wire.OpStatus:
		return s.status(c.Request)
	case wire.OpPut:
		return wire.Result{}, put(c.Conn, c.Request)
	case wire.OpGet:
		return wire.Result{}, get(c.Conn, c.Request)
	case wire.OpPowerOff:
		return wire.Result{}, shutDown()
	default:
		return wire.Result{}, fmt.Errorf("operation %q is not known", c.Op)
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
