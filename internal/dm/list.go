package dm

import (
	"bytes"
	"errors"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Entry is a device in a list.
type Entry struct {
	Name         string
	Major, Minor uint32
	Events       uint32
}

// listAge bounds how long a list is kept on the kernel's word that nothing has
// happened: a removal that was put off until the last user is gone is no event.
const listAge = 30 * time.Second

// List returns all devices of the machine, and the very same list as before while
// nothing has changed: it is asked for several times a second, and there may be
// hundreds of devices. The kernel is then only asked whether there was an event
// (DM_DEV_ARM_POLL, interface 4.37, Linux 4.14). It is not to be changed.
func (c *Client) List() ([]Entry, error) {
	l := &c.listed
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.at) < listAge && !c.eventful() {
		return l.list, nil
	}
	l.at = time.Time{}
	// What happens from here on is an event again, also before the list is made.
	if err := c.do(request{op: unix.DM_DEV_ARM_POLL}, nil); err != nil {
		return nil, err
	}
	began := time.Now()
	err := c.do(request{op: unix.DM_LIST_DEVICES}, func(a answer) error { return l.parse(a.data) })
	if err != nil {
		return nil, err
	}
	l.at = began
	return l.list, nil
}

// eventful says whether there was an event since poll was armed, or whether that
// cannot be said.
func (c *Client) eventful() bool {
	p := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}} //nolint:gosec // a file descriptor
	n, err := unix.Poll(p, 0)
	runtime.KeepAlive(c.file)
	return n != 0 || err != nil
}

// listed is the last list, what it was read from, and when; at is zero if the last
// attempt failed.
type listed struct {
	mu   sync.Mutex
	at   time.Time
	raw  []byte
	list []Entry
}

func (l *listed) parse(raw []byte) error {
	if len(l.list) > 0 && bytes.Equal(raw, l.raw) {
		return nil
	}
	list, err := parseList(raw)
	if err != nil {
		return err
	}
	l.raw, l.list = bytes.Clone(raw), list
	return nil
}

var errList = errors.New("the kernel's list of devices makes no sense")

// struct dm_name_list: device number, offset of the next entry, name, and after
// the name's zero, at a multiple of 8 from the entry's start, the event number
// (interface 4.37, Linux 4.14).
const nameOffset = 12

func parseList(b []byte) ([]Entry, error) {
	var out []Entry
	if len(b) == 0 {
		return nil, nil // no devices at all
	}
	for {
		if len(b) < nameOffset+1 {
			return nil, errList
		}
		dev, next := native.Uint64(b), native.Uint32(b[8:])
		if dev == 0 {
			return out, nil
		}
		e := Entry{Name: cString(b[nameOffset:])}
		e.Major, e.Minor = splitDev(dev)
		at := (nameOffset + len(e.Name) + 1 + 7) &^ 7
		if at+4 > len(b) {
			return nil, errList
		}
		e.Events = native.Uint32(b[at:])
		out = append(out, e)
		if next == 0 {
			return out, nil
		}
		if uint64(next) > uint64(len(b)) || next < nameOffset+1 {
			return nil, errList
		}
		b = b[next:]
	}
}

// HasTarget says whether the kernel has a target of that name, loading its
// module if it can.
func (c *Client) HasTarget(name string) bool {
	return c.do(request{op: unix.DM_GET_TARGET_VERSION, name: name}, nil) == nil
}
