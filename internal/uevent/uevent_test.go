package uevent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// event joins an event as the kernel sends it: each part ended by a zero.
func event(parts ...string) []byte { return []byte(strings.Join(parts, "\x00") + "\x00") }

// Events as the kernel sends them, and whether they are of interest.
var (
	connected = event("change@/devices/virtual/nvme-fabrics/ctl/nvme0", "ACTION=change", "DEVPATH=/devices/virtual/nvme-fabrics/ctl/nvme0",
		"SUBSYSTEM=nvme", "NVME_EVENT=connected", "MAJOR=239", "MINOR=0", "DEVNAME=nvme0", "NVME_TRTYPE=tcp",
		"NVME_TRADDR=192.0.2.1", "NVME_TRSVCID=4420", "NVME_HOST_TRADDR=none", "NVME_HOST_IFACE=none", "SEQNUM=4711")
	link = event("add@/devices/virtual/net/veth0", "ACTION=add", "DEVPATH=/devices/virtual/net/veth0", "SUBSYSTEM=net",
		"INTERFACE=veth0", "IFINDEX=7", "SEQNUM=4712")
)

func TestMatters(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		event []byte
		want  bool
	}{
		"controller connected":          {connected, true},
		"controller added":              {event("add@/devices/virtual/nvme-fabrics/ctl/nvme0", "ACTION=add", "SUBSYSTEM=nvme", "DEVNAME=nvme0", "NVME_TRTYPE=tcp", "SEQNUM=1"), true},
		"controller removed":            {event("remove@/devices/virtual/nvme-fabrics/ctl/nvme0", "ACTION=remove", "SUBSYSTEM=nvme", "DEVNAME=nvme0", "SEQNUM=2"), true},
		"asynchronous event":            {event("change@/devices/virtual/nvme-fabrics/ctl/nvme0", "ACTION=change", "SUBSYSTEM=nvme", "NVME_AEN=0x70f002", "SEQNUM=3"), true},
		"disk added":                    {event("add@/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1", "ACTION=add", "SUBSYSTEM=block", "MAJOR=259", "MINOR=3", "DEVNAME=nvme0n1", "DEVTYPE=disk", "DISKSEQ=12", "SEQNUM=4"), true},
		"disk grown":                    {event("change@/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1", "ACTION=change", "SUBSYSTEM=block", "RESIZE=1", "SEQNUM=5"), true},
		"disk without native multipath": {event("add@/devices/virtual/nvme-fabrics/ctl/nvme0/nvme0n1", "ACTION=add", "SUBSYSTEM=block", "SEQNUM=6"), true},
		"path failed":                   {event("change@/devices/virtual/block/dm-0", "ACTION=change", "SUBSYSTEM=block", "DM_TARGET=multipath", "DM_ACTION=PATH_FAILED", "DM_SEQNUM=1", "DM_PATH=259:3", "DM_NR_VALID_PATHS=0", "DM_NAME=holdfast-v-g1", "SEQNUM=7"), true},
		"path reinstated":               {event("change@/devices/virtual/block/dm-12", "ACTION=change", "SUBSYSTEM=block", "DM_TARGET=multipath", "DM_ACTION=PATH_REINSTATED", "SEQNUM=8"), true},
		"table resumed":                 {event("change@/devices/virtual/block/dm-0", "ACTION=change", "SUBSYSTEM=block", "DM_COOKIE=6323712", "SEQNUM=9"), false},
		"table added":                   {event("add@/devices/virtual/block/dm-0", "ACTION=add", "SUBSYSTEM=block", "MAJOR=252", "MINOR=0", "DEVNAME=dm-0", "SEQNUM=10"), false},
		"another disk":                  {event("change@/devices/pci0000:00/0000:00:05.0/virtio1/block/vda", "ACTION=change", "SUBSYSTEM=block", "SEQNUM=11"), false},
		"another disk's DM_ACTION":      {event("change@/devices/virtual/block/md0", "ACTION=change", "DM_ACTION=PATH_FAILED", "SEQNUM=12"), false},
		"network":                       {link, false},
		"a link called nvme":            {event("add@/devices/virtual/net/eth-nvme", "ACTION=add", "SUBSYSTEM=net", "INTERFACE=eth-nvme", "SEQNUM=13"), false},
		"USB":                           {event("add@/devices/pci0000:00/0000:00:14.0/usb1/1-2", "ACTION=add", "SUBSYSTEM=usb", "DEVTYPE=usb_device", "PRODUCT=46d/c52b/1211", "SEQNUM=14"), false},
		"nvme in a variable only":       {event("add@/devices/virtual/misc/x", "ACTION=add", "DEVNAME=/dev/nvme0", "SEQNUM=15"), false},
		"udevd's":                       {append([]byte("libudev\x00\xfe\xed\xca\xfe"), connected...), false},
		"no path":                       {event("change"), false},
		"nothing":                       {nil, false},
		"zeros":                         {make([]byte, 8), false},
		"cut off":                       {[]byte("change@/devices/virtual/nvme-fabrics/ctl/nvme0"), true},
		"cut off in the path":           {[]byte("change@/devices/virtual/nv"), false},
	} {
		if got := matters(c.event); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// FuzzMatters: nothing that is received can do harm, and what follows the path
// of an event of ours never makes it another's.
func FuzzMatters(f *testing.F) {
	for _, seed := range [][]byte{connected, link, event("change@/devices/virtual/block/dm-0", "DM_ACTION=PATH_FAILED"), nil, {0}, []byte("@"), []byte("@/nvme"), []byte("x@/block/dm-\x00DM_ACTION=")} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		got := matters(b)
		if !bytes.Equal(b, before) {
			t.Error("the event was changed")
		}
		if got && !bytes.Contains(b, []byte("/nvme")) && !bytes.Contains(b, []byte("/block/dm-")) {
			t.Errorf("%q matters", b)
		}
		if got && !matters(append(before, event("SEQNUM=1")...)) {
			t.Errorf("%q matters, and not with one more variable", b)
		}
	})
}

// packets returns both ends of a socket that keeps messages apart, as netlink
// does, without privileges.
func packets(t *testing.T) (send int, receive *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fds[0]) })
	return fds[0], os.NewFile(uintptr(fds[1]), "events")
}

const patience = 10 * time.Second

func mustHint(t *testing.T, hints <-chan struct{}) {
	t.Helper()
	select {
	case <-hints:
	case <-time.After(patience):
		t.Fatal("no hint")
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	send, receive := packets(t)
	to, done := newSinks(), make(chan struct{})
	hints := to.any
	go func() {
		read(receive, to)
		close(done)
	}()
	write := func(b []byte) {
		t.Helper()
		if err := unix.Sendto(send, b, 0, nil); err != nil {
			t.Fatal(err)
		}
	}
	write(link)
	write(connected)
	mustHint(t, hints)
	// Nobody takes hints for a while: one remains, and reading goes on. What is
	// read in order is known to be over once the end has been reached.
	for range 5 {
		write(connected)
	}
	write(link)
	if err := unix.Shutdown(send, unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("it reads on after the end")
	}
	mustHint(t, hints)
	select {
	case <-hints:
		t.Error("more than one hint waited")
	default:
	}
	_ = receive.Close()
}

// A new size is told apart from what comes and goes.
func TestResized(t *testing.T) {
	t.Parallel()
	resized := event("change@/devices/virtual/nvme-subsystem/nvme-subsys1/nvme1n2", "ACTION=change", "SUBSYSTEM=block", "RESIZE=1", "DEVNAME=nvme1n2")
	for _, c := range []struct {
		event []byte
		want  int
	}{{connected, 0}, {resized, 1}, {bytes.ReplaceAll(resized, []byte("nvme"), []byte("sd")), 0}} {
		send, receive := packets(t)
		if err := errors.Join(unix.Sendto(send, c.event, 0, nil), unix.Shutdown(send, unix.SHUT_WR)); err != nil {
			t.Fatal(err)
		}
		to := newSinks()
		read(receive, to)
		if len(to.resized) != c.want {
			t.Errorf("%q: %d hints, want %d", c.event, len(to.resized), c.want)
		}
		_ = receive.Close()
	}
}

// Hints say what they are about, once.
func TestAbout(t *testing.T) {
	t.Parallel()
	send, receive := packets(t)
	for _, path := range []string{"/devices/virtual/nvme-subsystem/nvme-subsys1/nvme1n2", "/devices/virtual/nvme-fabrics/ctl/nvme0/nvme1c0n2", "/devices/virtual/net/nvme7"} {
		if err := unix.Sendto(send, event("change@"+path, "DEVNAME=nvme9", "SUBSYSTEM=x"), 0, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Shutdown(send, unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	to := newSinks()
	read(receive, to)
	h := Hints{subjects: to.subjects}
	want := map[string]bool{"nvme-subsystem": true, "nvme-subsys1": true, "nvme1n2": true, "nvme-fabrics": true, "nvme0": true, "nvme1c0n2": true, "nvme7": true}
	if names, all := h.About(); all || !maps.Equal(names, want) {
		t.Errorf("%v, all %t", names, all)
	}
	if names, all := h.About(); all || len(names) > 0 {
		t.Errorf("again: %v, all %t", names, all)
	}
	_ = receive.Close()
}

// If events were lost, or nobody takes what they are about, it may be anything.
func TestAboutAnything(t *testing.T) {
	t.Parallel()
	lost, many := &subjects{}, &subjects{}
	lost.add(connected)
	lost.add(nil)
	for i := range maxSubjects + 1 {
		many.add(fmt.Appendf(nil, "add@/nvme%d", i))
	}
	for _, s := range []*subjects{lost, many, nil} {
		if _, all := (Hints{subjects: s}).About(); !all {
			t.Error("it is not")
		}
	}
	if n := len(many.names); n > 1 {
		t.Errorf("%d names are kept", n)
	}
}

// What does not matter gives no hint.
func TestReadOthers(t *testing.T) {
	t.Parallel()
	send, receive := packets(t)
	for _, b := range [][]byte{link, []byte("x"), link} {
		if err := unix.Sendto(send, b, 0, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Shutdown(send, unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	to := newSinks()
	read(receive, to) // until the end
	if len(to.any)+len(to.resized) > 0 {
		t.Error("a hint")
	}
	_ = receive.Close()
}

// skipIfForbidden skips where a sandbox has no netlink.
func skipIfForbidden(t *testing.T, err error) {
	t.Helper()
	for _, e := range []error{unix.EPERM, unix.EACCES, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.ENOSYS} {
		if errors.Is(err, e) {
			t.Skip(err)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The listener stops with its context: the bubble does not end before all that
// was started in it has.
func TestListenStops(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		_, err := Listen(ctx)
		skipIfForbidden(t, err)
	})
}

// A context that has ended already is no reason to leave a socket behind.
func TestListenStopped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := Listen(ctx)
		skipIfForbidden(t, err)
	})
}

// TestListen hears what is sent to the kernel's group, in a network namespace of
// its own: udevd and others would hear it too.
func TestListen(t *testing.T) {
	t.Parallel()
	result := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { result <- listenApart(ctx) }()
	skipIfForbidden(t, <-result)
}

var errSilent = errors.New("no hint")

// listenApart must have a goroutine of its own: its thread ends with it, because
// it is never unlocked, and with the thread its namespace.
func listenApart(ctx context.Context) error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	hints, err := Listen(ctx)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Sendto(fd, connected, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		return err
	}
	select {
	case <-hints.Any:
		return nil
	case <-time.After(patience):
		return errSilent
	}
}
