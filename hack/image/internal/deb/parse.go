package deb

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// instForm is a line that apt-get -s writes for a package that it would install:
//
//	Inst zlib1g (1:1.2.13.dfsg-1 Debian:12.11/stable [amd64])
var instForm = regexp.MustCompile(`^Inst (\S+) \((\S+) `)

// parseSimulation returns NAME=VERSION of all packages that apt would install.
func parseSimulation(text string) ([]string, error) {
	var names []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "Inst ") {
			continue
		}
		m := instForm.FindStringSubmatch(line)
		if m == nil {
			return nil, fmt.Errorf("apt-get -s says %q: want Inst PACKAGE (VERSION", strings.TrimSpace(line))
		}
		names = append(names, m[1]+"="+m[2])
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("apt-get -s would install nothing")
	}
	return names, nil
}

// parseStanzas reads what apt-cache show writes. A package that is in two archives is there twice, and returned once.
func parseStanzas(text string) ([]Package, error) {
	var packages []Package
	seen := make(map[string]bool)
	for stanza := range strings.SplitSeq(text, "\n\n") {
		fields := parseFields(stanza)
		if len(fields) == 0 {
			continue
		}
		p := Package{
			Name: fields["Package"], Version: fields["Version"], SHA256: fields["SHA256"],
			Depends: parseDepends(fields["Pre-Depends"] + "," + fields["Depends"] + "," + fields["Recommends"]),
		}
		if err := p.check(); err != nil {
			return nil, fmt.Errorf("apt-cache show: %w", err)
		}
		p.Size, _ = strconv.ParseInt(fields["Size"], 10, 64) // it decides only what is tried first
		if !seen[p.Name] {
			packages = append(packages, p)
		}
		seen[p.Name] = true
	}
	return packages, nil
}

// parseFields leaves out lines that go on with the field before.
func parseFields(stanza string) map[string]string {
	fields := make(map[string]string)
	for line := range strings.Lines(stanza) {
		name, value, ok := strings.Cut(line, ":")
		if ok && !strings.HasPrefix(line, " ") {
			fields[name] = strings.TrimSpace(value)
		}
	}
	return fields
}

// parseDepends returns the names in "a (>= 1), b:any | c": which of the alternatives apt took does not matter here.
func parseDepends(text string) []string {
	var names []string
	for _, part := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == '|' }) {
		name, _, _ := strings.Cut(strings.TrimSpace(part), " ")
		name, _, _ = strings.Cut(name, ":")
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}
