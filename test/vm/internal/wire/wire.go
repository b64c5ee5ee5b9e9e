// Package wire is the control protocol between the harness and the program that runs as init in a virtual machine.
//
// The machine dials the harness and parks the connection by sending one Hello line. The harness sends one Request line
// over a parked connection when it wants something done; from then on the connection belongs to that request. All that
// follows is frames: one byte of type, four bytes of big-endian length, the payload. Every request ends with one Result
// frame, except a successful dial, after whose Result the connection carries the dialled stream as it is.
//
// The package does not authenticate or encrypt: the token only tells machines and boots apart.
package wire

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// What a Request may ask for.
const (
	OpExec     = "exec"     // run a program with framed stdin, stdout and stderr; closing the connection kills it
	OpStart    = "start"    // run a program in the background, output appended to its log file
	OpSignal   = "signal"   // send a signal to the process group of a started program
	OpWait     = "wait"     // wait until a started program has ended
	OpStatus   = "status"   // tell whether a started program runs
	OpPut      = "put"      // write a file from Data frames up to EOF
	OpGet      = "get"      // send a file as Data frames
	OpDial     = "dial"     // connect to an address inside the machine
	OpPowerOff = "poweroff" // sync, unmount what can be unmounted, switch off
)

// Hello is the first line on every connection, sent by the machine.
type Hello struct {
	Token string `json:"token"`
}

// Request is the first line from the harness. Fields that an operation does not name are ignored by it.
type Request struct {
	Op      string   `json:"op"`
	Argv    []string `json:"argv,omitempty"`    // exec, start
	Env     []string `json:"env,omitempty"`     // exec, start: added to the machine's own environment
	Dir     string   `json:"dir,omitempty"`     // exec, start
	Stdin   bool     `json:"stdin,omitempty"`   // exec: Data frames up to EOF follow
	Name    string   `json:"name,omitempty"`    // start: names the log file
	ID      int      `json:"id,omitempty"`      // signal, wait, status: as returned by start
	Signal  int      `json:"signal,omitempty"`  // signal
	Path    string   `json:"path,omitempty"`    // put, get
	Mode    uint32   `json:"mode,omitempty"`    // put: permission bits
	Network string   `json:"network,omitempty"` // dial: "tcp" or "unix"
	Address string   `json:"address,omitempty"` // dial
}

// Result closes a request. An empty Error means that the request was carried out; Exit may be non-zero all the same.
type Result struct {
	Error   string `json:"error,omitempty"`
	Errno   int    `json:"errno,omitempty"` // of Error, when a system call was the cause
	Exit    int    `json:"exit,omitempty"`  // 128+N for a program ended by signal N, as a shell reports it
	ID      int    `json:"id,omitempty"`
	Pid     int    `json:"pid,omitempty"`
	Running bool   `json:"running,omitempty"`
}

// FrameType says what a frame carries.
type FrameType byte

// The types of frames.
const (
	Data   FrameType = 1 // stdin or file content towards the machine; stdout or file content from it
	Stderr FrameType = 2
	EOF    FrameType = 3 // no more Data in this direction
	Final  FrameType = 4 // a Result as JSON
)

// MaxPayload bounds one frame, so that a reader never allocates for a corrupt length.
const MaxPayload = 1 << 20

const maxLine = 1 << 20

// Conn reads and writes the protocol on one stream. Writes may come from several goroutines, reads from one.
type Conn struct {
	rw io.ReadWriteCloser
	r  *bufio.Reader

	mu sync.Mutex // keeps frames whole
}

// NewConn wraps a stream.
func NewConn(rw io.ReadWriteCloser) *Conn {
	return &Conn{rw: rw, r: bufio.NewReaderSize(rw, 64<<10)}
}

// Close closes the stream.
func (c *Conn) Close() error { return c.rw.Close() }

// WriteLine sends one JSON line (Hello or Request).
func (c *Conn) WriteLine(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %T: %w", v, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.rw.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("send %T: %w", v, err)
	}
	return nil
}

// ReadLine reads one JSON line.
func (c *Conn) ReadLine(v any) error {
	var line []byte
	for {
		part, err := c.r.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			break
		}
		if err != bufio.ErrBufferFull { // bufio returns it unwrapped
			return err
		}
		if len(line) > maxLine {
			return fmt.Errorf("line of over %d bytes", maxLine)
		}
	}
	if err := json.Unmarshal(line, v); err != nil {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	return nil
}

// WriteFrame sends one frame; a payload over MaxPayload is sent as several.
func (c *Conn) WriteFrame(t FrameType, payload []byte) error {
	for {
		part := payload[:min(len(payload), MaxPayload)]
		if err := c.writeFrame(t, part); err != nil {
			return err
		}
		payload = payload[len(part):]
		if len(payload) == 0 {
			return nil
		}
	}
}

func (c *Conn) writeFrame(t FrameType, payload []byte) error {
	buf := make([]byte, 5+len(payload))
	buf[0] = byte(t)
	binary.BigEndian.PutUint32(buf[1:], uint32(len(payload)))
	copy(buf[5:], payload)
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.rw.Write(buf)
	return err
}

// ReadFrame returns the next frame.
func (c *Conn) ReadFrame() (FrameType, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > MaxPayload {
		return 0, nil, fmt.Errorf("frame of %d bytes, limit is %d", n, MaxPayload)
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(c.r, payload); err != nil {
		return 0, nil, fmt.Errorf("frame cut short: %w", err)
	}
	return FrameType(head[0]), payload, nil
}

// WriteResult sends the closing frame.
func (c *Conn) WriteResult(res Result) error {
	payload, err := json.Marshal(res)
	if err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	return c.WriteFrame(Final, payload)
}

// Writer returns an io.Writer whose writes become frames of one type.
func (c *Conn) Writer(t FrameType) io.Writer { return frameWriter{c, t} }

type frameWriter struct {
	conn *Conn
	t    FrameType
}

func (w frameWriter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := w.conn.WriteFrame(w.t, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Raw returns the stream after the frames, including what has been read ahead.
func (c *Conn) Raw() (io.Reader, io.WriteCloser) { return c.r, c.rw }
