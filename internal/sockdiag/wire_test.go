package sockdiag

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// message is struct inet_diag_msg with zeros behind the part that is read.
func message(t testing.TB, head string) []byte {
	t.Helper()
	b, err := hex.DecodeString(head)
	if err != nil {
		t.Fatal(err)
	}
	return append(b, make([]byte, msgSize-len(b))...)
}

const (
	v4 = "02020000" + "c350" + "1144" + "0a4d000b000000000000000000000000" + "0a4d000a000000000000000000000000" + "00000000" + "0102030405060708"
	v6 = "0a020000" + "c350" + "1144" + "fd000000000000000000000000000001" + "fd000000000000000000000000000002" + "00000000" + "0102030405060708"
	m6 = "0a020000" + "c350" + "1144" + "00000000000000000000ffff0a4d000b" + "00000000000000000000ffff0a4d000a" + "00000000" + "0102030405060708"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for head, want := range map[string]string{v4: "10.77.0.10:4420", v6: "[fd00::2]:4420", m6: "10.77.0.10:4420"} {
		b := message(t, head)
		s, err := parse(b)
		if err != nil || s.remote != netip.MustParseAddrPort(want) || s.state != synSent || !bytes.Equal(s.id, b[4:4+idSize]) {
			t.Errorf("%s: %+v, %v", head, s, err)
		}
		for n := range msgSize {
			if _, err := parse(b[:n]); err == nil {
				t.Errorf("%d bytes of %s were enough", n, head)
			}
		}
		// What is asked to be destroyed is named by what was found.
		if r := request(s.family, 1<<synSent, s.id); len(r) != reqSize || !bytes.Equal(r[8:], s.id) || r[1] != unix.IPPROTO_TCP {
			t.Errorf("request % x", r)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, head := range []string{v4, v6, m6} {
		f.Add(message(f, head))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parse(b); err == nil && (len(s.id) != idSize || !s.remote.IsValid()) {
			t.Errorf("%+v of % x", s, b)
		}
	})
}
