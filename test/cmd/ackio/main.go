// Command ackio writes blocks and reports on standard output which of them were
// acknowledged (package ack), until it is told to stop. Or it reads them back.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/holdfast-csi/holdfast/test/ack"
)

func main() { os.Exit(status()) }

func status() int {
	path := flag.String("path", "", "file or device to write")
	writer := flag.Uint64("writer", 1, "number of the writer, part of every block")
	blocks := flag.Uint64("blocks", 1024, "size of the area in blocks of 4096 bytes")
	pause := flag.Duration("pause", 10*time.Millisecond, "pause between writes")
	direct := flag.Bool("direct", false, "write past the page cache")
	dump := flag.Bool("dump", false, "write nothing; print what is there, for ack.Undump, and all of it with -blocks 0")
	flag.Parse()
	if *dump {
		if err := ack.Dump(os.Stdout, *path, *blocks); err != nil {
			fmt.Fprintln(os.Stderr, "ackio:", err)
			return 1
		}
		return 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	w := ack.Writer{Path: *path, Writer: *writer, Blocks: *blocks, Pause: *pause, Direct: *direct, Report: os.Stdout}
	if err := w.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "ackio:", err)
		return 1
	}
	return 0
}
