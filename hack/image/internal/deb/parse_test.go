package deb

import (
	"slices"
	"strings"
	"testing"
)

const sum = "2ccd90667466894f13b343818a64b47af72ce905cfe34ef583763f1d4877a4b2"

func TestParseList(t *testing.T) {
	list := []Package{{Name: "zlib1g", Version: "1:1.2.13.dfsg-1", SHA256: sum}, {Name: "libc6", Version: "2.36-9+deb12u14", SHA256: sum}}
	text := FormatList("arm64", list)
	got, err := ParseList(text)
	if err != nil || len(got) != 2 || got[0].Name != "libc6" || got[1].String() != "zlib1g 1:1.2.13.dfsg-1" || got[1].SHA256 != sum {
		t.Errorf("got %v, %v", got, err)
	}
	if !strings.Contains(text, "arm64") || FormatList("arm64", got) != text {
		t.Errorf("written again: %s", text)
	}
}

func TestParseListRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                          "no package",
		"# only words\n\n":                          "no package",
		"kmod 30\n":                                 "line 1: \"kmod 30\": want package, version and sha256",
		"kmod 30 " + sum + " more":                  "want package, version and sha256",
		"# x\n\nkmod 30 " + sum[1:]:                 "line 3: package kmod, sha256",
		"kmod 30 " + strings.ToUpper(sum):           "sha256",
		"-o 30 " + sum:                              "package \"-o\"",
		"../kmod 30 " + sum:                         "package \"../kmod\"",
		"kmod ../30 " + sum:                         "version \"../30\"",
		"kmod 30/../x " + sum:                       "version",
		"kmod 30 " + sum + "\nkmod 31 " + sum:       "line 2: package kmod is there twice",
		"kmod 30;rm " + sum:                         "version",
		"kmod\x00 30 " + sum:                        "package",
		"kmod 30 " + sum + "\r\nnvme-cli -1 " + sum: "line 2: package nvme-cli, version \"-1\"",
	} {
		if _, err := ParseList(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestParseSimulation(t *testing.T) {
	// Recorded with apt 2.6.1.
	got, err := parseSimulation(`NOTE: This is only a simulation!
Reading package lists...
Inst gcc-12-base (12.2.0-14+deb12u1 Debian:12.15/oldstable [amd64])
Inst libc6 (2.36-9+deb12u14 Debian:12.15/oldstable [amd64]) []
Inst zlib1g (1:1.2.13.dfsg-1 Debian:12.15/oldstable, Debian-Security:12/oldstable-security [amd64])
Conf gcc-12-base (12.2.0-14+deb12u1 Debian:12.15/oldstable [amd64])
`)
	want := []string{"gcc-12-base=12.2.0-14+deb12u1", "libc6=2.36-9+deb12u14", "zlib1g=1:1.2.13.dfsg-1"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
	for _, text := range []string{"", "Reading package lists...\n", "Inst kmod [30] changed its mind\n"} {
		if got, err := parseSimulation(text); err == nil {
			t.Errorf("%q: got %q", text, got)
		}
	}
}

// Recorded with apt 2.6.1, and shortened.
const stanzas = `Package: e2fsprogs
Source: e2fsprogs (1.47.0-2)
Version: 1.47.0-2+b2
Pre-Depends: libblkid1 (>= 2.36), libc6 (>= 2.34)
Depends: logsave
Description: ext2/ext3/ext4 file system utilities
 Depends: this is not a field
Tag: admin::filesystem, implemented-in::c,
 interface::commandline
Size: 594280
SHA256: ` + sum + `

Package: e2fsprogs
Version: 1.47.0-2+b2
SHA256: ` + sum + `

Package: base-files
Version: 12.4+deb12u15
Pre-Depends: awk
Provides: base
SHA256: ` + sum + `

`

func TestParseStanzas(t *testing.T) {
	got, err := parseStanzas(stanzas)
	if err != nil || len(got) != 2 {
		t.Fatalf("got %v, %v", got, err)
	}
	if want := []string{"libblkid1", "libc6", "logsave"}; !slices.Equal(got[0].Depends, want) {
		t.Errorf("depends on %q, want %q", got[0].Depends, want)
	}
	if got[0].Size != 594280 || got[1].Size != 0 {
		t.Errorf("sizes %d and %d", got[0].Size, got[1].Size)
	}
	if got[1].String() != "base-files 12.4+deb12u15" || got[1].SHA256 != sum {
		t.Errorf("got %+v", got[1])
	}
	if _, err := parseStanzas("Package: kmod\nVersion: 30\nMD5sum: 0\n"); err == nil || !strings.Contains(err.Error(), "sha256") {
		t.Errorf("without a digest: %v", err)
	}
}

func TestParseDepends(t *testing.T) {
	got := parseDepends(", libc6 (>= 2.34), python3:any, mawk | gawk (>= 4) ,")
	if want := []string{"libc6", "python3", "mawk", "gawk"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
