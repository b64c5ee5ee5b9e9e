package deb

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/holdfast-csi/holdfast/hack/image/internal/command"
	"github.com/holdfast-csi/holdfast/hack/image/internal/rootfs"
)

// Config says where packages come from. The caller holds a lock on Cache.
type Config struct {
	Cache   string // absolute; it is made
	Arch    string // as of Apt
	Sources string // as of Apt
	Refresh bool   // as of Apt
}

// Open returns a store that keeps its packages, and apt's lists, below the cache.
func Open(c Config) (*Store, error) {
	apt := &Apt{
		Run: command.Run, Dir: filepath.Join(c.Cache, "apt-"+c.Arch), Arch: c.Arch, Sources: c.Sources, Refresh: c.Refresh,
	}
	if err := apt.Prepare(); err != nil {
		return nil, err
	}
	store := &Store{Run: command.Run, Apt: apt, Dir: filepath.Join(c.Cache, "debs")}
	return store, os.MkdirAll(store.Dir, 0o755)
}

// Store has packages: those of its directory, and those that apt can download. The caller holds a lock on Dir.
type Store struct {
	Run command.Runner
	Apt *Apt
	Dir string // absolute
}

// Resolve is Apt's.
func (s *Store) Resolve(ctx context.Context, names []string) ([]Package, error) {
	return s.Apt.Resolve(ctx, names)
}

// Unpack puts a package's files into a tree, and returns its control file.
func (s *Store) Unpack(ctx context.Context, p Package, tree *rootfs.Tree) (control []byte, err error) {
	file, err := s.fetch(ctx, p)
	if err != nil {
		return nil, err
	}
	archive, err := s.Run(ctx, "", "dpkg-deb", "--fsys-tarfile", file)
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", p, err)
	}
	if err := tree.Unpack(bytes.NewReader(archive), p.Name); err != nil {
		return nil, err
	}
	control, err = s.Run(ctx, "", "dpkg-deb", "--field", file)
	if err != nil {
		return nil, fmt.Errorf("read control file of %s: %w", p, err)
	}
	return control, nil
}

// fetch returns the path of the .deb. One that is in the directory is used if it has the content that it must have.
func (s *Store) fetch(ctx context.Context, p Package) (string, error) {
	file := filepath.Join(s.Dir, fileName(p, s.Apt.Arch))
	err := verify(file, p)
	if err == nil {
		return file, nil
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errSum) {
		return file, s.download(ctx, p, file)
	}
	return "", err
}

func (s *Store) download(ctx context.Context, p Package, file string) (err error) {
	stage, err := os.MkdirTemp(s.Dir, ".fetch-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(stage)) }() // whatever was not renamed away
	deb, err := s.Apt.download(ctx, stage, p)
	if err != nil {
		return err
	}
	if err := verify(deb, p); err != nil {
		return err
	}
	return os.Rename(deb, file)
}

// fileName has the architecture that was asked for, also if the package is for all of them.
func fileName(p Package, arch string) string {
	return fmt.Sprintf("%s_%s_%s.deb", p.Name, strings.ReplaceAll(p.Version, ":", "%3a"), arch)
}

var errSum = errors.New("not the file that it must be")

// verify compares a file with what the signed lists of apt, or the list of a release, say of it.
func verify(file string, p Package) (err error) {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	if sum := hex.EncodeToString(h.Sum(nil)); sum != p.SHA256 {
		return fmt.Errorf("%s: %w: sha256 %s, want %s", p, errSum, sum, p.SHA256)
	}
	return nil
}
