package pki

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/internal/wholefile"
)

// WriteBundle writes DIR/NAME.crt and DIR/NAME.key, the latter readable by its
// owner only, and makes DIR if needed. It never overwrites: a key that is lost
// cannot be made again. If it fails, neither file is there.
func WriteBundle(dir, name string, certPEM, keyPEM []byte) error {
	if name == "" || strings.HasPrefix(name, ".") || strings.ContainsRune(name, filepath.Separator) {
		return fmt.Errorf("bundle name %q: want a file name without a leading dot: %w", name, volume.ErrInvalid)
	}
	if _, err := tls.X509KeyPair(certPEM, keyPEM); err != nil {
		return fmt.Errorf("bundle %q: %w: %w", name, err, volume.ErrInvalid)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("bundle %q: %w", name, err)
	}
	keyFile, certFile := filepath.Join(dir, name+".key"), filepath.Join(dir, name+".crt")
	if err := writeNew(keyFile, keyPEM, 0o600); err != nil {
		return err
	}
	if err := writeNew(certFile, certPEM, 0o644); err != nil {
		_ = os.Remove(keyFile) // it was made here, just now
		return err
	}
	return nil
}

func writeNew(path string, data []byte, mode fs.FileMode) error {
	err := wholefile.Create(path, data, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("file %q exists and is not overwritten: %w", path, volume.ErrExists)
	}
	if err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	return nil
}
