package app

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTextRanges(t *testing.T) {
	t.Parallel()
	maps := `00400000-00b9d000 r-xp 00000000 fe:00 131 /usr/local/bin/holdfast
00b9d000-0124f000 r--p 0079d000 fe:00 131 /usr/local/bin/holdfast
0124f000-012a3000 rw-p 00e4f000 fe:00 131 /usr/local/bin/holdfast
012a3000-012f8000 rw-p 00000000 00:00 0
c000000000-c000800000 rw-p 00000000 00:00 0
7f0000000000-7f0000001000 r--p 00000000 fe:00 7 /etc/other
7ffc0000-7ffd0000 r-xp 00000000 00:00 0 [vdso]
nonsense
`
	want := []addresses{{0x400000, 0xb9d000}, {0xb9d000, 0x124f000}}
	if diff := cmp.Diff(want, textRanges(maps, "/usr/local/bin/holdfast"), cmp.AllowUnexported(addresses{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := textRanges(maps, "/usr/local/bin/gone (deleted)"); got != nil {
		t.Errorf("%v", got)
	}
}

// TestShed: the program goes on with what it has let go of.
func TestShed(t *testing.T) {
	t.Parallel()
	if err := shed(); err != nil {
		t.Fatal(err)
	}
}
