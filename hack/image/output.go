package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/holdfast-csi/holdfast/hack/image/internal/deb"
)

const workPattern = ".build-*"

// workDir makes a directory for what is not whole yet, in the directory where it will go, and removes what an earlier
// build that was killed has left. The caller holds a lock on out.
func workDir(out string) (string, error) {
	left, err := filepath.Glob(filepath.Join(out, workPattern))
	if err != nil {
		return "", err
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
	}
	return os.MkdirTemp(out, workPattern)
}

// layoutName is the directory of the image layout, both in work and in out.
const layoutName = "oci"

// write writes into work all that will be the result, and returns the names.
func write(work string, o *options, images map[string]v1.Image, packages map[string][]deb.Package) ([]string, error) {
	var names []string
	for _, arch := range o.archs {
		archive, list := "holdfast-"+arch+".tar", listName(arch)
		if err := tarball.WriteToFile(filepath.Join(work, archive), o.tag, images[arch]); err != nil {
			return nil, fmt.Errorf("write %s: %w", archive, err)
		}
		text := deb.FormatList(arch, packages[arch])
		if err := os.WriteFile(filepath.Join(work, list), []byte(text), 0o644); err != nil {
			return nil, err
		}
		names = append(names, archive, list)
	}
	if err := writeLayout(filepath.Join(work, layoutName), o.tag, index(o.archs, images)); err != nil {
		return nil, fmt.Errorf("write %s: %w", layoutName, err)
	}
	return append(names, layoutName), nil
}

func listName(arch string) string { return "packages-" + arch + ".txt" }

// writeLayout names the index twice: tools of OCI look for the tag, containerd for the whole name, as Kubernetes has it.
func writeLayout(dir string, tag name.Tag, all v1.ImageIndex) error {
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	return path.AppendIndex(all, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": tag.TagStr(),
		"io.containerd.image.name":          strings.Replace(tag.Name(), name.DefaultRegistry, dockerHub, 1),
	}))
}

// publish moves the result to where it belongs. Each name changes from the old to the new as a whole; a directory is
// away for a moment between.
func publish(work, out string, names []string) error {
	for _, one := range names {
		target := filepath.Join(out, one)
		if info, err := os.Lstat(target); err == nil && info.IsDir() {
			if err := os.Rename(target, filepath.Join(work, "old-"+one)); err != nil {
				return err
			}
		}
		if err := os.Rename(filepath.Join(work, one), target); err != nil {
			return err
		}
	}
	return nil
}

// readPins returns the packages that --packages insists on; none if there is no --packages.
func readPins(o *options, arch string) ([]deb.Package, error) {
	if o.pins == "" {
		return nil, nil
	}
	file := filepath.Join(o.pins, listName(arch))
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--packages %s: %w", o.pins, err)
	}
	list, err := deb.ParseList(string(text))
	if err != nil {
		return nil, fmt.Errorf("--packages: %s, %w", file, err)
	}
	return list, nil
}
