package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/holdfast-csi/holdfast/hack/image/internal/command"
	"github.com/holdfast-csi/holdfast/hack/image/internal/debian"
	"github.com/holdfast-csi/holdfast/hack/image/internal/rootfs"
)

// probe is a program of the image to run, and what it must say.
type probe struct {
	argv []string
	says []string
}

// Sparse files in the image's /tmp on which file systems are made, and their sizes in bytes.
const (
	ext4File, ext4Size = "/tmp/ext4", 64 << 20
	xfsFile, xfsSize   = "/tmp/xfs", 512 << 20 // mkfs.xfs wants 300 MiB
)

// probes has each program say its version, and make what it is there for. The flags of the two mkfs are those of
// internal/filesystem/format.go, and a test compares them. modprobe must read the modules of Debian (xz) and Ubuntu
// (zstd).
func probes(version string) []probe {
	return []probe{
		{[]string{"/usr/local/bin/holdfast", "--version"}, []string{version}},
		{[]string{"/usr/sbin/modprobe", "--version"}, []string{"kmod version", "+XZ", "+ZSTD"}},
		{[]string{"/usr/sbin/nvme", "version"}, []string{"nvme version"}},
		{[]string{"/usr/sbin/mkfs.ext4", "-V"}, []string{"mke2fs"}},
		{[]string{"/usr/sbin/e2fsck", "-V"}, []string{"e2fsck"}},
		{[]string{"/usr/sbin/mkfs.xfs", "-V"}, []string{"mkfs.xfs version"}},
		{slices.Concat([]string{"/usr/sbin/mkfs.ext4"}, ext4Flags, []string{ext4File}), nil},
		{[]string{"/usr/sbin/e2fsck", "-f", "-n", ext4File}, []string{ext4File + ": "}},
		{slices.Concat([]string{"/usr/sbin/mkfs.xfs"}, xfsFlags, []string{xfsFile}), nil},
	}
}

var (
	ext4Flags = []string{"-q", "-F", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=0", "-e", "remount-ro"}
	xfsFlags  = []string{"-q", "-f", "-K"}
)

// errCannot is that this machine cannot run the image's programs, which says nothing of the image.
var errCannot = errors.New("cannot run the image's programs")

// check runs the image's programs, with the image as their root directory. dir is on the disk, empty, and removed by
// the caller.
func check(ctx context.Context, image v1.Image, dir, version string) error {
	if err := extract(image, dir); err != nil {
		return fmt.Errorf("unpack image: %w", err)
	}
	for file, size := range map[string]int64{ext4File: ext4Size, xfsFile: xfsSize} {
		if err := sparse(filepath.Join(dir, file), size); err != nil {
			return err
		}
	}
	for _, p := range probes(version) {
		said, err := command.InRoot(ctx, dir, debian.Search, p.argv...)
		if errors.Is(err, syscall.EPERM) {
			return fmt.Errorf("%w: the kernel allows neither chroot nor a user namespace", errCannot)
		}
		if err != nil {
			return fmt.Errorf("inside the image: %w", err)
		}
		for _, must := range p.says {
			if !strings.Contains(said, must) {
				return fmt.Errorf("inside the image: %s says %q, without %q", strings.Join(p.argv, " "), said, must)
			}
		}
	}
	return nil
}

// extract writes the files that a container would see.
func extract(image v1.Image, dir string) (err error) {
	content := mutate.Extract(image)
	defer func() { err = errors.Join(err, content.Close()) }()
	tree := &rootfs.Tree{}
	if err := tree.Unpack(content, "image"); err != nil {
		return err
	}
	return tree.WriteDir(dir)
}

func sparse(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}
