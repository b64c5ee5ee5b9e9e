// Package debiantest is a Debian of a few packages, in memory: a source of packages for tests.
package debiantest

import (
	"context"
	"errors"
	"strings"

	"github.com/holdfast-csi/holdfast/hack/image/internal/deb"
	"github.com/holdfast-csi/holdfast/hack/image/internal/elfdep/elftest"
	"github.com/holdfast-csi/holdfast/hack/image/internal/rootfs"
)

// Package is what a package depends on, and its files; a content that starts with "-> " makes a link.
type Package struct {
	Size    int64
	Depends []string
	Files   map[string]string
}

// Archive is an archive of packages.
type Archive struct {
	Packages map[string]Package
	Unpacked []string // names, in order
}

// Resolve returns all packages, whatever is asked for.
func (a *Archive) Resolve(_ context.Context, names []string) ([]deb.Package, error) {
	var all []deb.Package
	for name := range a.Packages { // apt finds more than what is needed, too
		all = append(all, a.Get(name))
	}
	for _, name := range names {
		if _, ok := a.Packages[name]; !ok {
			return nil, errors.New("unable to locate package " + name)
		}
	}
	return all, nil
}

// Get returns what apt says of a package.
func (a *Archive) Get(name string) deb.Package {
	return deb.Package{Name: name, Version: "1", SHA256: "of " + name, Size: a.Packages[name].Size, Depends: a.Packages[name].Depends}
}

// Unpack puts the package's files.
func (a *Archive) Unpack(_ context.Context, p deb.Package, tree *rootfs.Tree) ([]byte, error) {
	a.Unpacked = append(a.Unpacked, p.Name)
	for name, content := range a.Packages[p.Name].Files {
		file := rootfs.File{Mode: 0o755, Data: []byte(content), From: p.Name}
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			link := rootfs.Tree{}
			if err := link.Link(target, "/x"); err != nil {
				return nil, err
			}
			file, _ = link.Get("/x")
			file.From = p.Name
		}
		if err := tree.Put(name, file); err != nil {
			return nil, err
		}
	}
	return []byte("Package: " + p.Name + "\n"), nil
}

// Program is an ELF file that needs libraries, and the dynamic linker.
func Program(needs ...string) string {
	return string(elftest.Build(elftest.File{Interpreter: "/lib64/ld-linux-x86-64.so.2", Needs: needs, Imports: []string{"backtrace"}}))
}

// Library is an ELF file that needs libraries.
func Library(needs ...string) string { return string(elftest.Build(elftest.File{Needs: needs})) }

// Small is a Debian with one program, which is odd in all the ways that the real ones are.
func Small() *Archive {
	const lib = "/lib/x86_64-linux-gnu/"
	return &Archive{Packages: map[string]Package{
		"base-files": {Files: map[string]string{
			"/usr/lib/os-release": "ID=debian", "/etc/os-release": "-> ../usr/lib/os-release", "/etc/debian_version": "12",
			"/usr/share/common-licenses/GPL-2": "free", "/usr/share/common-licenses/GPL": "-> GPL-2",
			"/usr/share/doc/base-files/copyright": "c",
		}},
		"e2fsprogs": {Depends: []string{"libext2fs2", "libcom-err2", "libc6", "perl"}, Files: map[string]string{
			"/sbin/mke2fs": Program("libe2p.so.2", "libc.so.6"), "/sbin/mkfs.ext4": "-> mke2fs", "/sbin/badblocks": Program(),
			"/etc/mke2fs.conf": "[defaults]", "/usr/share/doc/e2fsprogs": "-> libext2fs2",
		}},
		"libext2fs2": {Depends: []string{"libc6"}, Files: map[string]string{ // not called like libe2p
			lib + "libe2p.so.2": "-> libe2p.so.2.3", lib + "libe2p.so.2.3": Library("libcom_err.so.2"), // depends on it silently
			"/usr/share/doc/libext2fs2/copyright": "c",
		}},
		"libcom-err2": {Files: map[string]string{lib + "libcom_err.so.2": Library(), "/usr/share/doc/libcom-err2/copyright": "c"}},
		"libc6": {Depends: []string{"libgcc-s1"}, Files: map[string]string{
			lib + "libc.so.6": Library("ld-linux-x86-64.so.2"), lib + "ld-linux-x86-64.so.2": Library(),
			"/lib64/ld-linux-x86-64.so.2": "-> " + lib + "ld-linux-x86-64.so.2", "/usr/share/doc/libc6/copyright": "c",
		}},
		"libgcc-s1": {Depends: []string{"gcc-12-base"}, Files: map[string]string{
			lib + "libgcc_s.so.1": Library(), "/usr/share/doc/libgcc-s1": "-> gcc-12-base",
		}},
		"gcc-12-base": {Files: map[string]string{"/usr/share/doc/gcc-12-base/copyright": "c"}},
		"perl":        {Files: map[string]string{"/usr/bin/perl": Program()}},
	}}
}
