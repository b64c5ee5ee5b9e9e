// Package debian decides what the image has from Debian: the programs that the node plugin executes, the libraries that
// these need, and what a licence or a scanner asks for. Everything else of the packages stays outside, shells first.
//
// It decides over trees in memory, and gets packages from a Source. It runs nothing.
package debian

import (
	"io/fs"
	"path"
	"strings"

	"github.com/holdfast-csi/holdfast/hack/image/internal/rootfs"
)

// Program is what the node plugin executes, and the package that has it.
type Program struct{ Path, Package string }

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

// Search is the search path of the image.
const Search = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// basePackage has the licences that copyright files refer to, and says which Debian it is.
const basePackage = "base-files"

// extraFiles are taken although no program names them. mkfs.ext4 without its configuration makes file systems with
// other features.
func extraFiles() []string {
	return []string{"/etc/mke2fs.conf", "/etc/os-release", "/etc/debian_version"}
}

const licencesDir = "/usr/share/common-licenses/"

// packageNames returns the packages to ask for, each once.
func packageNames(programs []Program) []string {
	names := []string{basePackage}
	seen := map[string]bool{basePackage: true}
	for _, p := range programs {
		if !seen[p.Package] {
			names = append(names, p.Package)
		}
		seen[p.Package] = true
	}
	return names
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
func layout(tree *rootfs.Tree) error {
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
	for name, content := range map[string]string{
		"/etc/passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\n" +
			"nonroot:x:65532:65532:nonroot:/nonexistent:/usr/sbin/nologin\n",
		"/etc/group": "root:x:0:\nnonroot:x:65532:\n",
		// The order that glibc and Go have without it differs.
		"/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	} {
		if err := tree.Bytes(name, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// isOf tells whether the name of a package is what Debian's policy makes of the name of a library: libnvme1 has
// libnvme.so.1, libpcre2-8-0 has libpcre2-8.so.0.
func isOf(pkg, library string) bool {
	base, version, ok := strings.Cut(path.Base(library), ".so.")
	if !ok {
		return false
	}
	base = strings.ReplaceAll(strings.ToLower(base), "_", "-")
	pkg = strings.TrimSuffix(pkg, "t64")
	return pkg == base+version || pkg == base+"-"+version
}
