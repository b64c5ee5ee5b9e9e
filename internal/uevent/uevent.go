// Package uevent says when the kernel announces something about NVMe or the
// device mapper: that a controller is connected again, that a disk is there, that
// a path has failed. It says only that something happened; what, is to be seen in
// sysfs. Announcements can be lost, so nobody may depend on them.
package uevent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// kernelGroup is the multicast group of the kernel's own events; udevd's are in
// the second.
const kernelGroup = 1

// Listen returns a channel that delivers after something has happened, until ctx
// ends. It works in the initial network namespace only.
func Listen(ctx context.Context) (<-chan struct{}, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("uevents: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		return nil, errors.Join(fmt.Errorf("uevents: %w", err), unix.Close(fd))
	}
	f := os.NewFile(uintptr(fd), "uevents") // non-blocking, so closing it ends a read
	hints := make(chan struct{}, 1)
	go read(f, hints)
	context.AfterFunc(ctx, func() { _ = f.Close() })
	return hints, nil
}

func read(f *os.File, hints chan<- struct{}) {
	buffer := make([]byte, 8<<10) // an event has at most 2 KiB of variables (UEVENT_BUFFER_SIZE)
	for {
		n, err := f.Read(buffer)
		if errors.Is(err, unix.ENOBUFS) {
			n = 0 // some were lost: look
		} else if err != nil {
			return
		}
		if err == nil && !matters(buffer[:n]) {
			continue
		}
		select {
		case hints <- struct{}{}:
		default:
		}
	}
}

// matters says whether an event is about what is watched: "ACTION@PATH" and
// variables, each ended by a zero.
func matters(event []byte) bool {
	head, rest, _ := bytes.Cut(event, []byte{0})
	_, path, _ := bytes.Cut(head, []byte("@"))
	if bytes.Contains(path, []byte("/nvme")) {
		return true
	}
	// dm_path_uevent of dm-uevent.c
	return bytes.Contains(path, []byte("/block/dm-")) && bytes.Contains(rest, []byte("DM_ACTION="))
}
