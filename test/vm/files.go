//go:build linux

package vm

import (
	"bytes"
	"context"
	"fmt"
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
	_, err = io.Copy(c.Writer(wire.Data), content)
	if err == nil {
		err = c.WriteFrame(wire.EOF, nil)
	}
	// A machine that refuses says so and closes, which breaks the sending: what it says is the better error.
	if _, resErr := m.finish(ctx, c, op, io.Discard, io.Discard); resErr != nil {
		return resErr
	}
	if err != nil {
		return fmt.Errorf("machine %s: %s: %w", m.cfg.Name, op, err)
	}
	return nil
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
