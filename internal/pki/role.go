package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Role is what the holder of a certificate is. It is carried as the URI
// holdfast://role/ROLE among the alternative names.
type Role string

// The roles.
const (
	RoleTarget     Role = "target" // the agent of a storage host, the only server
	RoleController Role = "controller"
	RoleNode       Role = "node"
)

// ServerName is in the certificate of every target, and it is what clients
// ask for: a certificate is good at whatever address the target has.
const ServerName = "target.holdfast.internal"

const (
	uriScheme = "holdfast"
	uriHost   = "role"
)

func (r Role) known() bool { return r == RoleTarget || r == RoleController || r == RoleNode }

func (r Role) uri() *url.URL {
	return &url.URL{Scheme: uriScheme, Host: uriHost, Path: "/" + string(r)}
}

// RoleOf returns the role in the certificate. None, an unknown one and more
// than one are volume.ErrDenied. It does not verify the certificate.
func RoleOf(cert *x509.Certificate) (Role, error) {
	var found []Role
	for _, u := range cert.URIs {
		if u.Scheme == uriScheme && u.Host == uriHost {
			found = append(found, Role(strings.TrimPrefix(u.Path, "/")))
		}
	}
	if len(found) != 1 || !found[0].known() {
		return "", fmt.Errorf("certificate %q: carries the roles %q, want exactly one of target, controller and node: %w",
			cert.Subject.CommonName, found, volume.ErrDenied)
	}
	return found[0], nil
}

// requireRole returns a check of the peer for tls.Config.VerifyConnection,
// which runs after the chain is verified.
func requireRole(roles ...Role) func(tls.ConnectionState) error {
	return func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return errors.Join(errors.New("peer has no certificate"), volume.ErrDenied)
		}
		return checkRole(cs.PeerCertificates[0], roles)
	}
}

func checkRole(cert *x509.Certificate, roles []Role) error {
	role, err := RoleOf(cert)
	if err != nil {
		return err
	}
	if !slices.Contains(roles, role) {
		return fmt.Errorf("certificate %q: has role %q, want %q: %w", cert.Subject.CommonName, role, roles, volume.ErrDenied)
	}
	return nil
}
