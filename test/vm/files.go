//go:build linux

package vm

import (
	"bytes"
	"context"
	"io"
	"os"

	"github.com/holdfast-csi/holdfast/test/vm/internal/wire"
)

// Put copies a file of this machine into the virtual one. Directories are made; a file that is there is replaced whole.
func (m *Machine) Put(ctx context.Context, hostPath, guestPath string, mode os.FileMode) error {
	f, err := os.Open(hostPath)
	if err != nil {
		return err
	}
	defer f.Close()
	return m.put(ctx, f, guestPath, mode)
}

// PutBytes makes a file with the given content.
func (m *Machine) PutBytes(ctx context.Context, content []byte, guestPath string, mode os.FileMode) error {
	return m.put(ctx, bytes.NewReader(content), guestPath, mode)
}

func (m *Machine) put(ctx context.Context, content io.Reader, guestPath string, mode os.FileMode) error {
	op := "put " + guestPath
	ctx, cancel := bounded(ctx, runTimeout, op)
	defer cancel()
	c, release, err := m.open(ctx, wire.Request{Op: wire.OpPut, Path: guestPath, Mode: uint32(mode.Perm())})
	if err != nil {
		return err
	}
	defer release()
	if _, err = io.Copy(c.Writer(wire.Data), content); err == nil {
		err = c.WriteFrame(wire.EOF, nil)
	}
	if err != nil {
		return m.explain(ctx, op, err)
	}
	_, err = m.finish(ctx, c, op, io.Discard, io.Discard)
	return err
}

// Get returns the content of a file, also of one without a size as in /proc or /sys.
func (m *Machine) Get(ctx context.Context, guestPath string) ([]byte, error) {
	op := "get " + guestPath
	ctx, cancel := bounded(ctx, runTimeout, op)
	defer cancel()
	c, release, err := m.open(ctx, wire.Request{Op: wire.OpGet, Path: guestPath})
	if err != nil {
		return nil, err
	}
	defer release()
	var content bytes.Buffer
	if _, err := m.finish(ctx, c, op, &content, io.Discard); err != nil {
		return nil, err
	}
	return content.Bytes(), nil
}
