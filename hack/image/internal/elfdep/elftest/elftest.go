// Package elftest makes small ELF files for tests: what a linker would say of a program, and no code.
//
// They cannot be run, and have nothing that a reader of names does not look at.
package elftest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// File is what an ELF file says of itself.
type File struct {
	Machine     elf.Machine // x86-64 if it is not set
	Interpreter string      // "" for a library
	Needs       []string    // names of libraries
	Imports     []string    // names of functions
	Opens       string      // what it says of libraries that it opens at run time, in JSON
}

const (
	headerSize  = 64
	progSize    = 56
	sectionSize = 64
)

// names is a string table.
type names struct{ bytes.Buffer }

func (n *names) add(name string) uint32 {
	at := uint32(n.Len())
	n.WriteString(name + "\x00")
	return at
}

// Build writes the file, little-endian and for 64 bits as both machines are that we build for.
func Build(f File) []byte {
	if f.Machine == elf.EM_NONE {
		f.Machine = elf.EM_X86_64
	}
	var table names
	table.add("")
	dynamic, symbols := tables(f, &table)
	body := [][]byte{[]byte(f.Interpreter + "\x00"), table.Bytes(), dynamic, symbols, note(f.Opens)}
	kinds := []elf.Section64{
		{Type: uint32(elf.SHT_PROGBITS)},
		{Type: uint32(elf.SHT_STRTAB)},
		{Type: uint32(elf.SHT_DYNAMIC), Link: 2, Entsize: 16},
		{Type: uint32(elf.SHT_DYNSYM), Link: 2, Entsize: elf.Sym64Size},
		{Type: uint32(elf.SHT_NOTE)},
	}
	sections := []elf.Section64{{}}
	at := uint64(headerSize + progSize)
	for i, data := range body {
		kinds[i].Off, kinds[i].Size = at, uint64(len(data))
		sections = append(sections, kinds[i])
		at += uint64(len(data))
	}
	var out bytes.Buffer
	write(&out, header(f, at, len(sections)))
	write(&out, program(f, sections[1]))
	for _, data := range body {
		out.Write(data)
	}
	write(&out, sections)
	return out.Bytes()
}

func tables(f File, table *names) (dynamic, symbols []byte) {
	var dyn, sym bytes.Buffer
	for _, library := range f.Needs {
		write(&dyn, elf.Dyn64{Tag: int64(elf.DT_NEEDED), Val: uint64(table.add(library))})
	}
	write(&dyn, elf.Dyn64{})
	write(&sym, elf.Sym64{})
	for _, function := range f.Imports {
		write(&sym, elf.Sym64{Name: table.add(function), Info: elf.ST_INFO(elf.STB_GLOBAL, elf.STT_FUNC)})
	}
	return dyn.Bytes(), sym.Bytes()
}

// note is one of the kind that elfdep reads, after one of another kind.
func note(text string) []byte {
	var b bytes.Buffer
	add := func(owner string, kind uint32, content string) {
		write(&b, []uint32{uint32(len(owner)), uint32(len(content)), kind})
		for _, part := range []string{owner, content} {
			b.WriteString(part)
			b.Write(make([]byte, (4-len(part)%4)%4))
		}
	}
	add("GNU\x00", 3, "build identifier")
	if text != "" {
		add("FDO\x00", 0x407c0c0a, text+"\x00")
	}
	return b.Bytes()
}

func header(f File, sectionsAt uint64, sections int) elf.Header64 {
	h := elf.Header64{
		Type: uint16(elf.ET_DYN), Machine: uint16(f.Machine), Version: uint32(elf.EV_CURRENT),
		Phoff: headerSize, Shoff: sectionsAt, Ehsize: headerSize,
		Phentsize: progSize, Phnum: 1, Shentsize: sectionSize, Shnum: uint16(sections), Shstrndx: 2,
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB)
	h.Ident[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	return h
}

func program(f File, interpreter elf.Section64) elf.Prog64 {
	if f.Interpreter == "" {
		return elf.Prog64{Type: uint32(elf.PT_NULL)}
	}
	return elf.Prog64{Type: uint32(elf.PT_INTERP), Off: interpreter.Off, Filesz: interpreter.Size}
}

// write cannot fail: the buffer grows, and all values have a fixed size.
func write(out *bytes.Buffer, value any) {
	if err := binary.Write(out, binary.LittleEndian, value); err != nil {
		panic(err)
	}
}
