package nodetest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Medium is the bytes behind a namespace.
type Medium interface {
	Probe() (filesystem.Content, error)
	AllZero() (bool, error)
	Format(kind filesystem.Kind) error
	// Tear leaves what a mkfs leaves that was killed.
	Tear() error
	Check() error
	// Store appends what an application wrote and the device took.
	Store(text string) error
}

// Memory is a Medium that is only described. The zero value is blank.
type Memory struct {
	mu      sync.Mutex
	content filesystem.Content
	written bool
	broken  bool
	data    string
	formats int
	probing error
}

var _ Medium = (*Memory)(nil)

// Set makes the medium hold c; anything but blank has been written.
func (m *Memory) Set(c filesystem.Content) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.content, m.written = c, m.written || c.Kind != filesystem.Blank
}

// SetWritten makes the medium one that was written somewhere, whatever Probe
// finds at its ends.
func (m *Memory) SetWritten() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.written = true
}

// SetBroken makes Check fail: errors that need a person.
func (m *Memory) SetBroken() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broken = true
}

// FailReads makes Probe and AllZero fail; nil makes them work again.
func (m *Memory) FailReads(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.probing = err
}

// Kind is what the medium holds.
func (m *Memory) Kind() filesystem.Kind {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.kind()
}

func (m *Memory) kind() filesystem.Kind {
	if m.content.Kind == "" {
		return filesystem.Blank
	}
	return m.content.Kind
}

// Written says whether the pool would have a block of it.
func (m *Memory) Written() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.written
}

// Formats is how often a file system was made on it.
func (m *Memory) Formats() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.formats
}

// Data is everything that applications wrote and the device took, since the
// last format.
func (m *Memory) Data() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.data
}

// Probe implements Medium.
func (m *Memory) Probe() (filesystem.Content, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.content
	c.Kind = m.kind()
	return c, m.probing
}

// AllZero implements Medium.
func (m *Memory) AllZero() (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.written, m.probing
}

// Format implements Medium.
func (m *Memory) Format(kind filesystem.Kind) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.content, m.written, m.data = filesystem.Content{Kind: kind, Detail: "made by a test"}, true, ""
	m.formats++
	return nil
}

// Tear implements Medium.
func (m *Memory) Tear() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.content, m.written = filesystem.Content{Kind: filesystem.Other, Detail: "half a file system"}, true
	return nil
}

// Check implements Medium.
func (m *Memory) Check() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken {
		return fmt.Errorf("errors that need a person: %w", volume.ErrPrecondition)
	}
	m.content.NeedsCheck = false
	return nil
}

// Store implements Medium.
func (m *Memory) Store(text string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.data += text
	m.written = true
	return nil
}

// File is a Medium in a file, which the real ProbeReader reads; a format leaves
// just enough there for it. The file exists already.
type File struct{ Path string }

var _ Medium = File{}

// Where File writes: the ext4 superblock's magic and feature words (1024 bytes
// in), the XFS magic, and data far from both.
const (
	extMagicAt  = 1024 + 0x38
	extCompatAt = 1024 + 0x5C
	dataAt      = 64 << 10
)

func (f File) open(use func(*os.File, int64) error) (err error) {
	file, err := os.OpenFile(f.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	return use(file, info.Size())
}

// Probe implements Medium.
func (f File) Probe() (c filesystem.Content, err error) {
	err = f.open(func(file *os.File, size int64) error {
		c, err = filesystem.ProbeReader(file, size)
		return err
	})
	return c, err
}

// AllZero implements Medium by what Probe sees.
func (f File) AllZero() (bool, error) {
	c, err := f.Probe()
	return c.Kind == filesystem.Blank, err
}

// Format implements Medium.
func (f File) Format(kind filesystem.Kind) error {
	return f.open(func(file *os.File, _ int64) error {
		if kind == filesystem.XFS {
			_, err := file.WriteAt([]byte("XFSB"), 0)
			return err
		}
		magic := binary.LittleEndian.AppendUint16(nil, 0xEF53)
		journal := binary.LittleEndian.AppendUint32(nil, 4)
		_, err1 := file.WriteAt(magic, extMagicAt)
		_, err2 := file.WriteAt(journal, extCompatAt)
		return errors.Join(err1, err2)
	})
}

// Tear implements Medium.
func (f File) Tear() error { return f.Store("half a file system") }

// Check implements Medium.
func (f File) Check() error { return nil }

// Store implements Medium; it keeps only the last text.
func (f File) Store(text string) error {
	return f.open(func(file *os.File, _ int64) error {
		_, err := file.WriteAt([]byte(text), dataAt)
		return err
	})
}
