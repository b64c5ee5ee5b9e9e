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

// put reads all that is sent in any case: an answer sent while the other side still sends could be lost.
func put(conn *wire.Conn, req wire.Request) error {
	w := &lazyWriter{open: func() (*os.File, error) { return createBeside(req.Path) }}
	if err := receive(conn, w); err != nil {
		w.abandon()
		return fmt.Errorf("receive %s: %w", req.Path, err)
	}
	return w.commit(req.Path, os.FileMode(req.Mode))
}

// createBeside makes a temporary file in the directory of path.
func createBeside(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return os.CreateTemp(filepath.Dir(path), ".put-*")
}

// lazyWriter writes to a file that it opens itself, and after an error swallows the rest.
type lazyWriter struct {
	open func() (*os.File, error)
	file *os.File
	err  error
}

func (w *lazyWriter) Write(p []byte) (int, error) {
	if w.file == nil && w.err == nil {
		w.file, w.err = w.open()
	}
	if w.err == nil {
		_, w.err = w.file.Write(p)
	}
	return len(p), nil
}

func (w *lazyWriter) abandon() {
	if w.file != nil {
		_ = w.file.Close()           // the error that led here is the one to report
		_ = os.Remove(w.file.Name()) // likewise
	}
}

// commit renames the file into place, so that a program being replaced goes on undisturbed.
func (w *lazyWriter) commit(path string, mode os.FileMode) error {
	_, _ = w.Write(nil) // an empty file is a file too; the error is kept
	if w.err == nil {
		w.err = w.file.Chmod(mode)
	}
	if w.err == nil {
		w.err = w.file.Close()
	}
	if w.err == nil {
		w.err = os.Rename(w.file.Name(), path)
	}
	if w.err != nil {
		w.abandon()
	}
	return w.err
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
func (s *Server) dial(conn *wire.Conn, req wire.Request) {
	target, err := net.DialTimeout(req.Network, req.Address, dialTimeout)
	if err != nil {
		_ = conn.WriteResult(failure(err)) // see Handle
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
