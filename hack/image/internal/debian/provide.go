package debian

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/holdfast-csi/holdfast/hack/image/internal/deb"
)

// provide looks into one more package: one that is called like the library if there is one, else one on which the
// needer's package depends (Debian policy 8.6), else one on which any package looked into depends: libext2fs2 leaves it
// to e2fsprogs to depend on libcom-err2.
func (p *picker) provide(needer, library string) error {
	file, _ := p.stage.Get(needer)
	own := p.known[file.From].Depends
	var left []deb.Package
	for name := range p.control {
		for _, other := range p.known[name].Depends {
			pkg, known := p.known[other]
			if _, opened := p.control[other]; known && !opened {
				left = append(left, pkg)
			}
		}
	}
	if len(left) == 0 {
		return fmt.Errorf("it is in none of the packages that were looked into: %s",
			strings.Join(slices.Sorted(maps.Keys(p.control)), ", "))
	}
	return p.unpack(slices.MinFunc(left, func(a, b deb.Package) int { return compare(a, b, library, own) }).Name)
}

// compare orders packages as they are looked into for a library: what it takes to look is the size.
func compare(a, b deb.Package, library string, own []string) int {
	return cmp.Or(
		cmp.Compare(rank(a.Name, library, own), rank(b.Name, library, own)),
		cmp.Compare(likeness(b.Name, library), likeness(a.Name, library)),
		cmp.Compare(a.Size, b.Size),
		cmp.Compare(a.Name, b.Name),
	)
}

// rank is lower for packages that are looked into earlier.
func rank(pkg, library string, own []string) int {
	switch {
	case isOf(pkg, library):
		return 0
	case slices.Contains(own, pkg):
		return 1
	case strings.HasPrefix(pkg, "lib"):
		return 2
	default:
		return 3
	}
}

// likeness is how many letters the names have in common: libicu72 has libicui18n.so.72.
func likeness(pkg, library string) int {
	pkg, library = strings.TrimPrefix(pkg, "lib"), strings.TrimPrefix(soname(library), "lib")
	n := 0
	for n < len(pkg) && n < len(library) && pkg[n] == library[n] {
		n++
	}
	return n
}

// isOf tells whether the name of a package is what Debian's policy makes of the name of a library: libnvme1 has
// libnvme.so.1, libpcre2-8-0 has libpcre2-8.so.0.
func isOf(pkg, library string) bool {
	base, version, ok := strings.Cut(soname(library), ".so.")
	pkg = strings.TrimSuffix(pkg, "t64")
	return ok && (pkg == base+version || pkg == base+"-"+version)
}

// soname is the name of a library with the letters that names of packages have.
func soname(library string) string {
	return strings.ReplaceAll(strings.ToLower(path.Base(library)), "_", "-")
}
