package ack

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// Writer writes blocks at random places and reports each one after the
// operating system has said that it is on disk.
type Writer struct {
	Path   string
	Writer uint64        // identifies the writer in every block
	Blocks uint64        // size of the area, in blocks
	Pause  time.Duration // between writes
	Direct bool          // O_DIRECT|O_DSYNC; else through the page cache with fdatasync
	// Report gets the lines that Log.Read takes, flushed after each.
	Report io.Writer
}

// Run writes until ctx ends. An error of a write is reported and the writer
// goes on after a second, as a database would.
func (w Writer) Run(ctx context.Context) error {
	flags := os.O_RDWR
	if w.Direct {
		flags |= syscall.O_DIRECT | syscall.O_DSYNC
	} else {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(w.Path, flags, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	out := bufio.NewWriter(w.Report)
	buf := aligned(BlockSize)
	random := rand.New(rand.NewPCG(w.Writer, 1))
	for seq := uint64(1); ctx.Err() == nil; seq++ {
		at := random.Uint64N(w.Blocks)
		Fill(buf, w.Writer, at, seq)
		if err := w.write(f, buf, at); err != nil {
			fmt.Fprintf(out, "e %d %v\n", seq, err)
			sleep(ctx, time.Second)
		} else {
			fmt.Fprintf(out, "a %d %d\n", seq, at)
		}
		if err := out.Flush(); err != nil {
			return err
		}
		sleep(ctx, w.Pause)
	}
	return nil
}

func (w Writer) write(f *os.File, buf []byte, at uint64) error {
	if _, err := f.WriteAt(buf, int64(at)*BlockSize); err != nil {
		return err
	}
	if w.Direct {
		return nil
	}
	return syscall.Fdatasync(int(f.Fd()))
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func aligned(size int) []byte {
	raw := make([]byte, size+BlockSize)
	skip := int(-uintptr(unsafe.Pointer(&raw[0])) & (BlockSize - 1))
	return raw[skip : skip+size]
}
