//go:build linux

package nbd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// Constants of the protocol (github.com/NetworkBlockDevice/nbd, doc/proto.md).
const (
	initMagic    = 0x4e42444d41474943 // "NBDMAGIC"
	optionMagic  = 0x49484156454f5054 // "IHAVEOPT"
	optReply     = 0x3e889045565a9
	requestMagic = 0x25609513
	replyMagic   = 0x67446698

	handshakeFlags = 1<<0 | 1<<1                             // fixed newstyle, no zeroes
	exportFlags    = 1<<0 | 1<<2 | 1<<3 | 1<<5 | 1<<6 | 1<<8 // has flags, flush, FUA, trim, write zeroes, several connections

	optExportName, optAbort, optInfo, optGo = 1, 2, 6, 7
	repAck, repInfo, repErrUnsup            = 1, 3, 1<<31 | 1
	infoExport, infoBlockSize               = 0, 3

	cmdRead, cmdWrite, cmdDisc, cmdFlush, cmdTrim, cmdWriteZeroes = 0, 1, 2, 3, 4, 6
	flagFUA                                                       = 1 << 0

	maxRequest = 32 << 20 // what QEMU sends at most
	maxOption  = 64 << 10
)

var errAborted = errors.New("client gave up the handshake")

type server struct {
	r *bufio.Reader
	w *bufio.Writer
	d *Disk
}

// Serve speaks NBD on one connection until the client disconnects, which is no error, or the connection breaks.
func Serve(conn io.ReadWriter, d *Disk) error {
	s := &server{r: bufio.NewReaderSize(conn, 256<<10), w: bufio.NewWriterSize(conn, 256<<10), d: d}
	if err := s.handshake(); err != nil {
		return fmt.Errorf("nbd handshake: %w", err)
	}
	for {
		more, err := s.serveOne()
		if err != nil {
			return fmt.Errorf("nbd: %w", err)
		}
		if !more {
			return nil
		}
	}
}

// put writes big-endian values; the writer keeps the first error for Flush.
func (s *server) put(values ...any) {
	for _, v := range values {
		_ = binary.Write(s.w, binary.BigEndian, v) // see above
	}
}

func (s *server) handshake() error {
	s.put(uint64(initMagic), uint64(optionMagic), uint16(handshakeFlags))
	if err := s.w.Flush(); err != nil {
		return err
	}
	var clientFlags uint32
	if err := binary.Read(s.r, binary.BigEndian, &clientFlags); err != nil {
		return err
	}
	for {
		done, err := s.option()
		if err != nil || done {
			return err
		}
	}
}

// option answers one option; done means that the transmission phase begins.
func (s *server) option() (done bool, err error) {
	var head struct {
		Magic      uint64
		Option, Sz uint32
	}
	if err := binary.Read(s.r, binary.BigEndian, &head); err != nil {
		return false, err
	}
	if head.Magic != optionMagic || head.Sz > maxOption {
		return false, fmt.Errorf("option with magic %x and length %d", head.Magic, head.Sz)
	}
	if _, err := s.r.Discard(int(head.Sz)); err != nil { // export names and wishes for information
		return false, err
	}
	switch head.Option {
	case optExportName:
		s.put(uint64(s.d.Size()), uint16(exportFlags))
		return true, s.w.Flush()
	case optAbort:
		s.put(uint64(optReply), head.Option, uint32(repAck), uint32(0))
		return false, errors.Join(errAborted, s.w.Flush())
	case optInfo, optGo:
		s.put(uint64(optReply), head.Option, uint32(repInfo), uint32(12), uint16(infoExport), uint64(s.d.Size()), uint16(exportFlags))
		s.put(uint64(optReply), head.Option, uint32(repInfo), uint32(14), uint16(infoBlockSize),
			uint32(sectorSize), uint32(pageSize), uint32(maxRequest))
		s.put(uint64(optReply), head.Option, uint32(repAck), uint32(0))
		return head.Option == optGo, s.w.Flush()
	default:
		s.put(uint64(optReply), head.Option, uint32(repErrUnsup), uint32(0))
		return false, s.w.Flush()
	}
}

type request struct {
	Magic       uint32
	Flags, Type uint16
	Handle      uint64
	Offset      uint64
	Length      uint32
}

// serveOne answers one request; more is false after a disconnect.
func (s *server) serveOne() (more bool, err error) {
	var req request
	err = binary.Read(s.r, binary.BigEndian, &req)
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if req.Magic != requestMagic {
		return false, fmt.Errorf("request with magic %x", req.Magic)
	}
	if req.Type == cmdDisc {
		return false, nil
	}
	var data []byte
	if req.Type == cmdRead || req.Type == cmdWrite {
		if req.Length > maxRequest {
			return false, fmt.Errorf("request of %d bytes", req.Length)
		}
		data = make([]byte, req.Length)
	}
	if req.Type == cmdWrite {
		if _, err := io.ReadFull(s.r, data); err != nil {
			return false, err
		}
	}
	code := errorCode(s.do(req, data))
	s.put(uint32(replyMagic), code, req.Handle)
	if req.Type == cmdRead && code == 0 {
		_, _ = s.w.Write(data) // see put
	}
	if s.r.Buffered() > 0 {
		return true, nil // answers to requests that came together go together
	}
	return true, s.w.Flush()
}

func (s *server) do(req request, data []byte) error {
	off, length, fua := int64(req.Offset), int64(req.Length), req.Flags&flagFUA != 0
	switch req.Type {
	case cmdRead:
		return s.d.ReadAt(data, off)
	case cmdWrite:
		return s.d.WriteAt(data, off, fua)
	case cmdFlush:
		return s.d.Flush()
	case cmdTrim:
		return s.d.Trim(length, off)
	case cmdWriteZeroes:
		return s.d.Zero(length, off, fua)
	default:
		return unix.EINVAL
	}
}

// errorCode translates to the protocol's codes, which are Linux's.
func errorCode(err error) uint32 {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errRange), errors.Is(err, unix.ENOSPC):
		return uint32(unix.ENOSPC)
	case errors.Is(err, errAlignment), errors.Is(err, unix.EINVAL):
		return uint32(unix.EINVAL)
	default:
		return uint32(unix.EIO)
	}
}
