package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// files are the three files of one party.
type files struct{ ca, cert, key string }

// identity is what was read of them.
type identity struct {
	pair  tls.Certificate
	roots *x509.CertPool
}

// load reads the files and refuses what no handshake could succeed with.
func (f files) load(roles []Role) (*identity, error) {
	caPEM, err := os.ReadFile(f.ca)
	if err != nil {
		return nil, fmt.Errorf("authority: %w: %w", err, volume.ErrPrecondition)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(caPEM) {
		return nil, fmt.Errorf("authority %q: holds no certificate in PEM: %w", f.ca, volume.ErrPrecondition)
	}
	pair, err := f.readPair()
	if err != nil {
		return nil, err
	}
	if err := checkTime(pair.Leaf, time.Now()); err != nil {
		return nil, fmt.Errorf("%q: %w", f.cert, err)
	}
	if err := checkRole(pair.Leaf, roles); err != nil {
		return nil, fmt.Errorf("%q: %w: %w", f.cert, err, volume.ErrPrecondition)
	}
	opts := x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	if _, err := pair.Leaf.Verify(opts); err != nil {
		return nil, fmt.Errorf("%q: was not issued by the authority in %q: %w: %w", f.cert, f.ca, err, volume.ErrPrecondition)
	}
	return &identity{pair: pair, roots: roots}, nil
}

// readPair reads the two files one by one, so that the error names the right one.
func (f files) readPair() (tls.Certificate, error) {
	cert, err := os.ReadFile(f.cert)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate: %w: %w", err, volume.ErrPrecondition)
	}
	key, err := os.ReadFile(f.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("key: %w: %w", err, volume.ErrPrecondition)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate %q with key %q: %w: %w", f.cert, f.key, err, volume.ErrPrecondition)
	}
	return pair, nil
}

// stamp changes when one of the files does. os.Stat follows symbolic links, so
// the swap of a link, which is how Kubernetes updates a mounted secret, is seen.
func (f files) stamp() (s [3]os.FileInfo, err error) {
	for i, path := range []string{f.ca, f.cert, f.key} {
		if s[i], err = os.Stat(path); err != nil {
			return s, err
		}
	}
	return s, nil
}

func sameStamp(a, b [3]os.FileInfo) bool {
	for i := range a {
		if a[i] == nil || b[i] == nil || !os.SameFile(a[i], b[i]) || !a[i].ModTime().Equal(b[i].ModTime()) || a[i].Size() != b[i].Size() {
			return false
		}
	}
	return true
}

// reloader keeps the identity of files up to date.
type reloader struct {
	files files
	roles []Role

	mu      sync.Mutex
	current *identity
	stamp   [3]os.FileInfo
}

func newReloader(f files, roles ...Role) (*reloader, error) {
	r := &reloader{files: f, roles: roles}
	_, err := r.get()
	return r, err
}

// get returns the identity in the files, or, while they cannot be used, the
// last one that could: an update replaces three files one after the other. Once
// that one has expired, the error is told.
func (r *reloader) get() (*identity, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	stamp, err := r.files.stamp() // before reading: a change meanwhile is seen next time
	if err == nil && r.current != nil && sameStamp(stamp, r.stamp) {
		return r.current, nil
	}
	id, err := r.files.load(r.roles)
	if err == nil {
		r.current, r.stamp = id, stamp
		return id, nil
	}
	if r.current == nil || checkTime(r.current.pair.Leaf, time.Now()) != nil {
		return nil, err
	}
	return r.current, nil
}
