//go:build linux

package vm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// maxTapFrame is a frame of the usual MTU with its Ethernet header, and a VLAN tag.
const maxTapFrame = 1500 + 14 + 4

// Tap makes a network card of that name in a network namespace of this machine and plugs it into a LAN of the lab, so that
// programs here and machines there are in one network. It has no address and is down. It goes with the lab.
func (l *Lab) Tap(lanName, netns, device string) error {
	f, err := openTap(netns, device)
	if err != nil {
		return fmt.Errorf("card %s in network namespace %s: %w", device, netns, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errors.Join(fmt.Errorf("card %s: lab %s is closed", device, l.cfg.Name), f.Close())
	}
	port := l.lockedLAN(lanName).AddPort()
	port.Attach(newTapStream(f))
	l.taps = append(l.taps, port.Detach)
	return nil
}

// openTap opens the device in another network namespace. The thread that was there does not come back to serve others if
// it cannot leave it: a goroutine that ends locked takes its thread with it.
func openTap(netns, device string) (f *os.File, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		var own int
		if own, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return
		}
		defer unix.Close(own)
		f, err = tapIn(netns, device)
		if unix.Setns(own, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	<-done
	return f, err
}

func tapIn(netns, device string) (*os.File, error) {
	ns, err := unix.Open("/run/netns/"+netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(ns)
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter: %w", err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	ifr, err := unix.NewIfreq(device)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return nil, errors.Join(fmt.Errorf("TUNSETIFF: %w", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
}

// tapStream turns the card's frames, one for each read or write, into the stream of the switch: each after its length.
type tapStream struct {
	f    *os.File
	out  []byte // read from the card, not yet by the switch
	in   []byte // written by the switch, not yet whole
	room [4 + maxTapFrame]byte
}

func newTapStream(f *os.File) io.ReadWriteCloser { return &tapStream{f: f} }

func (s *tapStream) Read(p []byte) (int, error) {
	if len(s.out) == 0 {
		n, err := s.f.Read(s.room[4:])
		if err != nil {
			return 0, err
		}
		binary.BigEndian.PutUint32(s.room[:], uint32(n)) //nolint:gosec // at most maxTapFrame
		s.out = s.room[:4+n]
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

func (s *tapStream) Write(p []byte) (int, error) {
	s.in = append(s.in, p...)
	for len(s.in) >= 4 {
		end := 4 + int(binary.BigEndian.Uint32(s.in))
		if len(s.in) < end {
			break
		}
		// A card that is down or full refuses a frame: it is lost, as on a cable.
		if _, err := s.f.Write(s.in[4:end]); errors.Is(err, os.ErrClosed) {
			return 0, err
		}
		s.in = s.in[end:]
	}
	if len(s.in) == 0 {
		s.in = nil
	}
	return len(p), nil
}

func (s *tapStream) Close() error { return s.f.Close() }
