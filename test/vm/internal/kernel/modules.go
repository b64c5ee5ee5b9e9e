package kernel

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Index answers which files a module needs, from what depmod wrote.
type Index struct {
	paths   map[string]string   // module name to path below the module directory
	deps    map[string][]string // path to the paths it needs
	soft    map[string][]string // module name to the names it would like to have
	builtin map[string]bool     // module names
}

// Index reads the kernel's module index.
func (k *Kernel) Index() (*Index, error) {
	ix := &Index{
		paths: make(map[string]string), deps: make(map[string][]string),
		soft: make(map[string][]string), builtin: make(map[string]bool),
	}
	for file, add := range map[string]func(string){
		"modules.dep": ix.addDep, "modules.builtin": ix.addBuiltin, "modules.softdep": ix.addSoft,
	} {
		if err := eachLine(filepath.Join(k.ModuleDir(), file), add); err != nil {
			return nil, err
		}
	}
	return ix, nil
}

func eachLine(path string, do func(string)) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // modules.softdep need not exist
	}
	if err != nil {
		return err
	}
	defer f.Close()
	scanner := bufio.NewScanner(f)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		do(scanner.Text())
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// Name returns the name of the module in a file: the kernel takes - and _ for the same.
func Name(path string) string {
	base, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(base, "-", "_")
}

func (ix *Index) addDep(line string) {
	path, deps, ok := strings.Cut(line, ":")
	if ok {
		ix.paths[Name(path)] = path
		ix.deps[path] = strings.Fields(deps)
	}
}

func (ix *Index) addBuiltin(line string) { ix.builtin[Name(line)] = true }

// addSoft reads "softdep NAME pre: A B post: C"; the order does not matter to what is copied.
func (ix *Index) addSoft(line string) {
	fields := strings.Fields(line)
	if len(fields) < 3 || fields[0] != "softdep" {
		return
	}
	for _, f := range fields[2:] {
		if !strings.HasSuffix(f, ":") {
			ix.soft[Name(fields[1])] = append(ix.soft[Name(fields[1])], Name(f))
		}
	}
}

// Has tells whether a module exists as a file or is built in.
func (ix *Index) Has(name string) bool {
	_, ok := ix.paths[Name(name)]
	return ok || ix.builtin[Name(name)]
}

// Order returns the files to load for the named modules, dependencies first, each once. Names that are built in or do not
// exist need no file. With soft, modules of soft dependencies come along.
func (ix *Index) Order(names []string, soft bool) []string {
	var order []string
	seen := make(map[string]bool)
	var visit func(path string)
	visit = func(path string) {
		if path == "" || seen[path] {
			return
		}
		seen[path] = true
		// modules.dep lists the nearest dependency first, and a dependency's own ones too.
		for _, dep := range ix.deps[path] {
			visit(dep)
		}
		order = append(order, path)
		if soft {
			for _, name := range ix.soft[Name(path)] {
				visit(ix.paths[name])
			}
		}
	}
	for _, name := range names {
		visit(ix.paths[Name(name)])
	}
	return order
}

// Below returns the names of all modules in the given directories below kernel/.
func (ix *Index) Below(dirs ...string) []string {
	var names []string
	for name, path := range ix.paths {
		for _, dir := range dirs {
			if strings.HasPrefix(path, "kernel/"+dir+"/") {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// missing returns which of the modules the kernel has in no form.
func (k *Kernel) missing(needed []string) []string {
	ix, err := k.Index()
	if err != nil {
		return []string{err.Error()}
	}
	var missing []string
	for _, name := range needed {
		if !ix.Has(name) {
			missing = append(missing, name)
		}
	}
	return missing
}
