package wire

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
)

func pair(t *testing.T) (a, b *Conn) {
	t.Helper()
	x, y := net.Pipe()
	t.Cleanup(func() { x.Close(); y.Close() })
	return NewConn(x), NewConn(y)
}

func TestLinesThenFrames(t *testing.T) {
	a, b := pair(t)
	big := bytes.Repeat([]byte("payload "), MaxPayload/4)
	go func() {
		_ = a.WriteLine(Request{Op: OpExec, Argv: []string{"a", "line\nbreak"}, Stdin: true})
		_ = a.WriteFrame(Data, big)
		_ = a.WriteFrame(EOF, nil)
		_ = a.WriteResult(Result{Exit: 3})
		_, w := a.Raw()
		_, _ = w.Write([]byte("raw"))
		_ = a.Close()
	}()
	var req Request
	if err := b.ReadLine(&req); err != nil || req.Op != OpExec || req.Argv[1] != "line\nbreak" || !req.Stdin {
		t.Fatalf("request %+v, %v", req, err)
	}
	var got []byte
	frames := 0
	for {
		kind, payload, err := b.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if kind == EOF {
			break
		}
		got = append(got, payload...)
		frames++
	}
	if !bytes.Equal(got, big) || frames != 2 {
		t.Errorf("%d bytes in %d frames", len(got), frames)
	}
	if kind, payload, err := b.ReadFrame(); err != nil || kind != Final || string(payload) != `{"exit":3}` {
		t.Errorf("result %d %s %v", kind, payload, err)
	}
	r, _ := b.Raw()
	if rest, err := io.ReadAll(r); err != nil || string(rest) != "raw" {
		t.Errorf("rest %q, %v", rest, err)
	}
}

func TestCorrupt(t *testing.T) {
	for name, input := range map[string][]byte{
		"huge frame":  binary.BigEndian.AppendUint32([]byte{byte(Data)}, MaxPayload+1),
		"short frame": append(binary.BigEndian.AppendUint32([]byte{byte(Data)}, 10), 'x'),
		"no frame":    {},
	} {
		c := NewConn(struct {
			io.Reader
			io.WriteCloser
		}{bytes.NewReader(input), nil})
		if _, _, err := c.ReadFrame(); err == nil {
			t.Errorf("%s: no error", name)
		}
		if err := c.ReadLine(&Request{}); err == nil {
			t.Errorf("%s: read as a line", name)
		}
	}
	endless := NewConn(struct {
		io.Reader
		io.WriteCloser
	}{zeroes{}, nil})
	if err := endless.ReadLine(&Request{}); err == nil {
		t.Error("a line without end: no error")
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 1, 'x'})
	f.Fuzz(func(t *testing.T, input []byte) {
		c := NewConn(struct {
			io.Reader
			io.WriteCloser
		}{bytes.NewReader(input), nil})
		for {
			_, payload, err := c.ReadFrame()
			if err != nil {
				return
			}
			if len(payload) > len(input) {
				t.Fatal("more payload than input")
			}
		}
	})
}
