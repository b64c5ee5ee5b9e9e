package kernel

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

const packagePrefix = "linux-image-"

// metaPackages are the names that depend on the newest kernel of a series, the leanest first. The last two name no
// series; what they depend on must then belong to the one asked for.
func metaPackages(series string) []string {
	return []string{
		packagePrefix + series + "-cloud-amd64",
		packagePrefix + series + "-amd64",
		packagePrefix + "cloud-amd64",
		packagePrefix + "amd64",
	}
}

// resolve asks apt which packages hold a kernel of the series, best first. It brings the package lists up to date only if
// they do not know any.
func resolve(ctx context.Context, run Runner, series string) ([]string, error) {
	found := lookUp(ctx, run, series)
	if len(found) > 0 {
		return found, nil
	}
	_, updateErr := run(ctx, "", "apt-get", "-q", "update")
	if found = lookUp(ctx, run, series); len(found) > 0 {
		return found, nil
	}
	err := fmt.Errorf("no package with a Linux %s kernel: apt knows neither %s (of series %s), nor a package %s%s.*",
		series, strings.Join(metaPackages(series), ", "), series, packagePrefix, series)
	if updateErr != nil {
		err = fmt.Errorf("%w; and the package lists could not be updated: %w", err, updateErr)
	}
	return nil, err
}

// lookUp goes through the meta packages, then through the names of real packages. apt-cache fails for a name it does not
// know, which here means no more than that.
func lookUp(ctx context.Context, run Runner, series string) []string {
	var found []string
	for _, meta := range metaPackages(series) {
		out, err := run(ctx, "", "apt-cache", "show", "--no-all-versions", meta)
		if err != nil {
			continue
		}
		if pkg, ok := dependency(string(out), series); ok && !slices.Contains(found, pkg) {
			found = append(found, pkg)
		}
	}
	if len(found) > 0 {
		return found
	}
	out, err := run(ctx, "", "apt-cache", "pkgnames", packagePrefix+series+".")
	if err != nil {
		return nil
	}
	return realPackages(string(out), series)
}

// dependency finds the kernel package in the Depends field of a meta package's record.
func dependency(record, series string) (string, bool) {
	for line := range strings.Lines(record) {
		value, ok := strings.CutPrefix(line, "Depends:")
		if !ok {
			continue
		}
		for dep := range strings.SplitSeq(value, ",") {
			fields := strings.Fields(dep)
			if len(fields) > 0 && isKernelOf(fields[0], series) {
				return fields[0], true
			}
		}
	}
	return "", false
}

// isKernelOf tells whether a package holds a kernel of the series: linux-image-6.1.0-44-amd64 is of 6.1 and not of 6.
func isKernelOf(pkg, series string) bool {
	return strings.HasPrefix(pkg, packagePrefix+series+".")
}

// realPackages orders the names of kernel packages: cloud before generic, then the newest.
func realPackages(names, series string) []string {
	var cloud, generic []string
	for _, name := range strings.Fields(names) {
		if !isKernelOf(name, series) {
			continue
		}
		flavour, ok := flavourOf(name)
		switch {
		case !ok:
		case flavour == "cloud":
			cloud = append(cloud, name)
		default:
			generic = append(generic, name)
		}
	}
	slices.SortFunc(cloud, func(a, b string) int { return compareVersions(b, a) })
	slices.SortFunc(generic, func(a, b string) int { return compareVersions(b, a) })
	return append(cloud, generic...)
}

// flavourOf accepts the two flavours that boot here; real-time, unsigned and debug packages are not among them.
func flavourOf(pkg string) (string, bool) {
	base, ok := strings.CutSuffix(pkg, "-amd64")
	if !ok || strings.HasSuffix(base, "-rt") {
		return "", false
	}
	if strings.HasSuffix(base, "-cloud") {
		return "cloud", true
	}
	return "generic", true
}

// compareVersions compares names with numbers in them so that 6.1.0-9 comes before 6.1.0-44.
func compareVersions(a, b string) int {
	for a != "" && b != "" {
		na, ra := leadingNumber(a)
		nb, rb := leadingNumber(b)
		if na != "" && nb != "" {
			na, nb = strings.TrimLeft(na, "0"), strings.TrimLeft(nb, "0")
			if len(na) != len(nb) {
				return len(na) - len(nb)
			}
			if c := strings.Compare(na, nb); c != 0 {
				return c
			}
			a, b = ra, rb
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func leadingNumber(s string) (number, rest string) {
	i := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i:]
}
