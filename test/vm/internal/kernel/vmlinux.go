package kernel

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Offsets in the header of a bzImage (Documentation/arch/x86/boot.rst).
const (
	setupSectorsAt  = 0x1f1
	magicAt         = 0x202
	payloadOffsetAt = 0x248
	payloadLengthAt = 0x24c
	headerEnd       = 0x250
	sectorSize      = 512
)

// phys32Entry is the ELF note by which a kernel says that it can be entered without its decompressor (PVH).
const phys32Entry = 18

var errNoPayload = errors.New("not a bzImage with a known payload")

// Bootable returns the image to give to QEMU: the kernel unpacked, where that is possible, else the packed one. Under
// emulation a kernel that need not unpack itself is up one to two seconds earlier. It makes no other difference, except
// that the kernel then is not at a random address.
func (k *Kernel) Bootable(ctx context.Context) string {
	plain := filepath.Join(k.dir, "boot", "vmlinux-"+k.Release)
	if _, err := os.Stat(plain); err == nil {
		return plain
	}
	if err := unpack(ctx, k.Image(), plain); err != nil {
		return k.Image()
	}
	return plain
}

// unpack writes the ELF kernel inside a bzImage to plain.
func unpack(ctx context.Context, image, plain string) error {
	raw, err := os.ReadFile(image)
	if err != nil {
		return err
	}
	payload, size, err := payloadOf(raw)
	if err != nil {
		return fmt.Errorf("%s: %w", image, err)
	}
	program, err := unpacker(payload)
	if err != nil {
		return fmt.Errorf("%s: %w", image, err)
	}
	cmd := exec.CommandContext(ctx, program, "-dc")
	cmd.Stdin = bytes.NewReader(payload)
	vmlinux, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	if len(vmlinux) != size || !hasPVH(vmlinux) {
		return fmt.Errorf("%s: %w", image, errNoPayload)
	}
	part := plain + ".part"
	if err := os.WriteFile(part, vmlinux, 0o644); err != nil {
		return err
	}
	return os.Rename(part, plain)
}

// payloadOf finds the packed kernel and the length it has when unpacked, which follows it.
func payloadOf(image []byte) (payload []byte, size int, err error) {
	if len(image) < headerEnd || string(image[magicAt:magicAt+4]) != "HdrS" {
		return nil, 0, errNoPayload
	}
	sectors := int(image[setupSectorsAt])
	if sectors == 0 {
		sectors = 4 // what 0 means since Linux 1.3
	}
	start := (sectors+1)*sectorSize + int(binary.LittleEndian.Uint32(image[payloadOffsetAt:]))
	end := start + int(binary.LittleEndian.Uint32(image[payloadLengthAt:]))
	if end > len(image) || end-start < 8 {
		return nil, 0, errNoPayload
	}
	return image[start : end-4], int(binary.LittleEndian.Uint32(image[end-4:])), nil
}

// unpacker returns the program for a payload, by its first bytes.
func unpacker(payload []byte) (string, error) {
	for magic, program := range map[string]string{
		"\xfd7zXZ": "xz", "\x28\xb5\x2f\xfd": "zstd", "\x02\x21\x4c\x18": "lz4", "\x1f\x8b": "gzip",
	} {
		if bytes.HasPrefix(payload, []byte(magic)) {
			return exec.LookPath(program)
		}
	}
	return "", errNoPayload
}

func hasPVH(vmlinux []byte) bool {
	f, err := elf.NewFile(bytes.NewReader(vmlinux))
	if err != nil {
		return false
	}
	defer f.Close()
	for _, prog := range f.Progs {
		if prog.Type != elf.PT_NOTE {
			continue
		}
		notes := make([]byte, prog.Filesz)
		if _, err := prog.ReadAt(notes, 0); err == nil && hasNote(notes, "Xen", phys32Entry) {
			return true
		}
	}
	return false
}

// hasNote walks ELF notes: lengths of name and content, type, then both padded to four bytes.
func hasNote(notes []byte, name string, kind uint32) bool {
	pad := func(n uint32) int { return int(n+3) &^ 3 }
	for len(notes) >= 12 {
		nameLen, descLen := binary.LittleEndian.Uint32(notes), binary.LittleEndian.Uint32(notes[4:])
		total := 12 + pad(nameLen) + pad(descLen)
		if total < 12 || total > len(notes) {
			return false
		}
		if binary.LittleEndian.Uint32(notes[8:]) == kind && bytes.HasPrefix(notes[12:12+nameLen], []byte(name+"\x00")) {
			return true
		}
		notes = notes[total:]
	}
	return false
}
