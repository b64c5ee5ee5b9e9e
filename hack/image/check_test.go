package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/hack/image/internal/cli"
	"github.com/holdfast-csi/holdfast/hack/image/internal/debian"
)

// TestProbes: each program of the image is run at least once.
func TestProbes(t *testing.T) {
	run := make(map[string]bool)
	for _, p := range probes("1.2.3") {
		run[p.argv[0]] = true
	}
	for _, p := range debian.Programs() {
		if !run[p.Path] {
			t.Errorf("%s is not run", p.Path)
		}
	}
	if !run["/usr/local/bin/holdfast"] {
		t.Error("holdfast is not run")
	}
}

// TestFlagsOfProduct: the check makes file systems as Holdfast does. What Holdfast says is in a package that this
// module cannot import without all that the product depends on, so its text is compared.
func TestFlagsOfProduct(t *testing.T) {
	root, err := cli.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "internal", "filesystem", "format.go"))
	if err != nil {
		t.Fatal(err)
	}
	for program, flags := range map[string][]string{"mkfs.ext4": ext4Flags, "mkfs.xfs": xfsFlags} {
		want := `{"` + strings.Join(append([]string{program}, flags...), `", "`) + `"}`
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("no %s in internal/filesystem/format.go", want)
		}
	}
}

// TestCheckFails: an image whose programs cannot run is found out, or it is said that nobody looked.
func TestCheckFails(t *testing.T) {
	o := toyOptions(t, runtime.GOARCH)
	o.check = checkAlways
	if _, err := parseArchs(runtime.GOARCH); err != nil {
		t.Skipf("no image is built for this machine: %v", err)
	}
	err := checkImages(t.Context(), o, toy(t, runtime.GOARCH), t.TempDir(), io.Discard)
	if err == nil || (!strings.Contains(err.Error(), "/usr/local/bin/holdfast --version") && !errors.Is(err, errCannot)) {
		t.Errorf("got %v", err)
	}
}

func TestCheckElsewhere(t *testing.T) {
	other := "arm64"
	if runtime.GOARCH == other {
		other = "amd64"
	}
	o := toyOptions(t, other)
	images := toy(t, other)
	var said bytes.Buffer
	if err := checkImages(t.Context(), o, images, t.TempDir(), &said); err != nil || !strings.Contains(said.String(), "not checked") {
		t.Errorf("if possible: %v, said %q", err, said.String())
	}
	o.check = checkAlways
	if err := checkImages(t.Context(), o, images, t.TempDir(), &said); !errors.Is(err, errCannot) {
		t.Errorf("insisted: %v", err)
	}
	o.check = checkNever
	if err := checkImages(t.Context(), o, images, t.TempDir(), &said); err != nil {
		t.Errorf("left out: %v", err)
	}
}
