package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/holdfast-csi/holdfast/hack/image/internal/command"
	"github.com/holdfast-csi/holdfast/hack/image/internal/rootfs"
)

// buildTags are those of the repository's Makefile, which says why.
const buildTags = "grpcnotrace"

const versionVariable = "github.com/holdfast-csi/holdfast/internal/app.Version"

// goRunner runs go for an architecture. What a user has set that changes the binary is set back: the same commit must
// give the same bytes.
func goRunner(arch string) command.Runner {
	return command.RunWith("GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0", "GOAMD64=v1", "GOARM64=v8.0",
		"GOFLAGS=-mod=readonly", "GOWORK=off")
}

// compile returns the binary. It is kept in the cache, where go sees that it need not link it again; while go writes it
// has another name, so that one that is half written is never taken for a whole one.
func compile(ctx context.Context, o *options, arch string) ([]byte, error) {
	dir := filepath.Join(o.cache, "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "holdfast-"+arch)
	next := file + ".new"
	if err := os.RemoveAll(next); err != nil {
		return nil, err
	}
	if err := os.Rename(file, next); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	if _, err := goRunner(arch)(ctx, o.root, "go", "build", "-tags", buildTags, "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -X "+versionVariable+"="+o.version, "-o", next, "./cmd/holdfast"); err != nil {
		return nil, fmt.Errorf("compile for %s: %w", arch, err)
	}
	if err := os.Rename(next, file); err != nil {
		return nil, err
	}
	return os.ReadFile(file)
}

// productDocs is where Holdfast's own licence goes, and those of what is linked into it.
const productDocs = "/usr/share/doc/holdfast"

// product returns the layer with Holdfast.
func product(ctx context.Context, o *options, arch string) (*rootfs.Tree, error) {
	tree := &rootfs.Tree{}
	binary, err := compile(ctx, o, arch)
	if err != nil {
		return nil, err
	}
	if err := tree.Bytes("/usr/local/bin/holdfast", binary, 0o755); err != nil {
		return nil, err
	}
	if err := putLicences(tree, productDocs, o.root, "holdfast"); err != nil {
		return nil, err
	}
	return tree, putModuleLicences(ctx, o, arch, tree)
}

// putModuleLicences puts those of Go itself and of each module that the binary has something of: most of them must go
// with it.
func putModuleLicences(ctx context.Context, o *options, arch string, tree *rootfs.Tree) error {
	run := goRunner(arch)
	goRoot, err := run(ctx, o.root, "go", "env", "GOROOT")
	if err != nil {
		return err
	}
	if err := putLicences(tree, productDocs+"/go", strings.TrimSpace(string(goRoot)), "Go"); err != nil {
		return err
	}
	out, err := run(ctx, o.root, "go", "list", "-deps", "-tags", buildTags,
		"-f", "{{with .Module}}{{if not .Main}}{{.Path}}\t{{.Dir}}{{end}}{{end}}", "./cmd/holdfast")
	if err != nil {
		return err
	}
	for module, dir := range parseModules(string(out)) {
		if err := putLicences(tree, productDocs+"/"+module, dir, module); err != nil {
			return err
		}
	}
	return nil
}

// parseModules returns the directory of each module, from lines of path, tab and directory.
func parseModules(text string) map[string]string {
	modules := make(map[string]string)
	for line := range strings.Lines(text) {
		if module, dir, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
			modules[module] = dir
		}
	}
	return modules
}

var licenceForm = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)([.-]|$)`)

// putLicences copies the licence files of a directory, of which there must be one.
func putLicences(tree *rootfs.Tree, to, from, owner string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return fmt.Errorf("licence of %s: %w", owner, err)
	}
	found := false
	for _, e := range entries {
		if !e.Type().IsRegular() || !licenceForm.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			return fmt.Errorf("licence of %s: %w", owner, err)
		}
		if err := tree.Bytes(to+"/"+e.Name(), text, 0o644); err != nil {
			return err
		}
		found = true
	}
	if !found {
		return fmt.Errorf("licence of %s: there is none in %s", owner, from)
	}
	return nil
}
