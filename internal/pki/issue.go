package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"slices"
	"time"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

const (
	// AuthorityValidity is how long a new authority lasts.
	AuthorityValidity = 10 * 365 * 24 * time.Hour
	// skew is how far the peers' clocks may lag behind the issuer's.
	skew = time.Hour
)

// Authority can issue certificates.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// NewAuthority makes a self-signed authority for AuthorityValidity, as PEM. It
// can sign the certificates of peers but no other authority.
func NewAuthority(name string) (certPEM, keyPEM []byte, err error) {
	if name == "" {
		return nil, nil, fmt.Errorf("authority: the name must not be empty: %w", volume.ErrInvalid)
	}
	tmpl, err := template(name, AuthorityValidity)
	if err != nil {
		return nil, nil, fmt.Errorf("authority %q: %w", name, err)
	}
	tmpl.IsCA = true
	tmpl.MaxPathLenZero = true
	tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	certPEM, keyPEM, err = sign(tmpl, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("authority %q: %w", name, err)
	}
	return certPEM, keyPEM, nil
}

// ParseAuthority reads what NewAuthority made.
func ParseAuthority(certPEM, keyPEM []byte) (*Authority, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("authority: %w: %w", err, volume.ErrInvalid)
	}
	cert, key := pair.Leaf, pair.PrivateKey
	if !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, fmt.Errorf("certificate %q is not that of an authority: %w", cert.Subject.CommonName, volume.ErrInvalid)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("authority %q: its key cannot sign: %w", cert.Subject.CommonName, volume.ErrInvalid)
	}
	if err := checkTime(cert, time.Now()); err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	return &Authority{cert: cert, key: signer}, nil
}

// Issue makes a certificate and key, as PEM. names become DNS names, the first
// of them the subject; a target's get ServerName added, which no other role may
// have. The certificate does not outlast the authority, whatever the validity.
func Issue(ca *Authority, role Role, names []string, ips []net.IP, validity time.Duration) (certPEM, keyPEM []byte, err error) {
	if err := checkRequest(role, names, validity); err != nil {
		return nil, nil, err
	}
	subject := "holdfast " + string(role)
	if len(names) > 0 {
		subject = names[0]
	}
	tmpl, err := template(subject, validity)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate %q: %w", subject, err)
	}
	if tmpl.NotAfter.After(ca.cert.NotAfter) {
		tmpl.NotAfter = ca.cert.NotAfter
	}
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	tmpl.URIs = []*url.URL{role.uri()}
	tmpl.DNSNames = slices.Clone(names)
	tmpl.IPAddresses = ips
	if role == RoleTarget {
		tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		if !slices.Contains(names, ServerName) {
			tmpl.DNSNames = append([]string{ServerName}, names...)
		}
	}
	certPEM, keyPEM, err = sign(tmpl, ca)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate %q: %w", subject, err)
	}
	return certPEM, keyPEM, nil
}

func checkRequest(role Role, names []string, validity time.Duration) error {
	if !role.known() {
		return fmt.Errorf("role %q: want target, controller or node: %w", role, volume.ErrInvalid)
	}
	if validity <= 0 {
		return fmt.Errorf("certificate for role %q: validity of %s is not positive: %w", role, validity, volume.ErrInvalid)
	}
	if slices.Contains(names, "") {
		return fmt.Errorf("certificate for role %q: a name is empty: %w", role, volume.ErrInvalid)
	}
	if role != RoleTarget && slices.Contains(names, ServerName) {
		return fmt.Errorf("certificate for role %q: the name %q is the targets': %w", role, ServerName, volume.ErrInvalid)
	}
	return nil
}

func template(subject string, validity time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make the serial number: %w", err)
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)),
		Subject:               pkix.Name{CommonName: subject, Organization: []string{"Holdfast"}},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(validity),
		BasicConstraintsValid: true,
	}, nil
}

// sign makes a P-256 key and the certificate; without an authority the
// certificate signs itself.
func sign(tmpl *x509.Certificate, ca *Authority) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make the key: %w", err)
	}
	parent := &Authority{cert: tmpl, key: key}
	if ca != nil {
		parent = ca
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent.cert, key.Public(), parent.key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the key: %w", err)
	}
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	return certPEM, keyPEM, nil
}

// checkTime says when a certificate ended, or will begin.
func checkTime(cert *x509.Certificate, now time.Time) error {
	if now.After(cert.NotAfter) {
		return fmt.Errorf("certificate %q expired on %s: %w", cert.Subject.CommonName, cert.NotAfter.UTC().Format(time.RFC3339), volume.ErrPrecondition)
	}
	if now.Before(cert.NotBefore) {
		return fmt.Errorf("certificate %q is not valid before %s; is the clock right? %w", cert.Subject.CommonName, cert.NotBefore.UTC().Format(time.RFC3339), volume.ErrPrecondition)
	}
	return nil
}
