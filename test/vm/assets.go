//go:build linux

package vm

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/test/vm/internal/image"
	"github.com/holdfast-csi/holdfast/test/vm/internal/kernel"
)

const modulePath = "github.com/holdfast-csi/holdfast"

// assets are the files that every boot uses, all in the cache.
type assets struct {
	kernel  *kernel.Kernel
	image   string // bootable kernel
	index   *kernel.Index
	guestd  string // init program
	base    string // archive: programs
	modules string // archive: kernel modules
}

// repoRoot walks up from the working directory, which for a test is its package's.
func repoRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(mod), "module "+modulePath+"\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod of %s in %s or above", modulePath, start)
		}
	}
}

// cacheDir is where downloads and archives are kept between runs.
func cacheDir(root string) string {
	if dir := os.Getenv("HOLDFAST_CACHE"); dir != "" {
		return dir
	}
	return filepath.Join(root, "build", "cache")
}

// lockFile takes an exclusive lock that ends with the file or the process.
func lockFile(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|flags); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// prepare makes or finds the assets. A lock keeps processes that start at the same time from doing so twice.
func prepare(ctx context.Context, root, cache string, cfg LabConfig) (*assets, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	lock, err := lockFile(filepath.Join(cache, "lock"), 0)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	prune(cache)
	a := &assets{}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		a.guestd, err = buildGuestd(ctx, root, cache)
		return err
	})
	g.Go(func() (err error) {
		a.base, err = buildBase(cache, cfg.Tools)
		return err
	})
	g.Go(func() error { return a.getKernel(ctx, cache, cfg.Kernel) })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return a, nil
}

func buildGuestd(ctx context.Context, root, cache string) (string, error) {
	out := filepath.Join(cache, "guestd")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "./test/vm/cmd/guestd")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOFLAGS=")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build guestd: %w: %s", err, msg)
	}
	// Labs that run already boot from theirs, whatever is built after.
	raw, err := os.ReadFile(out)
	if err != nil {
		return "", err
	}
	own := fmt.Sprintf("%s-%x", out, sha256.Sum256(raw))[:len(out)+17]
	if touch(own) {
		return own, nil
	}
	if err := os.WriteFile(own+".part", raw, 0o755); err != nil {
		return "", err
	}
	return own, os.Rename(own+".part", own)
}

// touch tells whether a file is in the cache, and keeps prune away from it.
func touch(path string) bool {
	now := time.Now()
	return os.Chtimes(path, now, now) == nil
}

// keepUnused is how long archives that no lab has used stay in the cache.
const keepUnused = 7 * 24 * time.Hour

// prune removes archives of earlier versions. Kernel packages stay: they are cheap to keep and slow to get.
func prune(cache string) {
	for _, pattern := range []string{"base-*", "modules-*", "guestd-*", ".archive-*", ".modules-*"} {
		paths, err := filepath.Glob(filepath.Join(cache, pattern))
		if err != nil {
			continue
		}
		for _, path := range paths {
			if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > keepUnused {
				_ = os.RemoveAll(path) // tidying only
			}
		}
	}
}

func buildBase(cache string, tools []string) (string, error) {
	a, err := image.Base(tools)
	if err != nil {
		return "", err
	}
	return writeCached(cache, "base", a)
}

func (a *assets) getKernel(ctx context.Context, cache, series string) (err error) {
	a.kernel, err = kernel.Get(ctx, kernel.Run, filepath.Join(cache, "kernel"), series, append(neededModules(), onDemandModules()...))
	if err != nil {
		return err
	}
	a.image = a.kernel.Bootable(ctx)
	if a.index, err = a.kernel.Index(); err != nil {
		return err
	}
	a.modules, err = buildModules(ctx, cache, a.kernel, a.index)
	return err
}

// buildModules archives the modules that a machine may load, now or by request of the kernel.
func buildModules(ctx context.Context, cache string, k *kernel.Kernel, index *kernel.Index) (string, error) {
	names := append(neededModules(), wantedModules()...)
	names = append(names, index.Below(wantedDirs()...)...)
	paths := index.Order(names, true)
	stamp := &image.Archive{} // names the archive, so that an unchanged one is not unpacked again only to be compared
	stamp.Bytes("key", []byte(k.SHA256+strings.Join(paths, "\n")), 0o644)
	key, err := stamp.Digest()
	if err != nil {
		return "", err
	}
	out := filepath.Join(cache, "modules-"+k.Release+"-"+key[:16]+".cpio")
	if touch(out) {
		return out, nil
	}
	stage, err := os.MkdirTemp(cache, ".modules-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(stage) // scratch
	if err := image.StageModules(k.ModuleDir(), stage, k.Release, paths); err != nil {
		return "", err
	}
	if _, err := kernel.Run(ctx, stage, "depmod", "-b", stage, k.Release); err != nil {
		return "", err
	}
	a := &image.Archive{}
	if err := a.Tree(filepath.Join(stage, "lib", "modules"), "/usr/lib/modules"); err != nil {
		return "", err
	}
	return out, writeArchive(out, a)
}

// writeCached names an archive by its content.
func writeCached(cache, kind string, a *image.Archive) (string, error) {
	digest, err := a.Digest()
	if err != nil {
		return "", err
	}
	out := filepath.Join(cache, kind+"-"+digest[:16]+".cpio")
	if touch(out) {
		return out, nil
	}
	return out, writeArchive(out, a)
}

// writeArchive writes beside the target and renames, so that an interrupted run leaves no half archive.
func writeArchive(out string, a *image.Archive) error {
	f, err := os.CreateTemp(filepath.Dir(out), ".archive-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after the rename, as it should
	w := bufio.NewWriterSize(f, 1<<20)
	if err := errors.Join(a.Write(w), w.Flush(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", out, err)
	}
	return os.Rename(f.Name(), out)
}
