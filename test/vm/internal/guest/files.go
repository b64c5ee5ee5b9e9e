//go:build linux

package guest

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"github.com/holdfast-csi/holdfast/test/vm/internal/wire"
)

// put writes beside the target and renames, so that a program being replaced goes on undisturbed.
func put(conn *wire.Conn, req wire.Request) error {
	if err := os.MkdirAll(filepath.Dir(req.Path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(req.Path), ".put-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after the rename, as it should
	if err := receive(conn, f); err != nil {
		f.Close()
		return fmt.Errorf("receive %s: %w", req.Path, err)
	}
	if err := f.Chmod(os.FileMode(req.Mode)); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), req.Path)
}

func receive(conn *wire.Conn, w io.Writer) error {
	for {
		t, payload, err := conn.ReadFrame()
		if err != nil {
			return err
		}
		if t == wire.EOF {
			return nil
		}
		if _, err := w.Write(payload); err != nil {
			return err
		}
	}
}

func get(conn *wire.Conn, req wire.Request) error {
	f, err := os.Open(req.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	// Not io.Copy into the connection's own ReadFrom: files of proc and sysfs have no size and want plain reads.
	_, err = io.Copy(struct{ io.Writer }{conn.Writer(wire.Data)}, struct{ io.Reader }{f})
	return err
}

// dial connects to an address in the machine and makes the connection carry the stream.
func (s *server) dial(conn *wire.Conn, req wire.Request) {
	target, err := net.DialTimeout(req.Network, req.Address, dialTimeout)
	if err != nil {
		_ = conn.WriteResult(failure(err)) // see handle
		return
	}
	defer target.Close()
	if err := conn.WriteResult(wire.Result{}); err != nil {
		return
	}
	r, w := conn.Raw()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(target, r) // an error here is the end of the stream, which the other side sees
		closeWrite(target)
	}()
	_, _ = io.Copy(w, target)
	closeWrite(w)
	<-done
}

// closeWrite ends one direction only, so that what is under way in the other still arrives.
func closeWrite(c io.Closer) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // fails on a broken connection, which is then closed anyway
		return
	}
	_ = c.Close()
}
