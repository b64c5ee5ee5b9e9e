//go:build linux

package nbd

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
)

const testSize = 1 << 20

func newDisk(t *testing.T, seed uint64) *Disk {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, testSize), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Open(path, seed)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *Disk) mustRead(t *testing.T, length, off int64) []byte {
	t.Helper()
	p := make([]byte, length)
	if err := d.ReadAt(p, off); err != nil {
		t.Fatal(err)
	}
	return p
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestPowerCutKeepsWhatWasFlushed(t *testing.T) {
	d := newDisk(t, 1)
	flushed, unflushed := bytes.Repeat([]byte{1}, 64<<10), bytes.Repeat([]byte{2}, 64<<10)
	ok(t, d.WriteAt(flushed, 512, false))
	ok(t, d.Flush())
	ok(t, d.WriteAt(bytes.Repeat([]byte{3}, 4096), 512<<10, true)) // FUA
	ok(t, d.WriteAt(unflushed, 128<<10, false))
	if got := d.mustRead(t, 64<<10, 128<<10); !bytes.Equal(got, unflushed) {
		t.Error("a write is not read back before the flush")
	}
	lost, err := d.PowerCut()
	ok(t, err)
	if got := d.mustRead(t, 64<<10, 512); !bytes.Equal(got, flushed) {
		t.Error("flushed data is lost")
	}
	if got := d.mustRead(t, 4096, 512<<10); !bytes.Equal(got, bytes.Repeat([]byte{3}, 4096)) {
		t.Error("data written with FUA is lost")
	}
	after := d.mustRead(t, 64<<10, 128<<10)
	zero := 0
	for s := range len(after) / sectorSize {
		sector := after[s*sectorSize:][:sectorSize]
		if n := bytes.Count(sector, []byte{2}); n != 0 && n != sectorSize {
			t.Fatalf("sector %d is torn", s)
		} else if n == 0 {
			zero++
		}
	}
	if lost == 0 || zero != lost {
		t.Errorf("%d sectors reported lost, %d are", lost, zero)
	}
}

// TestVersions: after a power cut a sector has the flushed version or one written since, and never an older one.
func TestVersions(t *testing.T) {
	seen := make(map[byte]bool)
	for seed := range uint64(40) {
		d := newDisk(t, seed)
		for v := byte(1); v <= 5; v++ {
			ok(t, d.WriteAt(bytes.Repeat([]byte{v}, 4096), 0, false))
			if v == 2 {
				ok(t, d.Flush())
			}
		}
		_, err := d.PowerCut()
		ok(t, err)
		for _, b := range d.mustRead(t, 4096, 0) {
			seen[b] = true
		}
	}
	for v := byte(0); v <= 5; v++ {
		if seen[v] != (v >= 2) {
			t.Errorf("version %d seen: %v", v, seen[v])
		}
	}
}

func TestPowerCutFollowsSeed(t *testing.T) {
	image := func(seed uint64) []byte {
		d := newDisk(t, seed)
		ok(t, d.WriteAt(bytes.Repeat([]byte{7}, 256<<10), 0, false))
		_, err := d.PowerCut()
		ok(t, err)
		return d.mustRead(t, 256<<10, 0)
	}
	if !bytes.Equal(image(1), image(1)) || bytes.Equal(image(1), image(2)) {
		t.Error("what is lost does not follow from the seed")
	}
}

// TestAgainstModel compares with a plain byte slice under random operations.
func TestAgainstModel(t *testing.T) {
	d, model, rnd := newDisk(t, 3), make([]byte, testSize), rand.New(rand.NewPCG(5, 5))
	for i := range 3000 {
		off := rnd.Int64N(testSize/sectorSize) * sectorSize
		length := min(rnd.Int64N(40)*sectorSize, testSize-off)
		switch rnd.IntN(8) {
		case 0:
			ok(t, d.Flush())
		case 1:
			ok(t, d.Trim(length, off))
			clear(model[off : off+length])
		case 2:
			ok(t, d.Zero(length, off, rnd.IntN(2) == 0))
			clear(model[off : off+length])
		default:
			p := bytes.Repeat([]byte{byte(i)}, int(length))
			ok(t, d.WriteAt(p, off, rnd.IntN(4) == 0))
			copy(model[off:], p)
		}
	}
	if !bytes.Equal(d.mustRead(t, testSize, 0), model) {
		t.Error("the disk differs from the model")
	}
	ok(t, d.Flush())
	if _, err := d.PowerCut(); err != nil || !bytes.Equal(d.mustRead(t, testSize, 0), model) {
		t.Error("the disk differs from the model after flush and power cut")
	}
}

func TestRange(t *testing.T) {
	d := newDisk(t, 1)
	for name, err := range map[string]error{
		"beyond the end":   d.WriteAt(make([]byte, 1024), testSize-512, false),
		"negative":         d.ReadAt(make([]byte, 512), -512),
		"half a sector":    d.WriteAt(make([]byte, 100), 0, false),
		"offset unaligned": d.Trim(512, 100),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// client speaks the other side of the protocol.
type client struct {
	t    *testing.T
	conn net.Conn
}

func (c client) send(values ...any) {
	c.t.Helper()
	var b bytes.Buffer
	for _, v := range values {
		ok(c.t, binary.Write(&b, binary.BigEndian, v))
	}
	_, err := c.conn.Write(b.Bytes())
	ok(c.t, err)
}

func (c client) receive(values ...any) {
	c.t.Helper()
	for _, v := range values {
		ok(c.t, binary.Read(c.conn, binary.BigEndian, v))
	}
}

// command sends a request and returns the error code of the answer.
func (c client) command(kind uint16, flags uint16, off uint64, length uint32, data []byte) uint32 {
	c.t.Helper()
	c.send(request{requestMagic, flags, kind, 42, off, length}, data)
	var reply struct {
		Magic, Error uint32
		Handle       uint64
	}
	c.receive(&reply)
	if reply.Magic != replyMagic || reply.Handle != 42 {
		c.t.Fatalf("reply %+v", reply)
	}
	return reply.Error
}

func (c client) handshake() {
	c.t.Helper()
	var init struct {
		Magic, Option uint64
		Flags         uint16
	}
	c.receive(&init)
	if init.Magic != initMagic || init.Option != optionMagic || init.Flags != handshakeFlags {
		c.t.Fatalf("greeting %+v", init)
	}
	c.send(uint32(3))
	type optHead struct {
		Magic            uint64
		Option, Type, Sz uint32
	}
	var head optHead
	c.send(uint64(optionMagic), uint32(8), uint32(0)) // structured replies
	if c.receive(&head); head.Type != repErrUnsup {
		c.t.Fatalf("structured replies: %+v", head)
	}
	c.send(uint64(optionMagic), uint32(optGo), uint32(6), uint32(0), uint16(0))
	for {
		c.receive(&head)
		if head.Magic != optReply || head.Option != optGo {
			c.t.Fatalf("reply to go: %+v", head)
		}
		if head.Type == repAck {
			return
		}
		info := make([]byte, head.Sz)
		c.receive(&info)
		if kind := binary.BigEndian.Uint16(info); kind == infoExport && binary.BigEndian.Uint64(info[2:]) != testSize {
			c.t.Errorf("size %d", binary.BigEndian.Uint64(info[2:]))
		}
	}
}

func TestServe(t *testing.T) {
	d := newDisk(t, 1)
	ours, theirs := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- Serve(ours, d) }()
	c := client{t, theirs}
	c.handshake()
	data := bytes.Repeat([]byte{9}, 8192)
	if code := c.command(cmdWrite, 0, 4096, 8192, data); code != 0 {
		t.Errorf("write: %d", code)
	}
	if code := c.command(cmdFlush, 0, 0, 0, nil); code != 0 {
		t.Errorf("flush: %d", code)
	}
	if code := c.command(cmdRead, 0, 4096, 8192, nil); code != 0 {
		t.Errorf("read: %d", code)
	}
	got := make([]byte, 8192)
	if _, err := io.ReadFull(theirs, got); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read other data, %v", err)
	}
	if code := c.command(cmdWriteZeroes, flagFUA, 4096, 4096, nil); code != 0 {
		t.Errorf("write zeroes: %d", code)
	}
	if code := c.command(cmdTrim, 0, 8192, 4096, nil); code != 0 {
		t.Errorf("trim: %d", code)
	}
	if code := c.command(cmdRead, 0, testSize, 512, nil); code == 0 {
		t.Error("read beyond the end")
	}
	if code := c.command(99, 0, 0, 0, nil); code == 0 {
		t.Error("accepted a command that does not exist")
	}
	c.send(request{requestMagic, 0, cmdDisc, 0, 0, 0})
	if err := <-done; err != nil {
		t.Error(err)
	}
	if !bytes.Equal(d.mustRead(t, 8192, 4096), make([]byte, 8192)) {
		t.Error("zeroes and trim left data")
	}
}
