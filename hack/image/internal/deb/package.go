// Package deb gets Debian packages for any architecture: which ones and in which versions (apt decides), the files
// themselves (apt downloads and verifies them; they are cached), and what is in them.
//
// It has apt work in a directory of its own, so the building machine's apt state stays as it is. It installs nothing
// and runs none of the packages' scripts.
package deb

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Package is one version of a package for one architecture.
type Package struct {
	Name    string
	Version string
	SHA256  string   // of the .deb, in hexadecimal
	Size    int64    // of the .deb; 0 if nothing said
	Depends []string // and recommends: names, those of alternatives too; empty if it was read from a list
}

func (p Package) String() string { return p.Name + " " + p.Version }

// What package names, versions and digests are made of. None can be taken for an option or for a path.
var (
	nameForm    = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
	versionForm = regexp.MustCompile(`^[0-9][0-9A-Za-z.+:~-]*$`)
	sumForm     = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// IsName tells whether a package may be called like this.
func IsName(text string) bool { return nameForm.MatchString(text) }

// ParseList reads what FormatList wrote.
func ParseList(text string) ([]Package, error) {
	var list []Package
	seen := make(map[string]bool)
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		p, err := parseLine(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		if seen[p.Name] {
			return nil, fmt.Errorf("line %d: package %s is there twice", i+1, p.Name)
		}
		seen[p.Name] = true
		list = append(list, p)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no package is named")
	}
	return list, nil
}

func parseLine(line string) (Package, error) {
	fields := strings.Fields(line)
	if len(fields) != 3 {
		return Package{}, fmt.Errorf("%q: want package, version and sha256", line)
	}
	p := Package{Name: fields[0], Version: fields[1], SHA256: fields[2]}
	return p, p.check()
}

// check says which part is not what such a part may be.
func (p Package) check() error {
	switch {
	case !IsName(p.Name):
		return fmt.Errorf("package %q: want a name of lower-case letters, digits and any of .+-", p.Name)
	case !versionForm.MatchString(p.Version):
		return fmt.Errorf("package %s, version %q: want a digit, then letters, digits, and any of .+:~-", p.Name, p.Version)
	case !sumForm.MatchString(p.SHA256):
		return fmt.Errorf("package %s, sha256 %q: want 64 hexadecimal digits", p.Name, p.SHA256)
	}
	return nil
}

// FormatList writes packages one a line, sorted by name.
func FormatList(arch string, packages []Package) string {
	sorted := slices.SortedFunc(slices.Values(packages), func(a, b Package) int { return cmp.Compare(a.Name, b.Name) })
	var b strings.Builder
	fmt.Fprintf(&b, "# What the %s image has from Debian: package, version, sha256 of the .deb.\n", arch)
	for _, p := range sorted {
		fmt.Fprintf(&b, "%s %s %s\n", p.Name, p.Version, p.SHA256)
	}
	return b.String()
}
