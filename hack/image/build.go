package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/holdfast-csi/holdfast/hack/image/internal/deb"
	"github.com/holdfast-csi/holdfast/hack/image/internal/debian"
	"github.com/holdfast-csi/holdfast/hack/image/internal/lock"
)

// build does what the options say, and tells log. Until all is made and checked, an earlier result stays as it is.
func build(ctx context.Context, o *options, log io.Writer) (err error) {
	for _, dir := range []string{o.out, o.cache} {
		held, err := lock.Dir(dir)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, held.Close()) }()
	}
	work, err := workDir(o.out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }() // whatever was not moved away
	images, packages := make(map[string]v1.Image), make(map[string][]deb.Package)
	for _, arch := range o.archs {
		if images[arch], packages[arch], err = buildOne(ctx, o, arch, log); err != nil {
			return err
		}
	}
	if err := checkImages(ctx, o, images, work, log); err != nil {
		return err
	}
	names, err := write(work, o, images, packages)
	if err != nil {
		return err
	}
	if err := publish(work, o.out, names); err != nil {
		return err
	}
	fmt.Fprintf(log, "%s is in %s\n", o.tag, o.out)
	if o.push == nil {
		return nil
	}
	digest, err := push(ctx, *o.push, index(o.archs, images), authn.DefaultKeychain)
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "pushed %s, which is %s\n", o.push, digest)
	return nil
}

// buildOne makes the image of one architecture.
func buildOne(ctx context.Context, o *options, arch string, log io.Writer) (v1.Image, []deb.Package, error) {
	store, err := deb.Open(deb.Config{Cache: o.cache, Arch: arch, Sources: o.sources, Refresh: o.refresh})
	if err != nil {
		return nil, nil, err
	}
	pinned, err := readPins(o, arch)
	if err != nil {
		return nil, nil, err
	}
	contents, err := debian.Pick(ctx, store, arch, debian.Holdfast(pinned))
	if err != nil && pinned != nil {
		return nil, nil, fmt.Errorf("--packages %s: %w", filepath.Join(o.pins, listName(arch)), err)
	}
	if err != nil {
		return nil, nil, err
	}
	holdfast, err := product(ctx, o, arch)
	if err != nil {
		return nil, nil, err
	}
	image, err := assemble(parts{
		arch: arch, version: o.version, when: o.when, programs: contents.Tree, product: holdfast,
	})
	if err != nil {
		return nil, nil, err
	}
	return image, contents.Packages, describeImage(log, arch, image, len(contents.Packages))
}

// describeImage says what came out, sizes as a registry has them.
func describeImage(log io.Writer, arch string, image v1.Image, packages int) error {
	digest, err := image.Digest()
	if err != nil {
		return fmt.Errorf("digest of %s: %w", arch, err)
	}
	manifest, err := image.Manifest()
	if err != nil {
		return fmt.Errorf("manifest of %s: %w", arch, err)
	}
	const mib = 1 << 20
	fmt.Fprintf(log, "%s: %d packages of Debian %.2f MiB, holdfast %.2f MiB, %s\n", arch, packages,
		float64(manifest.Layers[0].Size)/mib, float64(manifest.Layers[1].Size)/mib, digest)
	return nil
}

// checkImages tries the image that this machine can run, if the options want it.
func checkImages(ctx context.Context, o *options, images map[string]v1.Image, work string, log io.Writer) error {
	if o.check == checkNever {
		return nil
	}
	err := fmt.Errorf("%w: this machine is %s/%s", errCannot, runtime.GOOS, runtime.GOARCH)
	if runtime.GOOS == "linux" && slices.Contains(o.archs, runtime.GOARCH) {
		dir := filepath.Join(work, "root")
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		err = check(ctx, images[runtime.GOARCH], dir, o.version)
	}
	switch {
	case err == nil:
		fmt.Fprintf(log, "%s: each program of the image runs\n", runtime.GOARCH)
		return nil
	case errors.Is(err, errCannot) && o.check == checkIfPossible:
		fmt.Fprintf(log, "not checked: %v\n", err)
		return nil
	default:
		return err
	}
}
