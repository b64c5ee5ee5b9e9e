package dm

import (
	"bytes"
	"errors"
	"sync"

	"golang.org/x/sys/unix"
)

// Entry is a device in a list.
type Entry struct {
	Name         string
	Major, Minor uint32
	Events       uint32
}

// List returns all devices of the machine in one call, and the very same list as
// before while nothing has changed: it is asked for several times a second, and
// there may be hundreds of devices. It is not to be changed.
func (c *Client) List() (list []Entry, err error) {
	err = c.do(request{op: unix.DM_LIST_DEVICES}, func(a answer) error {
		list, err = c.listed.parse(a.data)
		return err
	})
	return list, err
}

// listed is the last list, and what it was read from.
type listed struct {
	mu   sync.Mutex
	raw  []byte
	list []Entry
}

func (l *listed) parse(raw []byte) ([]Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.list) > 0 && bytes.Equal(raw, l.raw) {
		return l.list, nil
	}
	list, err := parseList(raw)
	if err != nil {
		return nil, err
	}
	l.raw, l.list = bytes.Clone(raw), list
	return list, nil
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
