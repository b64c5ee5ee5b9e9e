package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/holdfast-csi/holdfast/hack/image/internal/command"
	"github.com/holdfast-csi/holdfast/hack/image/internal/deb"
	"github.com/holdfast-csi/holdfast/hack/image/internal/debian"
	"github.com/holdfast-csi/holdfast/hack/image/internal/lock"
	"github.com/holdfast-csi/holdfast/hack/image/internal/oci"
	"github.com/holdfast-csi/holdfast/hack/image/internal/rootfs"
)

// build does what the options say, and tells log. Until the archive is whole, an earlier one stays as it is.
func build(ctx context.Context, o *options, log io.Writer) (err error) {
	held, err := lock.Dir(o.cache)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, held.Close()) }()
	store, err := deb.Open(deb.Config{Cache: o.cache, Arch: o.arch, Sources: o.sources, Refresh: o.refresh})
	if err != nil {
		return err
	}
	contents, err := fill(ctx, store, command.Run, o)
	if err != nil {
		return err
	}
	image, err := assemble(o, contents.Tree)
	if err != nil {
		return err
	}
	if err := write(ctx, o, image); err != nil {
		return err
	}
	return describe(log, o, image, len(contents.Packages))
}

// fill returns all files of the image.
func fill(ctx context.Context, source debian.Source, run command.Runner, o *options) (*debian.Contents, error) {
	contents, err := debian.Pick(ctx, source, o.arch, o.request)
	if err != nil {
		return nil, err
	}
	if err := addDirs(contents.Tree, o); err != nil {
		return nil, err
	}
	if !o.busybox {
		return contents, nil
	}
	return contents, addApplets(ctx, run, filepath.Join(o.cache, "bin"), contents.Tree)
}

// addDirs makes the directories of everybody, of which /var/run is /run as in Debian, and those of users.
func addDirs(tree *rootfs.Tree, o *options) error {
	if err := tree.Link("/run", "/var/run"); err != nil {
		return err
	}
	for _, dir := range append([]string{"/run"}, o.dirs...) {
		if err := tree.Directory(dir, 0o777|fs.ModeSticky); err != nil {
			return err
		}
	}
	for _, u := range o.request.Users {
		if err := tree.Put(u.Home, rootfs.File{Mode: fs.ModeDir | 0o700, Owner: u.ID}); err != nil {
			return err
		}
	}
	return nil
}

func assemble(o *options, tree *rootfs.Tree) (v1.Image, error) {
	return oci.Image(oci.Spec{
		Arch: o.arch, When: o.when,
		Config: v1.Config{Env: []string{"PATH=" + search(o.request.Programs), "LANG=C"}, WorkingDir: "/"},
		Layers: []oci.Layer{{Tree: tree, Comment: "programs and libraries of Debian"}},
	})
}

// search has the directories of programs first, so that what is asked for comes before what busybox has of that name.
func search(programs []debian.Program) string {
	var dirs []string
	for _, p := range programs {
		if p.Package != busyboxPackage {
			dirs = append(dirs, path.Dir(p.Path))
		}
	}
	dirs = append(dirs, strings.Split(debian.Search, ":")...)
	var once []string
	for _, dir := range dirs {
		if !slices.Contains(once, dir) {
			once = append(once, dir)
		}
	}
	return strings.Join(once, ":")
}

// write writes the archive under another name, always the same one, until it is whole.
func write(ctx context.Context, o *options, image v1.Image) (err error) {
	dir, base := filepath.Split(o.out)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	next := filepath.Join(dir, "."+base+".new")
	defer func() { err = errors.Join(err, os.RemoveAll(next)) }() // if it was not renamed away
	if err := tarball.WriteToFile(next, o.tag, image); err != nil {
		return fmt.Errorf("write %s: %w", next, err)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return os.Rename(next, o.out)
}

// describe says what came out, and its size as a registry would have it.
func describe(log io.Writer, o *options, image v1.Image, packages int) error {
	digest, err := image.Digest()
	if err != nil {
		return fmt.Errorf("digest of image: %w", err)
	}
	manifest, err := image.Manifest()
	if err != nil {
		return fmt.Errorf("manifest of image: %w", err)
	}
	fmt.Fprintf(log, "%s is in %s: %d packages of Debian, %.2f MiB, %s\n", o.tag, o.out, packages,
		float64(manifest.Layers[0].Size)/(1<<20), digest)
	return nil
}
