// Package kernel gets a distribution's kernel for virtual machines: which package, downloaded and verified by apt,
// unpacked beside the cache, and the modules of it that a machine needs.
//
// It knows Debian's package names on amd64. It installs nothing, and downloads by no other way than apt.
package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Kernel is an unpacked kernel package.
type Kernel struct {
	Package string `json:"package"`
	Release string `json:"release"` // as uname -r says
	Deb     string `json:"deb"`     // file name below the cache directory
	SHA256  string `json:"sha256"`  // of Deb

	dir string
}

// Image is the path of the bootable kernel.
func (k *Kernel) Image() string { return filepath.Join(k.dir, "boot", "vmlinuz-"+k.Release) }

// ModuleDir is the directory with modules.dep.
func (k *Kernel) ModuleDir() string { return filepath.Join(k.dir, "lib", "modules", k.Release) }

var errDownload = errors.New("download kernel")

// Runner runs a program and returns its standard output. It is the seam for tests.
type Runner func(ctx context.Context, dir string, argv ...string) ([]byte, error)

// Run is the real Runner.
func Run(ctx context.Context, dir string, argv ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// Get returns the kernel of a series such as "6.12", from the cache directory if it is there and whole. needed are modules
// that must exist, as files or built in: a cloud kernel without one of them is passed over for the generic kernel.
//
// The caller holds a lock on dir. HOLDFAST_KERNEL_REFRESH=1 asks apt again whether there is a newer package.
func Get(ctx context.Context, run Runner, dir, series string, needed []string) (*Kernel, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	record := filepath.Join(dir, "kernel-"+series+".json")
	if os.Getenv("HOLDFAST_KERNEL_REFRESH") == "" {
		if k, err := cached(record, dir); err == nil {
			return k, nil
		}
	}
	k, err := choose(ctx, run, dir, series, needed)
	if errors.Is(err, errDownload) {
		// Lists that are out of date name packages that are gone.
		if _, updateErr := run(ctx, "", "apt-get", "-q", "update"); updateErr != nil {
			return nil, errors.Join(err, updateErr)
		}
		k, err = choose(ctx, run, dir, series, needed)
	}
	if err != nil {
		return nil, err
	}
	return k, writeRecord(record, k)
}

// choose fetches the first kernel of the series that has all modules needed.
func choose(ctx context.Context, run Runner, dir, series string, needed []string) (*Kernel, error) {
	packages, err := resolve(ctx, run, series)
	if err != nil {
		return nil, err
	}
	var rejected []error
	for _, pkg := range packages {
		k, err := fetch(ctx, run, dir, pkg)
		if err != nil {
			return nil, err
		}
		missing := k.missing(needed)
		if len(missing) == 0 {
			return k, nil
		}
		rejected = append(rejected, fmt.Errorf("%s lacks %s", pkg, strings.Join(missing, ", ")))
	}
	return nil, fmt.Errorf("no %s kernel has all modules needed: %w", series, errors.Join(rejected...))
}

// cached reads a record and checks that the package it speaks of is still what apt verified.
func cached(record, dir string) (*Kernel, error) {
	raw, err := os.ReadFile(record)
	if err != nil {
		return nil, err
	}
	k := &Kernel{}
	if err := json.Unmarshal(raw, k); err != nil {
		return nil, fmt.Errorf("decode %s: %w", record, err)
	}
	k.dir = filepath.Join(dir, k.Package)
	sum, err := fileSum(filepath.Join(dir, k.Deb))
	if err != nil {
		return nil, err
	}
	if sum != k.SHA256 {
		return nil, fmt.Errorf("%s has sha256 %s, the record says %s", k.Deb, sum, k.SHA256)
	}
	if _, err := os.Stat(k.Image()); err != nil {
		return nil, err
	}
	return k, nil
}

func writeRecord(record string, k *Kernel) error {
	raw, err := json.MarshalIndent(k, "", "\t")
	if err != nil {
		return fmt.Errorf("encode record of %s: %w", k.Package, err)
	}
	return os.WriteFile(record, append(raw, '\n'), 0o644)
}

// fetch downloads and unpacks a package. apt verifies the signature of its index and the checksum of the package.
func fetch(ctx context.Context, run Runner, dir, pkg string) (*Kernel, error) {
	k := &Kernel{Package: pkg, Release: strings.TrimPrefix(pkg, packagePrefix), dir: filepath.Join(dir, pkg)}
	stage, err := os.MkdirTemp(dir, ".fetch-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(stage) // whatever was not renamed away
	// As root apt would otherwise download as a user who may not enter the cache directory, and complain.
	if _, err := run(ctx, stage, "apt-get", "-o", "APT::Sandbox::User=root", "-q", "download", pkg); err != nil {
		return nil, fmt.Errorf("%w: %w", errDownload, err)
	}
	debs, err := filepath.Glob(filepath.Join(stage, "*.deb"))
	if err != nil || len(debs) != 1 {
		return nil, fmt.Errorf("download %s: %d packages came instead of one", pkg, len(debs))
	}
	if k.SHA256, err = fileSum(debs[0]); err != nil {
		return nil, err
	}
	tree := filepath.Join(stage, "tree")
	if _, err := run(ctx, stage, "dpkg-deb", "-x", debs[0], tree); err != nil {
		return nil, fmt.Errorf("unpack kernel: %w", err)
	}
	if err := normalise(tree); err != nil {
		return nil, err
	}
	if _, err := run(ctx, stage, "depmod", "-b", tree, k.Release); err != nil {
		return nil, fmt.Errorf("index modules: %w", err)
	}
	k.Deb = filepath.Base(debs[0])
	if err := os.Rename(debs[0], filepath.Join(dir, k.Deb)); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(k.dir); err != nil {
		return nil, err
	}
	return k, os.Rename(tree, k.dir)
}

// normalise makes lib/modules exist in packages that ship usr/lib/modules.
func normalise(tree string) error {
	if _, err := os.Stat(filepath.Join(tree, "lib", "modules")); err == nil {
		return nil
	}
	if _, err := os.Stat(filepath.Join(tree, "usr", "lib", "modules")); err != nil {
		return fmt.Errorf("package has no modules: %w", err)
	}
	if err := os.RemoveAll(filepath.Join(tree, "lib")); err != nil {
		return err
	}
	return os.Symlink(filepath.Join("usr", "lib"), filepath.Join(tree, "lib"))
}

func fileSum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
