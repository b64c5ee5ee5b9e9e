package debian

import (
	"bytes"
	"debug/elf"
	"fmt"
	"slices"
	"strings"
)

// takeTrees takes what the request has of trees, and what the ELF files among it need.
func (p *picker) takeTrees(arch string, r Request) error {
	var binaries []string
	for _, tree := range r.Trees {
		end, links, err := p.stage.Resolve(tree)
		if err != nil {
			return fmt.Errorf("tree %s of package %s: %w", tree, r.anyOf(""), err)
		}
		if err := p.take(links...); err != nil {
			return err
		}
		for _, name := range p.below(end, r.Without) {
			file, err := p.takeMember(name)
			if err != nil {
				return err
			}
			if f, _ := p.stage.Get(file); bytes.HasPrefix(f.Data, []byte(elf.ELFMAG)) {
				binaries = append(binaries, file)
			}
		}
	}
	return p.takeClosure(arch, binaries)
}

// below returns a path that leads through no link, and all paths below it, without those that go through one of the
// names that are left out.
func (p *picker) below(top string, without []string) []string {
	var names []string
	for _, name := range p.stage.Names() {
		rest, ok := strings.CutPrefix(name, strings.TrimSuffix(top, "/"))
		inside := ok && (rest == "" || rest[0] == '/')
		dropped := slices.ContainsFunc(strings.Split(rest, "/"), func(part string) bool { return slices.Contains(without, part) })
		if inside && !dropped {
			names = append(names, name)
		}
	}
	return names
}

// takeMember takes what is at a path, and the file that a link there leads to, whose path it returns. A link that leads
// to a directory or, in the packages that were looked into, nowhere stays one.
func (p *picker) takeMember(name string) (string, error) {
	if err := p.take(name); err != nil {
		return "", err
	}
	end, links, err := p.stage.Resolve(name)
	if err != nil {
		return name, nil
	}
	if f, _ := p.stage.Get(end); !f.Mode.IsRegular() {
		return name, nil
	}
	return end, p.take(append(links, end)...)
}
