package ack

import (
	"bytes"
	"slices"
	"testing"
)

func TestDump(t *testing.T) {
	full := make([]byte, BlockSize)
	Fill(full, 7, 3, 9)
	zero := make([]byte, BlockSize)
	for name, in := range map[string][]byte{
		"nothing": {}, "zeros": slices.Concat(zero, zero), "ends with data": slices.Concat(zero, full),
		"ends with zeros": slices.Concat(full, full, zero), "ends within a block": slices.Concat(zero, full, []byte("x")),
		"longer than a read": slices.Concat(full, make([]byte, dumpUnit), full),
	} {
		var b bytes.Buffer
		if err := dump(&b, bytes.NewReader(in), 0); err != nil {
			t.Fatal(err)
		}
		want := append(slices.Clone(in), make([]byte, (BlockSize-len(in)%BlockSize)%BlockSize)...)
		got, err := Undump(b.Bytes())
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes came back as %d, %v", name, len(in), len(got), err)
		}
		b.Reset()
		if err := dump(&b, bytes.NewReader(in), 1); err != nil {
			t.Fatal(err)
		}
		if got, err := Undump(b.Bytes()); err != nil || !bytes.Equal(got, want[:min(len(want), BlockSize)]) {
			t.Errorf("%s: the first block came back as %d bytes, %v", name, len(got), err)
		}
		for n := range min(b.Len(), 2*BlockSize) {
			if got, err := Undump(b.Bytes()[:n]); err == nil && len(got) >= len(want) && len(want) > 0 {
				t.Fatalf("%s: whole after %d of %d bytes", name, n, b.Len())
			}
		}
	}
}

func TestAuthor(t *testing.T) {
	b := make([]byte, BlockSize)
	if _, _, stamped := Author(b); stamped {
		t.Error("zeros bear a stamp")
	}
	Fill(b, 7, 3, 9)
	clear(b[BlockSize/2:]) // torn
	if writer, seq, stamped := Author(b); writer != 7 || seq != 9 || !stamped {
		t.Errorf("writer %d, write %d, %v", writer, seq, stamped)
	}
	if _, err := Check(b, 7, 3); err == nil {
		t.Error("a torn block is right")
	}
}
