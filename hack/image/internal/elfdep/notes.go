package elfdep

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"fmt"
)

// A program that opens a library at run time can say so in a note: ELF dlopen metadata, of the UAPI group's
// specifications. Debian 13's modprobe does, about the compression of modules.
const (
	dlopenOwner = "FDO\x00"
	dlopenType  = 0x407c0c0a
)

// dlopenNote is one of the list that such a note has in JSON.
type dlopenNote struct {
	Priority string   `json:"priority"` // required, recommended (if it is empty), or suggested
	Names    []string `json:"soname"`   // of which one is enough, the best first
}

// opened returns the libraries that a file says it opens, without those that are only suggested.
func opened(f *elf.File) ([]string, error) {
	var libraries []string
	for _, section := range f.Sections {
		if section.Type != elf.SHT_NOTE {
			continue
		}
		data, err := section.Data()
		if err != nil {
			return nil, fmt.Errorf("read notes: %w", err)
		}
		for text := range notes(data, f.ByteOrder) {
			var list []dlopenNote
			if err := json.Unmarshal(bytes.TrimRight(text, "\x00"), &list); err != nil {
				return nil, fmt.Errorf("read note of libraries that are opened: %w", err)
			}
			for _, note := range list {
				if note.Priority != "suggested" && len(note.Names) > 0 {
					libraries = append(libraries, note.Names[0])
				}
			}
		}
	}
	return libraries, nil
}

// notes yields the content of those of our kind. Each has the sizes of owner and content and a type, in 4 bytes each,
// then owner and content, both filled up to a multiple of 4.
func notes(data []byte, order binary.ByteOrder) func(yield func([]byte) bool) {
	const head = 12
	fill := func(n uint64) uint64 { return (n + 3) &^ 3 }
	return func(yield func([]byte) bool) {
		for len(data) >= head {
			owner, content := uint64(order.Uint32(data)), uint64(order.Uint32(data[4:]))
			kind := order.Uint32(data[8:])
			start := head + fill(owner)
			if start+content > uint64(len(data)) {
				return
			}
			ours := kind == dlopenType && string(data[head:head+owner]) == dlopenOwner
			if ours && !yield(data[start:start+content]) {
				return
			}
			data = data[min(start+fill(content), uint64(len(data))):]
		}
	}
}
