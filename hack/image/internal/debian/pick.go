package debian

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/holdfast-csi/holdfast/hack/image/internal/deb"
	"github.com/holdfast-csi/holdfast/hack/image/internal/elfdep"
	"github.com/holdfast-csi/holdfast/hack/image/internal/rootfs"
)

// Source has packages; *deb.Store is the real one.
type Source interface {
	// Resolve returns the packages named and all that they depend on, in versions that go together.
	Resolve(ctx context.Context, names []string) ([]deb.Package, error)
	// Unpack puts a package's files into a tree, each with the package's name, and returns its control file.
	Unpack(ctx context.Context, p deb.Package, tree *rootfs.Tree) (control []byte, err error)
}

// Contents is what the image has from Debian.
type Contents struct {
	Tree     *rootfs.Tree
	Packages []deb.Package // of which something is in Tree
}

// Pick takes from Debian's packages what the image needs. It looks into those that are named, and beyond that into as
// few as it can.
func Pick(ctx context.Context, source Source, arch string, r Request) (*Contents, error) {
	p := &picker{
		ctx: ctx, source: source, stage: &rootfs.Tree{}, image: &rootfs.Tree{},
		known: make(map[string]deb.Package), control: make(map[string][]byte), used: make(map[string]bool),
	}
	if err := errors.Join(merge(p.stage, arch), merge(p.image, arch), layout(p.image, r.Users)); err != nil {
		return nil, err
	}
	if err := p.open(append([]string{basePackage}, r.packages()...), r.Pinned); err != nil {
		return nil, err
	}
	if err := p.takePrograms(arch, r); err != nil {
		return nil, err
	}
	if err := p.takeTrees(arch, r); err != nil {
		return nil, err
	}
	if err := p.takeBase(); err != nil {
		return nil, err
	}
	if err := p.takeDocuments(); err != nil {
		return nil, err
	}
	return p.contents(r.Pinned)
}

// picker copies from stage, which has all of the packages that were looked into, to image.
type picker struct {
	ctx     context.Context // of Pick: closures and callbacks need it too
	source  Source
	known   map[string]deb.Package // all that may be looked into
	control map[string][]byte      // of those that were
	used    map[string]bool        // those from which something was taken

	stage, image *rootfs.Tree
}

// open looks into the packages that must be there.
func (p *picker) open(names []string, pinned []deb.Package) error {
	packages := pinned
	if len(pinned) > 0 {
		names = nil
		for _, one := range pinned {
			names = append(names, one.Name)
		}
	} else {
		var err error
		if packages, err = p.source.Resolve(p.ctx, names); err != nil {
			return err
		}
	}
	for _, one := range packages {
		p.known[one.Name] = one
	}
	for _, name := range names {
		if err := p.unpack(name); err != nil {
			return err
		}
	}
	return nil
}

func (p *picker) unpack(name string) error {
	one, ok := p.known[name]
	if !ok {
		return fmt.Errorf("package %s is not among those that apt found", name)
	}
	control, err := p.source.Unpack(p.ctx, one, p.stage)
	if err != nil {
		return err
	}
	p.control[name] = control
	return nil
}

// take copies files, directories and links, and remembers their packages.
func (p *picker) take(names ...string) error {
	for _, name := range names {
		f, ok := p.stage.Get(name)
		if !ok {
			return fmt.Errorf("%s: %w", name, fs.ErrNotExist)
		}
		if err := p.image.Put(name, f); err != nil {
			return err
		}
		if f.From != "" && !f.Mode.IsDir() { // a directory is of whoever was unpacked last
			p.used[f.From] = true
		}
	}
	return nil
}

// follow takes the file at the end of a path, and the links on the way.
func (p *picker) follow(name string) error {
	end, links, err := p.stage.Resolve(name)
	if err != nil {
		return err
	}
	return p.take(append(links, end)...)
}

func (p *picker) takePrograms(arch string, r Request) error {
	var roots []string
	for _, program := range r.Programs {
		if _, _, err := p.stage.Resolve(program.Path); err != nil {
			return fmt.Errorf("program %s of package %s: %w", program.Path, r.anyOf(program.Package), err)
		}
		roots = append(roots, program.Path)
	}
	return p.takeClosure(arch, roots)
}

// takeClosure takes ELF files with all that they need.
func (p *picker) takeClosure(arch string, roots []string) error {
	paths, err := elfdep.Closure(p.stage, arch, roots, p.provide)
	if err != nil {
		return err
	}
	return p.take(paths...)
}

// takeBase takes what says which Debian it is, and the licences that copyright files refer to.
func (p *picker) takeBase() error {
	for _, name := range baseFiles() {
		if err := p.follow(name); err != nil {
			return err
		}
	}
	for _, name := range p.stage.Names() {
		if strings.HasPrefix(name, licencesDir) {
			if err := p.take(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// takeDocuments takes the copyright of each package that is used, and its control file, which is where scanners of
// images look for what is in one that has no package manager. A package's documents can be a link to those of another
// package, which then is used too.
func (p *picker) takeDocuments() error {
	done := make(map[string]bool)
	for len(done) < len(p.used) {
		for _, name := range p.usedNames() {
			if done[name] {
				continue
			}
			done[name] = true
			if err := p.takeCopyright(name); err != nil {
				return err
			}
			if err := p.image.Bytes("/var/lib/dpkg/status.d/"+name, p.control[name], 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *picker) takeCopyright(name string) error {
	dir := "/usr/share/doc/" + name
	if f, _ := p.stage.Get(dir); f.Mode.Type() == fs.ModeSymlink {
		other := path.Base(f.Target)
		if _, opened := p.control[other]; !opened {
			if err := p.unpack(other); err != nil {
				return fmt.Errorf("copyright of %s: %w", name, err)
			}
		}
	}
	if err := p.follow(dir + "/copyright"); err != nil {
		return fmt.Errorf("copyright of %s: %w", name, err)
	}
	return nil
}

func (p *picker) usedNames() []string { return slices.Sorted(maps.Keys(p.used)) }

func (p *picker) contents(pinned []deb.Package) (*Contents, error) {
	for _, one := range pinned {
		if !p.used[one.Name] {
			return nil, fmt.Errorf("package %s is on the list, but the image has nothing of it", one)
		}
	}
	c := &Contents{Tree: p.image}
	for _, name := range p.usedNames() {
		c.Packages = append(c.Packages, p.known[name])
	}
	return c, nil
}
