package dm

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// encode writes a list as the kernel does (list_devices in dm-ioctl.c).
func encode(list []Entry) []byte {
	var b []byte
	for i, e := range list {
		start, at := len(b), (nameOffset+len(e.Name)+1+7)&^7
		b = append(b, make([]byte, at+8)...)
		x := b[start:]
		native.PutUint64(x, unix.Mkdev(e.Major, e.Minor))
		copy(x[nameOffset:], e.Name)
		native.PutUint32(x[at:], e.Events)
		if i < len(list)-1 {
			native.PutUint32(x[8:], uint32(len(x)))
		}
	}
	return b
}

// with changes a copy of b.
func with(b []byte, change func(b []byte)) []byte {
	b = bytes.Clone(b)
	change(b)
	return b
}

func TestParseList(t *testing.T) {
	t.Parallel()
	two := []Entry{{"a", 254, 0, 7}, {"holdfast-pvc-1", 254, 300, 1}}
	long := []Entry{{strings.Repeat("n", unix.DM_NAME_LEN-1), 4095, 1<<20 - 1, ^uint32(0)}}
	next := func(n uint32) []byte {
		return with(encode(two), func(b []byte) { native.PutUint32(b[8:], n) })
	}
	tests := map[string]struct {
		in   []byte
		want []Entry
		bad  bool
	}{
		"no devices: the kernel counts not even the zero": {in: nil},
		"no devices: a zero":                              {in: make([]byte, 16)},
		"one":                                             {in: encode(two[:1]), want: two[:1]},
		"two":                                             {in: encode(two), want: two},
		"longest":                                         {in: encode(long), want: long},
		"cut in the number":                               {in: encode(two)[:7], bad: true},
		"cut in the name":                                 {in: encode(two)[:13], bad: true},
		"cut in the event number":                         {in: encode(two[:1])[:18], bad: true},
		"cut in the second":                               {in: encode(two)[:30], bad: true},
		"name without end":                                {in: with(encode(two[:1]), func(b []byte) { fill(b[nameOffset:], 'x') }), bad: true},
		"next is the entry itself":                        {in: next(nameOffset), bad: true},
		"next is one byte on":                             {in: next(1), bad: true},
		"next is the end":                                 {in: next(uint32(len(encode(two)))), bad: true},
		"next is far away":                                {in: next(1 << 30), bad: true},
		"next is minus eight":                             {in: next(^uint32(7)), bad: true},
		"a zero number ends it too":                       {in: with(encode(two), func(b []byte) { native.PutUint64(b[24:], 0) }), want: two[:1]},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := parseList(c.in)
			if errors.Is(err, errList) != c.bad || !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, %v; want %v, bad %v", got, err, c.want, c.bad)
			}
		})
	}
}

func fill(b []byte, x byte) {
	for i := range b {
		b[i] = x
	}
}

// Whatever the bytes are, reading ends, makes no more entries than there is
// room for, and what it understood means the same when written again.
func FuzzParseList(f *testing.F) {
	list := []Entry{{"a", 254, 0, 7}, {"holdfast-pvc-1", 254, 300, 1}, {"", 1, 2, 3}}
	whole := encode(list)
	f.Add([]byte(nil))
	f.Add(make([]byte, 16))
	f.Add(whole)
	f.Add(whole[:len(whole)-7])
	for _, next := range []uint32{0, 1, nameOffset, nameOffset + 1, 24, 1 << 31, ^uint32(0)} {
		f.Add(with(whole, func(b []byte) { native.PutUint32(b[8:], next) }))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 64<<10 {
			return // entries may overlap, so that names add up to the square
		}
		before := bytes.Clone(b)
		got, err := parseList(b)
		if !bytes.Equal(b, before) {
			t.Fatal("the answer was changed")
		}
		if err != nil {
			if got != nil || !errors.Is(err, errList) {
				t.Fatalf("%v with %v", got, err)
			}
			return
		}
		if len(got) > len(b)/(nameOffset+1) {
			t.Fatalf("%d entries in %d bytes", len(got), len(b))
		}
		for _, e := range got {
			if strings.ContainsRune(e.Name, 0) {
				t.Fatalf("a zero in the name %q", e.Name)
			}
		}
		again, err := parseList(encode(got))
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Fatalf("read again: %v, %v; want %v", again, err, got)
		}
	})
}

// The same answer is the same list; another one, a damaged one and one without
// devices are read anew.
func TestListedAgain(t *testing.T) {
	t.Parallel()
	var l listed
	a, b := []Entry{{"a", 254, 0, 7}}, []Entry{{"a", 254, 0, 8}}
	read := func(raw []byte, want []Entry) []Entry {
		t.Helper()
		if err := l.parse(raw); err != nil || !reflect.DeepEqual(l.list, want) {
			t.Fatalf("got %v, %v, want %v", l.list, err, want)
		}
		return l.list
	}
	buffer := encode(a)
	first := read(buffer, a)
	if again := read(buffer, a); &again[0] != &first[0] {
		t.Error("the same answer was read anew")
	}
	copy(buffer, encode(b)) // a buffer is used again
	read(buffer, b)
	if err := l.parse(buffer[:7]); !errors.Is(err, errList) {
		t.Errorf("damaged: %v", err)
	}
	read(buffer, b)
	read(nil, nil)
	read(buffer, b)
	if !reflect.DeepEqual(first, a) {
		t.Errorf("the first list has become %v", first)
	}
}
