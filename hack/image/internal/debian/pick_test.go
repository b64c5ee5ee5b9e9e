package debian

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/hack/image/internal/deb"
	"github.com/holdfast-csi/holdfast/hack/image/internal/debian/debiantest"
)

// request is what Holdfast's image has, if mkfs.ext4 were all.
func request(pinned ...deb.Package) Request {
	r := Holdfast(pinned)
	r.Programs = []Program{{"/usr/sbin/mkfs.ext4", "e2fsprogs"}}
	return r
}

func names(c *Contents) []string {
	var names []string
	for _, p := range c.Packages {
		names = append(names, p.Name)
	}
	return names
}

func TestPick(t *testing.T) {
	debian := debiantest.Small()
	c, err := Pick(t.Context(), debian, "amd64", request())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"base-files", "e2fsprogs", "gcc-12-base", "libc6", "libcom-err2", "libext2fs2", "libgcc-s1"}
	if got := names(c); !slices.Equal(got, want) {
		t.Errorf("packages %q, want %q", got, want)
	}
	if slices.Contains(debian.Unpacked, "perl") {
		t.Error("perl was looked into")
	}
	for _, name := range []string{
		"/usr/sbin/mke2fs", "/usr/sbin/mkfs.ext4", "/etc/mke2fs.conf", "/usr/share/common-licenses/GPL-2",
		"/lib64/ld-linux-x86-64.so.2", "/usr/lib/os-release", "/usr/share/doc/libgcc-s1/copyright",
		"/usr/share/doc/e2fsprogs/copyright", "/var/lib/dpkg/status.d/libc6", "/tmp", "/etc/passwd",
	} {
		if _, _, err := c.Tree.Resolve(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"/usr/sbin/badblocks", "/usr/bin/perl", "/bin/sh"} {
		if _, _, err := c.Tree.Resolve(name); err == nil {
			t.Errorf("%s is in the image", name)
		}
	}
	t.Run("again from its list", func(t *testing.T) {
		again, err := Pick(t.Context(), debiantest.Small(), "amd64", request(c.Packages...))
		if err != nil || !slices.Equal(again.Tree.Names(), c.Tree.Names()) || !slices.Equal(names(again), names(c)) {
			t.Errorf("got %v, %v", again, err)
		}
	})
}

func TestPickFails(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*debiantest.Archive)
		want   []string // in the error
	}{
		"no program": {func(f *debiantest.Archive) { delete(f.Packages["e2fsprogs"].Files, "/sbin/mkfs.ext4") },
			[]string{"program /usr/sbin/mkfs.ext4 of package e2fsprogs"}},
		"no package": {func(f *debiantest.Archive) { delete(f.Packages, "e2fsprogs") }, []string{"unable to locate package e2fsprogs"}},
		"no library": {func(f *debiantest.Archive) { delete(f.Packages, "libcom-err2") },
			[]string{"libe2p.so.2.3 needs libcom_err.so.2", "none of the packages", "libext2fs2"}},
		"no configuration": {func(f *debiantest.Archive) { delete(f.Packages["e2fsprogs"].Files, "/etc/mke2fs.conf") }, []string{"/etc/mke2fs.conf"}},
		"no copyright": {func(f *debiantest.Archive) { delete(f.Packages["libc6"].Files, "/usr/share/doc/libc6/copyright") },
			[]string{"copyright of libc6"}},
		"no package with the copyright": {func(f *debiantest.Archive) { delete(f.Packages, "gcc-12-base") },
			[]string{"copyright of libgcc-s1", "gcc-12-base"}},
	} {
		t.Run(name, func(t *testing.T) {
			debian := debiantest.Small()
			c.change(debian)
			_, err := Pick(t.Context(), debian, "amd64", request())
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %q in it", err, want)
				}
			}
		})
	}
}

func TestPickPinnedFails(t *testing.T) {
	debian := debiantest.Small()
	for name, c := range map[string]struct {
		pinned []string
		want   string
	}{
		"one too many": {slices.Collect(maps.Keys(debian.Packages)), "package perl 1 is on the list, but"},
		"one too few":  {[]string{"base-files", "e2fsprogs", "libc6", "libext2fs2"}, "needs libcom_err.so.2"},
		"no program":   {[]string{"base-files"}, "mkfs.ext4 of package e2fsprogs"},
	} {
		var pinned []deb.Package
		for _, one := range c.pinned {
			p := debian.Get(one)
			p.Depends = nil // a list does not say
			pinned = append(pinned, p)
		}
		if _, err := Pick(t.Context(), debiantest.Small(), "amd64", request(pinned...)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestCompare: what is looked into first for a library of a package that depends on all of these.
func TestCompare(t *testing.T) {
	own := []deb.Package{
		{Name: "libicu72", Size: 9 << 20}, {Name: "libllvm14", Size: 24 << 20}, {Name: "libpam0g", Size: 90 << 10},
		{Name: "libzstd1", Size: 300 << 10}, {Name: "locales", Size: 4 << 20}, {Name: "zlib1g", Size: 80 << 10},
	}
	var depends []string
	for _, p := range own {
		depends = append(depends, p.Name)
	}
	for library, want := range map[string]string{
		"libzstd.so.1":     "libzstd1",  // called like it
		"libicui18n.so.72": "libicu72",  // almost called like it
		"libpam.so.0":      "libpam0g",  // almost called like it
		"libcrypto.so.3":   "zlib1g",    // called like none: the smallest
		"libgnu.so.1":      "libgnu1",   // called like it, and no dependency
		"libLLVM-14.so.1":  "libllvm14", // almost called like it
	} {
		all := append([]deb.Package{{Name: "libgnu1", Size: 1}, {Name: "libx11-6", Size: 1}}, own...)
		got := slices.MinFunc(all, func(a, b deb.Package) int { return compare(a, b, library, depends) })
		if got.Name != want {
			t.Errorf("%s: %s, want %s", library, got.Name, want)
		}
	}
}

func TestIsOf(t *testing.T) {
	for library, pkg := range map[string]string{
		"libnvme.so.1": "libnvme1", "libpcre2-8.so.0": "libpcre2-8-0", "libcom_err.so.2": "libcom-err2", "libgcc_s.so.1": "libgcc-s1",
		"libext2fs.so.2": "libext2fs2t64", "libgcrypt.so.20": "libgcrypt20", "libdbus-1.so.3": "libdbus-1-3",
	} {
		if !isOf(pkg, library) {
			t.Errorf("%s is not taken to have %s", pkg, library)
		}
	}
	for library, pkg := range map[string]string{
		"libz.so.1": "zlib1g", "libnvme.so.1": "libnvme-dev", "/lib64/ld-linux-x86-64.so.2": "libc6", "libcrypto.so.3": "libssl3",
	} {
		if isOf(pkg, library) {
			t.Errorf("%s is taken to have %s", pkg, library)
		}
	}
}

// TestPrograms: what a name is looked up in must have the program in it.
func TestPrograms(t *testing.T) {
	for _, p := range Programs() {
		dir := p.Path[:strings.LastIndex(p.Path, "/")]
		if !slices.Contains(strings.Split(Search, ":"), dir) {
			t.Errorf("%s is not in %s", p.Path, Search)
		}
	}
}
