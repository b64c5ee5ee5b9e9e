// Package elfdep finds the shared libraries that programs need, in the tree that the programs are in.
//
// It knows what the linker wrote into the files, what they say themselves that they open at run time, and the one library
// that glibc opens. What a program opens and does not say it does not find out; nor does it look where a file's own
// RUNPATH says, which no program that we take has.
package elfdep

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/holdfast-csi/holdfast/hack/image/internal/rootfs"
)

// machine is what Go's name of an architecture means to the linker and to Debian.
type machine struct {
	elf     elf.Machine
	triplet string
}

var machines = map[string]machine{
	"amd64": {elf.EM_X86_64, "x86_64-linux-gnu"},
	"arm64": {elf.EM_AARCH64, "aarch64-linux-gnu"},
}

// Provide puts one more package into the tree, when a file of the tree (needer) needs a library that is not there. It is
// asked again until the library is there, and says why when it has nothing more.
type Provide func(needer, library string) error

// Closure returns the paths of the programs, of all libraries that they need, and of the links that lead to them,
// sorted.
func Closure(tree *rootfs.Tree, arch string, programs []string, provide Provide) ([]string, error) {
	m, ok := machines[arch]
	if !ok {
		return nil, fmt.Errorf("architecture %q: want amd64 or arm64", arch)
	}
	c := &closure{
		tree: tree, arch: arch, machine: m.elf, provide: provide, paths: make(map[string]bool),
		dirs: []string{"/usr/lib/" + m.triplet, "/usr/lib"},
	}
	for _, program := range programs {
		if err := c.add(program); err != nil {
			return nil, err
		}
	}
	return slices.Sorted(maps.Keys(c.paths)), nil
}

type closure struct {
	tree    *rootfs.Tree
	arch    string
	machine elf.Machine
	dirs    []string // where the dynamic linker looks; /usr is merged
	provide Provide
	paths   map[string]bool
}

// add adds a file of the tree with all that it needs.
func (c *closure) add(name string) error {
	end, links, err := c.tree.Resolve(name)
	if err != nil {
		return err
	}
	for _, link := range links {
		c.paths[link] = true
	}
	if c.paths[end] {
		return nil
	}
	c.paths[end] = true
	file, _ := c.tree.Get(end)
	n, err := read(file.Data)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if n.machine != c.machine {
		return fmt.Errorf("%s is for %s, not for %s", name, n.machine, c.arch)
	}
	for _, library := range n.libraries {
		if err := c.need(end, library); err != nil {
			return err
		}
	}
	return nil
}

// need adds a library by its name, or an interpreter by its path.
func (c *closure) need(needer, library string) error {
	for {
		if found, ok := c.find(library); ok {
			return c.add(found)
		}
		if err := c.provide(needer, library); err != nil {
			return fmt.Errorf("%s needs %s: %w", needer, library, err)
		}
	}
}

func (c *closure) find(library string) (string, bool) {
	candidates := []string{library}
	if !path.IsAbs(library) {
		candidates = nil
		for _, dir := range c.dirs {
			candidates = append(candidates, path.Join(dir, library))
		}
	}
	for _, name := range candidates {
		if _, _, err := c.tree.Resolve(name); !errors.Is(err, fs.ErrNotExist) {
			return name, true
		}
	}
	return "", false
}

// needs is what one file needs.
type needs struct {
	machine   elf.Machine
	libraries []string // names, and the path of the interpreter
}

var errNotELF = errors.New("not an ELF file, and what interprets a script is not looked for")

func read(data []byte) (needs, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return needs{}, fmt.Errorf("%w (%w)", errNotELF, err)
	}
	n := needs{machine: f.Machine}
	if n.libraries, err = f.ImportedLibraries(); err != nil {
		return needs{}, fmt.Errorf("read names of libraries: %w", err)
	}
	linker, err := interpreter(f)
	if err != nil {
		return needs{}, err
	}
	if linker != "" {
		n.libraries = append(n.libraries, linker)
	}
	open, err := opened(f)
	if err != nil {
		return needs{}, err
	}
	n.libraries = append(n.libraries, open...)
	symbols, err := f.ImportedSymbols()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return needs{}, fmt.Errorf("read symbols: %w", err)
	}
	if slices.ContainsFunc(symbols, unwinds) && !slices.Contains(n.libraries, unwinder) {
		n.libraries = append(n.libraries, unwinder)
	}
	return n, nil
}

// unwinder is opened by glibc's own functions that walk a stack, so no program of C names it. Without it
// pthread_cancel and pthread_exit end the process.
const unwinder = "libgcc_s.so.1"

func unwinds(s elf.ImportedSymbol) bool {
	return slices.Contains([]string{"pthread_cancel", "pthread_exit", "thrd_exit", "backtrace"}, s.Name)
}

// interpreter returns the path of the dynamic linker; "" for a library, and for a program that is linked statically.
func interpreter(f *elf.File) (string, error) {
	for _, prog := range f.Progs {
		if prog.Type != elf.PT_INTERP {
			continue
		}
		name, err := io.ReadAll(io.LimitReader(prog.Open(), 4096))
		if err != nil {
			return "", fmt.Errorf("read interpreter: %w", err)
		}
		return strings.TrimRight(string(name), "\x00"), nil
	}
	return "", nil
}
