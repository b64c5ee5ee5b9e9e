//go:build linux

package kube

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
)

// image is a container image of a few programs, in one layer.
type image struct {
	name  string
	entry string            // program that it runs
	files map[string]string // from the path in the image to the one here
	links map[string]string // symbolic links, from path to target
	env   []string
}

const (
	executable = 0o755
	everyone   = 0o1777
)

// write makes the archive that `ctr images import` reads. The same image gives the
// same bytes.
func (i image) write(to string) error {
	layer, err := i.layer()
	if err != nil {
		return fmt.Errorf("image %s: %w", i.name, err)
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Entrypoint": []string{i.entry}, "Env": append([]string{"PATH=/bin:/usr/local/bin"}, i.env...)},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	if err != nil {
		return err
	}
	configName := fmt.Sprintf("%x.json", sha256.Sum256(config))
	manifest, err := json.Marshal([]map[string]any{{"Config": configName, "RepoTags": []string{i.name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range []struct {
		name string
		data []byte
	}{{configName, config}, {"layer.tar", layer}, {"manifest.json", manifest}} {
		if err := addFile(w, f.name, 0o644, f.data); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), os.WriteFile(to, out.Bytes(), 0o600))
}

func (i image) layer() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, dir := range i.dirs() {
		mode := int64(executable)
		if dir == "tmp" {
			mode = everyone
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: mode}); err != nil {
			return nil, err
		}
	}
	for _, name := range sorted(i.files) {
		b, err := os.ReadFile(i.files[name])
		if err != nil {
			return nil, err
		}
		if err := addFile(w, strings.TrimPrefix(name, "/"), executable, b); err != nil {
			return nil, err
		}
	}
	for _, name := range sorted(i.links) {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: strings.TrimPrefix(name, "/"), Linkname: i.links[name], Mode: 0o777}); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

// dirs are those of all files, the outer before the inner.
func (i image) dirs() []string {
	all := map[string]string{"tmp": ""}
	for _, names := range []map[string]string{i.files, i.links} {
		for name := range names {
			for dir := path.Dir(strings.TrimPrefix(name, "/")); dir != "."; dir = path.Dir(dir) {
				all[dir] = ""
			}
		}
	}
	return sorted(all)
}

func addFile(w *tar.Writer, name string, mode int64, data []byte) error {
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := w.Write(data)
	return err
}

func sorted(m map[string]string) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
