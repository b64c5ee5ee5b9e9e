package main

import (
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/holdfast-csi/holdfast/hack/image/internal/deb"
	"github.com/holdfast-csi/holdfast/hack/image/internal/rootfs"
)

// toy returns images whose holdfast is a few bytes.
func toy(t *testing.T, archs ...string) map[string]v1.Image {
	t.Helper()
	images := make(map[string]v1.Image)
	for _, arch := range archs {
		p := parts{arch: arch, version: "1.2.3", when: time.Unix(7, 0).UTC(), programs: &rootfs.Tree{}, product: &rootfs.Tree{}}
		err := errors.Join(
			p.programs.Directory("/tmp", 0o777),
			p.programs.Bytes("/usr/sbin/nvme", []byte("nvme of "+arch), 0o755),
			p.product.Bytes("/usr/local/bin/holdfast", []byte("holdfast of "+arch), 0o755),
		)
		if err != nil {
			t.Fatal(err)
		}
		if images[arch], err = assemble(p); err != nil {
			t.Fatal(err)
		}
	}
	return images
}

func toyOptions(t *testing.T, archs ...string) *options {
	t.Helper()
	tag, err := name.NewTag("holdfast-csi/holdfast:1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	return &options{archs: archs, tag: tag, version: "1.2.3", out: t.TempDir()}
}

func TestAssemble(t *testing.T) {
	image := toy(t, "arm64")["arm64"]
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := config.Config
	if config.Architecture != "arm64" || config.OS != "linux" || config.Created.Unix() != 7 || len(config.RootFS.DiffIDs) != 2 ||
		len(config.History) != 2 || c.User != "" || !slices.Equal(c.Entrypoint, []string{"/usr/local/bin/holdfast"}) ||
		c.Labels["org.opencontainers.image.version"] != "1.2.3" || !strings.HasPrefix(c.Env[0], "PATH=/usr/local/sbin:") {
		t.Errorf("configuration %+v", config)
	}
	dir := t.TempDir()
	if err := extract(image, dir); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "usr/local/bin/holdfast")); err != nil || string(text) != "holdfast of arm64" {
		t.Errorf("holdfast is %q, %v", text, err)
	}
}

// contents returns all files below a directory, by name.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	root := os.DirFS(dir)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f, err := root.Open(rel)
		if err != nil {
			return err
		}
		defer f.Close()
		text, err := io.ReadAll(f)
		files[rel] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// produce writes a result as build does, and returns its directory.
func produce(t *testing.T, o *options, images map[string]v1.Image) string {
	t.Helper()
	work, err := workDir(o.out)
	if err != nil {
		t.Fatal(err)
	}
	names, err := write(work, o, images, map[string][]deb.Package{"amd64": {{Name: "kmod", Version: "30", SHA256: "00"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(publish(work, o.out, names), os.RemoveAll(work)); err != nil {
		t.Fatal(err)
	}
	return o.out
}

// TestDeterminism: what is written does not depend on when, where, or over what.
func TestDeterminism(t *testing.T) {
	archs := []string{"amd64", "arm64"}
	first := contents(t, produce(t, toyOptions(t, archs...), toy(t, archs...)))
	time.Sleep(1100 * time.Millisecond) // longer than what a time in an archive or in gzip tells apart
	o := toyOptions(t, archs...)
	produce(t, o, toy(t, "arm64", "amd64"))
	second := contents(t, produce(t, o, toy(t, archs...))) // over an earlier one
	if len(first) != len(second) {
		t.Errorf("%d files, then %d", len(first), len(second))
	}
	for file, text := range first {
		if second[file] != text {
			t.Errorf("%s differs", file)
		}
	}
}

func TestWritten(t *testing.T) {
	o := toyOptions(t, "amd64", "arm64")
	images := toy(t, o.archs...)
	dir := produce(t, o, images)
	for _, arch := range o.archs {
		got, err := tarball.ImageFromPath(filepath.Join(dir, "holdfast-"+arch+".tar"), &o.tag)
		if err != nil {
			t.Fatal(err)
		}
		want, err := images[arch].ConfigName()
		if err != nil {
			t.Fatal(err)
		}
		if name, err := got.ConfigName(); err != nil || name != want {
			t.Errorf("%s: %s, %v, want %s", arch, name, err, want)
		}
	}
	all, err := layout.ImageIndexFromPath(filepath.Join(dir, layoutName))
	if err != nil {
		t.Fatal(err)
	}
	top, err := all.IndexManifest()
	if err != nil || len(top.Manifests) != 1 || top.Manifests[0].Annotations["io.containerd.image.name"] != "docker.io/holdfast-csi/holdfast:1.2.3" {
		t.Fatalf("layout %+v, %v", top, err)
	}
	inner, err := all.ImageIndex(top.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	expectPlatforms(t, inner)
}

func expectPlatforms(t *testing.T, all v1.ImageIndex) {
	t.Helper()
	if err := validate.Index(all); err != nil {
		t.Error(err)
	}
	manifest, err := all.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range manifest.Manifests {
		got = append(got, m.Platform.String()+m.ArtifactType)
	}
	if want := []string{"linux/amd64", "linux/arm64"}; !slices.Equal(got, want) {
		t.Errorf("platforms %q, want %q", got, want)
	}
}

func TestPush(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	to, err := parsePush(strings.TrimPrefix(server.URL, "http://") + "/you/holdfast:1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	archs := []string{"amd64", "arm64"}
	digest, err := push(t.Context(), to, index(archs, toy(t, archs...)), authn.NewMultiKeychain())
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []name.Reference{to, digest} {
		all, err := remote.Index(ref)
		if err != nil {
			t.Fatal(err)
		}
		expectPlatforms(t, all)
	}
	server.Close()
	if _, err := push(t.Context(), to, index(archs, toy(t, archs...)), authn.NewMultiKeychain()); err == nil || !strings.Contains(err.Error(), to.String()) {
		t.Errorf("to a registry that is gone: %v", err)
	}
}

func TestReadPins(t *testing.T) {
	o := &options{}
	if list, err := readPins(o, "amd64"); err != nil || list != nil {
		t.Errorf("without --packages: %v, %v", list, err)
	}
	o.pins = t.TempDir()
	if _, err := readPins(o, "amd64"); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "packages-amd64.txt") {
		t.Errorf("no list: %v", err)
	}
	if err := os.WriteFile(filepath.Join(o.pins, "packages-amd64.txt"), []byte("kmod 30 short\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := readPins(o, "amd64"); err == nil || !strings.Contains(err.Error(), "packages-amd64.txt, line 1: package kmod, sha256") {
		t.Errorf("a bad list: %v", err)
	}
}

// TestWorkDir: what a build that was killed has left goes, and what others have in the directory stays.
func TestWorkDir(t *testing.T) {
	out := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(out, ".build-1", "oci"), 0o755), os.WriteFile(filepath.Join(out, "mine"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	work, err := workDir(out)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(out)
	if err != nil || len(entries) != 2 || entries[0].Name() != filepath.Base(work) || entries[1].Name() != "mine" {
		t.Errorf("left: %v, %v", entries, err)
	}
}
