//go:build linux

package qemu

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// probeTimeout is what a kernel gets to boot with KVM; where KVM works, two seconds are enough.
const probeTimeout = 8 * time.Second

// Accel says which accelerator to use: what HOLDFAST_VM_ACCEL says, or kvm where a guest was seen to boot with it, or tcg.
// A /dev/kvm that opens proves nothing: there are machines on which every guest then hangs. The verdict is kept in dir.
// kernel and initrd make a machine that prints line.
func Accel(ctx context.Context, dir, kernel, initrd, line string) (string, error) {
	switch forced := os.Getenv("HOLDFAST_VM_ACCEL"); forced {
	case "tcg", "tcg-multi", "kvm":
		return forced, nil
	case "":
	default:
		return "", fmt.Errorf("HOLDFAST_VM_ACCEL=%s: must be tcg, tcg-multi or kvm", forced)
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return "tcg", nil
	}
	f.Close()
	verdict := filepath.Join(dir, "accel-"+hostRelease())
	if known, err := os.ReadFile(verdict); err == nil {
		return strings.TrimSpace(string(known)), nil
	}
	accel := "tcg"
	if boots(ctx, kernel, initrd, line) {
		accel = "kvm"
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	return accel, os.WriteFile(verdict, []byte(accel+"\n"), 0o644)
}

// hostRelease keys the verdict: another host kernel is another machine as far as KVM goes.
func hostRelease() string {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(uts.Release[:])
}

func boots(ctx context.Context, kernel, initrd, line string) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	console := &watcher{want: []byte(line), seen: make(chan struct{})}
	p, err := Start(ctx, Config{
		Name: "probe", Accel: "kvm", CPUs: 1, MemoryMiB: 256, Kernel: kernel, Initrd: initrd,
	}, console)
	if err != nil {
		return false
	}
	defer p.Kill()
	select {
	case <-console.seen:
		return true
	case <-p.Done():
		return false
	case <-ctx.Done():
		return false
	}
}

// watcher waits for a line on a console.
type watcher struct {
	want []byte
	seen chan struct{}
	once sync.Once
	buf  []byte
}

func (w *watcher) Write(p []byte) (int, error) {
	w.buf = append(w.buf, p...)
	if bytes.Contains(w.buf, w.want) {
		w.once.Do(func() { close(w.seen) })
	}
	return len(p), nil
}
