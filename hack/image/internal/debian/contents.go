// Package debian decides what an image has from Debian: the programs that it is for, the libraries that these need, and
// what a licence or a scanner asks for. Everything else of the packages stays outside, shells first.
//
// It decides over trees in memory, and gets packages from a Source. It runs nothing.
package debian

import (
	"cmp"
	"fmt"
	"io/fs"
	"strings"

	"github.com/holdfast-csi/holdfast/hack/image/internal/deb"
	"github.com/holdfast-csi/holdfast/hack/image/internal/rootfs"
)

// Request is what an image is to have from Debian. All of it comes from the packages that are named, but libraries,
// which can come from those that these depend on.
type Request struct {
	Packages []string // beside those of Programs
	Programs []Program
	Trees    []string // directories and files, as they are, with the libraries that ELF files among them need
	Without  []string // names of files and directories below Trees that are left out, these with all that is in them
	Users    []User   // beside root

	// Pinned, if there are any, are the only packages that anything may come from, and each of them must be needed: a
	// release is rebuilt from its list, or not at all. Without, apt says which packages there are.
	Pinned []deb.Package
}

// Program is what the image is for, and the package that has it; "" if any of the request's may.
type Program struct{ Path, Package string }

// User is a user, and a group of the same name and number.
type User struct {
	Name string
	ID   int
	Home string // which is not made
}

// Holdfast is what Holdfast's image has. mkfs.ext4 without its configuration makes file systems with other features.
func Holdfast(pinned []deb.Package) Request {
	return Request{
		Programs: Programs(),
		Trees:    []string{"/etc/mke2fs.conf"},
		Users:    []User{{Name: "nonroot", ID: 65532, Home: "/nonexistent"}},
		Pinned:   pinned,
	}
}

// Programs returns all that Holdfast executes.
func Programs() []Program {
	return []Program{
		{"/usr/sbin/mkfs.ext4", "e2fsprogs"},
		{"/usr/sbin/e2fsck", "e2fsprogs"},
		{"/usr/sbin/mkfs.xfs", "xfsprogs"},
		{"/usr/sbin/modprobe", "kmod"},
		{"/usr/sbin/nvme", "nvme-cli"},
	}
}

// Search is the search path of an image.
const Search = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// basePackage has the licences that copyright files refer to, and says which Debian it is.
const basePackage = "base-files"

// baseFiles say which Debian it is.
func baseFiles() []string { return []string{"/etc/os-release", "/etc/debian_version"} }

const licencesDir = "/usr/share/common-licenses/"

// packages returns those that are named, each once.
func (r Request) packages() []string {
	var names []string
	seen := make(map[string]bool)
	add := func(name string) {
		if name != "" && !seen[name] {
			names = append(names, name)
		}
		seen[name] = true
	}
	for _, name := range r.Packages {
		add(name)
	}
	for _, p := range r.Programs {
		add(p.Package)
	}
	return names
}

// anyOf says which package had to have a path: this one, or any that is looked into if it is "".
func (r Request) anyOf(pkg string) string {
	return cmp.Or(pkg, strings.Join(append(r.packages(), basePackage), " or "))
}

// mergedUsr are the links that Debian has at the root.
func mergedUsr(arch string) []string {
	if arch == "amd64" {
		return []string{"bin", "sbin", "lib", "lib64"}
	}
	return []string{"bin", "sbin", "lib"}
}

// merge makes /bin and the like links into /usr, before anything is put below them.
func merge(tree *rootfs.Tree, arch string) error {
	for _, name := range mergedUsr(arch) {
		if err := tree.Directory("/usr/"+name, 0o755); err != nil {
			return err
		}
		if err := tree.Link("usr/"+name, "/"+name); err != nil {
			return err
		}
	}
	return nil
}

// layout is the rest of what programs, and who runs containers, expect of a root directory.
func layout(tree *rootfs.Tree, users []User) error {
	for _, dir := range []string{
		"/dev", "/etc", "/proc", "/run", "/sys", "/usr/lib/modules", "/usr/local/bin", "/usr/local/sbin", "/var/lib",
	} {
		if err := tree.Directory(dir, 0o755); err != nil {
			return err
		}
	}
	if err := tree.Directory("/root", 0o700); err != nil {
		return err
	}
	if err := tree.Directory("/tmp", 0o777|fs.ModeSticky); err != nil {
		return err
	}
	var passwd, group strings.Builder
	for _, u := range append([]User{{Name: "root", Home: "/root"}}, users...) {
		fmt.Fprintf(&passwd, "%[1]s:x:%[2]d:%[2]d:%[1]s:%[3]s:/usr/sbin/nologin\n", u.Name, u.ID, u.Home)
		fmt.Fprintf(&group, "%s:x:%d:\n", u.Name, u.ID)
	}
	for name, content := range map[string]string{
		"/etc/passwd": passwd.String(),
		"/etc/group":  group.String(),
		// The order that glibc and Go have without it differs.
		"/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	} {
		if err := tree.Bytes(name, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}
