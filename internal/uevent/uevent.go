// Package uevent says when the kernel announces something about NVMe or the
// device mapper: that a controller is connected again, that a disk is there, that
// a path has failed. It says only that something happened, and to which devices;
// what, is to be seen in sysfs. Announcements can be lost, so nobody may depend on
// them.
package uevent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// kernelGroup is the multicast group of the kernel's own events; udevd's are in
// the second.
const kernelGroup = 1

// Hints deliver after something has happened; each holds one.
type Hints struct {
	Any <-chan struct{}
	// Resized is for a disk of another size: beside Any, because a look for what
	// has come or gone need not read all sizes.
	Resized  <-chan struct{}
	subjects *subjects
}

// About returns what the events since the last call were about: the names of
// controllers, subsystems and disks (nvme0, nvme-subsys0, nvme0n1). With all it may
// have been anything.
func (h Hints) About() (names map[string]bool, all bool) {
	if h.subjects == nil {
		return nil, true
	}
	return h.subjects.take()
}

// subjects are names that nobody has taken yet.
type subjects struct {
	mu    sync.Mutex
	names map[string]bool // guarded by mu
	all   bool            // guarded by mu
}

// maxSubjects bounds them if nobody does.
const maxSubjects = 4096

func (s *subjects) take() (names map[string]bool, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	names, all = s.names, s.all
	s.names, s.all = nil, false
	return names, all
}

// add adds those of an event; nil is one that was lost.
func (s *subjects) add(event []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if event == nil || len(s.names) >= maxSubjects {
		s.names, s.all = nil, true
	}
	if s.names == nil {
		s.names = map[string]bool{}
	}
	for part := range bytes.SplitSeq(pathOf(event), []byte("/")) {
		if bytes.HasPrefix(part, []byte("nvme")) {
			s.names[string(part)] = true
		}
	}
}

// sinks are the other ends.
type sinks struct {
	any, resized chan struct{}
	*subjects
}

func newSinks() sinks { return sinks{make(chan struct{}, 1), make(chan struct{}, 1), &subjects{}} }

// Listen returns hints until ctx ends. It works in the initial network namespace
// only.
func Listen(ctx context.Context) (Hints, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return Hints{}, fmt.Errorf("uevents: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		return Hints{}, errors.Join(fmt.Errorf("uevents: %w", err), unix.Close(fd))
	}
	f := os.NewFile(uintptr(fd), "uevents") // non-blocking, so closing it ends a read
	to := newSinks()
	go read(f, to)
	context.AfterFunc(ctx, func() { _ = f.Close() })
	return Hints{to.any, to.resized, to.subjects}, nil
}

func read(f *os.File, to sinks) {
	buffer := make([]byte, 8<<10) // an event has at most 2 KiB of variables (UEVENT_BUFFER_SIZE)
	for {
		n, err := f.Read(buffer)
		switch {
		case errors.Is(err, unix.ENOBUFS): // some were lost: look
			to.add(nil)
			hint(to.any)
			hint(to.resized)
		case err != nil:
			return
		case matters(buffer[:n]):
			to.add(buffer[:n])
			hint(to.any)
			if resizes(buffer[:n]) {
				hint(to.resized)
			}
		}
	}
}

// hint leaves one there, and never waits.
func hint(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// resizes says whether an event is about a disk's new size
// (set_capacity_and_notify of block/genhd.c).
func resizes(event []byte) bool { return bytes.Contains(event, []byte("\x00RESIZE=1\x00")) }

// pathOf returns the device of an event: "ACTION@PATH" and variables, each ended by a
// zero.
func pathOf(event []byte) []byte {
	head, _, _ := bytes.Cut(event, []byte{0})
	_, path, _ := bytes.Cut(head, []byte("@"))
	return path
}

// matters says whether an event is about what is watched.
func matters(event []byte) bool {
	path := pathOf(event)
	// The second is dm_path_uevent of dm-uevent.c.
	return bytes.Contains(path, []byte("/nvme")) ||
		bytes.Contains(path, []byte("/block/dm-")) && bytes.Contains(event, []byte("\x00DM_ACTION="))
}
