//go:build linux

package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestArgs(t *testing.T) {
	qmp, a, b, disk := os.NewFile(100, "qmp"), os.NewFile(101, "a"), os.NewFile(102, "b"), os.NewFile(103, "disk")
	cfg := Config{
		Name: "m", Accel: "tcg", CPUs: 3, MemoryMiB: 512, Kernel: "k", Initrd: "i", Append: []string{"x=y"}, MgmtMAC: "mm",
		NICs: []NIC{{"lan0", "m0", a}, {"lan1", "m1", b}}, Disk: &Disk{NBD: disk}, Paused: true,
	}
	argv, files := cfg.args(qmp)
	if !slices.Equal(files, []*os.File{qmp, a, b, disk}) {
		t.Errorf("files %v", files)
	}
	line := strings.Join(argv, " ")
	for _, want := range []string{
		"-accel tcg,thread=single", "-smp 3", "-m 512", "fd=3 -mon chardev=qmp", "socket,id=lan0,fd=4", "socket,id=lan1,fd=5",
		"mac=m1", "server.type=fd,discard=unmap,server.str=6", " x=y", "-S",
	} {
		if !strings.Contains(line, want) {
			t.Errorf("no %q in %s", want, line)
		}
	}
	cfg = Config{Accel: "kvm", Disk: &Disk{File: "/a,b"}}
	argv, _ = cfg.args(qmp)
	line = strings.Join(argv, " ")
	for _, want := range []string{"-accel kvm -cpu host", "filename=/a,,b"} {
		if !strings.Contains(line, want) {
			t.Errorf("no %q in %s", want, line)
		}
	}
	if strings.Contains(line, "-netdev") || strings.Contains(line, "-S") {
		t.Errorf("network or pause not asked for: %s", line)
	}
}

// fakeMonitor answers like QEMU: it greets, sends events in between, and refuses the command "bad".
func fakeMonitor(t *testing.T) *os.File {
	t.Helper()
	ours, theirs, err := SocketPair("test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	go func() {
		defer theirs.Close()
		fmt.Fprintln(theirs, `{"QMP": {"version": {}}}`)
		scanner := bufio.NewScanner(theirs)
		for scanner.Scan() {
			var cmd struct{ Execute string }
			if json.Unmarshal(scanner.Bytes(), &cmd) != nil || cmd.Execute == "quit" {
				return
			}
			fmt.Fprintln(theirs, `{"event": "RESUME", "data": {}}`)
			if cmd.Execute == "bad" {
				fmt.Fprintln(theirs, `{"error": {"class": "GenericError", "desc": "no such thing"}}`)
				continue
			}
			if cmd.Execute != "silent" {
				fmt.Fprintln(theirs, `{"return": {}}`)
			}
		}
	}()
	return ours
}

func TestMonitor(t *testing.T) {
	m, err := newMonitor(t.Context(), fakeMonitor(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.execute(t.Context(), "set_link", map[string]any{"name": "lan0", "up": false}); err != nil {
		t.Error(err)
	}
	if err := m.execute(t.Context(), "bad", nil); err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("a command that is refused: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := m.execute(ctx, "silent", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no answer: %v", err)
	}
	if err := m.execute(t.Context(), "quit", nil); err == nil {
		t.Error("the monitor is gone: no error")
	}
}

func TestForcedAccel(t *testing.T) {
	for value, good := range map[string]bool{"tcg": true, "tcg-multi": true, "kvm": true, "hvf": false} {
		t.Setenv("HOLDFAST_VM_ACCEL", value)
		got, err := Accel(t.Context(), t.TempDir(), "", "", "")
		if (err == nil) != good || good && got != value {
			t.Errorf("%s: got %q, %v", value, got, err)
		}
	}
}

func TestTailBuffer(t *testing.T) {
	var b tailBuffer
	for range 1000 {
		_, _ = b.Write([]byte(strings.Repeat("x", 100)))
	}
	_, _ = b.Write([]byte("the end"))
	if got := b.String(); len(got) > 2*tailLen || !strings.HasSuffix(got, "the end") {
		t.Errorf("%d bytes, ends in %q", len(got), got[len(got)-10:])
	}
}
