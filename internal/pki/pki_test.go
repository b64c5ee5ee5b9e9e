package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

func authority(t *testing.T, name string) (*Authority, []byte) {
	t.Helper()
	cert, key, err := NewAuthority(name)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := ParseAuthority(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return ca, cert
}

// party is the files of one side.
type party struct{ ca, cert, key string }

// write puts a bundle beside a CA file.
func write(t *testing.T, caPEM, cert, key []byte) party {
	t.Helper()
	dir := t.TempDir()
	p := party{filepath.Join(dir, "ca.crt"), filepath.Join(dir, "x.crt"), filepath.Join(dir, "x.key")}
	if err := errors.Join(os.WriteFile(p.ca, caPEM, 0o644), WriteBundle(dir, "x", cert, key)); err != nil {
		t.Fatal(err)
	}
	return p
}

func issue(t *testing.T, ca *Authority, caPEM []byte, role Role) party {
	t.Helper()
	cert, key, err := Issue(ca, role, []string{"host-a"}, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, caPEM, cert, key)
}

// forge signs a certificate that Issue would not make.
func forge(t *testing.T, ca *Authority, caPEM []byte, role Role, change func(*x509.Certificate)) party {
	t.Helper()
	tmpl, err := template("forged", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	tmpl.DNSNames = []string{ServerName}
	tmpl.URIs = []*url.URL{role.uri()}
	change(tmpl)
	cert, key, err := sign(tmpl, ca)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, caPEM, cert, key)
}

// rawClient presents a certificate that ClientTLS may refuse to load.
func rawClient(t *testing.T, p party) *tls.Config {
	t.Helper()
	cfg := &tls.Config{ServerName: ServerName, RootCAs: x509.NewCertPool()}
	caPEM, err := os.ReadFile(p.ca)
	if err != nil || !cfg.RootCAs.AppendCertsFromPEM(caPEM) {
		t.Fatal("no CA", err)
	}
	if p.cert != "" {
		pair, err := tls.LoadX509KeyPair(p.cert, p.key)
		if err != nil {
			t.Fatal(err)
		}
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return cfg
}

func rawServer(t *testing.T, p party) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(p.cert, p.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert}
}

// shake connects over a socket and passes one byte each way: in TLS 1.3 a
// client learns only from reading that the server refused it.
func shake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() { done <- serve(l, server) }()
	conn, err := net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	c := tls.Client(conn, client)
	buf := make([]byte, 1)
	if clientErr = c.Handshake(); clientErr == nil {
		_, clientErr = c.Read(buf)
	}
	if clientErr == nil {
		if s := c.ConnectionState(); s.Version != tls.VersionTLS13 || s.DidResume {
			t.Errorf("version %#x, resumed %v", s.Version, s.DidResume)
		}
	}
	_ = conn.Close()
	return <-done, clientErr
}

func serve(l net.Listener, cfg *tls.Config) error {
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	s := tls.Server(conn, cfg)
	if err := s.Handshake(); err != nil {
		return err
	}
	_, err = s.Write([]byte{1})
	return err
}

func wantErr(t *testing.T, err, want error, texts ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not name %q", err, text)
		}
	}
}

func TestIssue(t *testing.T) {
	ca, _ := authority(t, "test")
	ip := net.IPv4(10, 0, 0, 1)
	certPEM, keyPEM, err := Issue(ca, RoleTarget, []string{"store-1.example"}, []net.IP{ip}, 2*AuthorityValidity)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	c := pair.Leaf
	if role, err := RoleOf(c); role != RoleTarget || err != nil {
		t.Errorf("role %q, %v", role, err)
	}
	for _, name := range []string{ServerName, "store-1.example", "10.0.0.1"} {
		if err := c.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if c.URIs[0].String() != "holdfast://role/target" || c.Subject.CommonName != "store-1.example" {
		t.Errorf("URI %v, subject %v", c.URIs, c.Subject)
	}
	if c.NotAfter.After(ca.cert.NotAfter) {
		t.Error("outlasts the authority")
	}
	for _, bad := range []struct {
		role  Role
		names []string
		valid time.Duration
	}{{"admin", nil, 1}, {RoleNode, []string{ServerName}, 1}, {RoleNode, []string{""}, 1}, {RoleNode, nil, 0}} {
		_, _, err := Issue(ca, bad.role, bad.names, nil, bad.valid)
		wantErr(t, err, volume.ErrInvalid)
	}
}

func TestAuthority(t *testing.T) {
	ca, _ := authority(t, "test")
	pub, ok := ca.cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() || !ca.cert.IsCA || !ca.cert.MaxPathLenZero {
		t.Errorf("authority: %T, CA %v, path length zero %v", ca.cert.PublicKey, ca.cert.IsCA, ca.cert.MaxPathLenZero)
	}
	_, _, err := NewAuthority("")
	wantErr(t, err, volume.ErrInvalid)
	leaf, key, err := Issue(ca, RoleNode, nil, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	_, err = ParseAuthority(leaf, key)
	wantErr(t, err, volume.ErrInvalid, "holdfast node", "authority")
	_, err = ParseAuthority([]byte("junk"), key)
	wantErr(t, err, volume.ErrInvalid)
	old, _ := template("old", -time.Minute)
	old.IsCA, old.KeyUsage = true, x509.KeyUsageCertSign
	cert, key, err := sign(old, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = ParseAuthority(cert, key)
	wantErr(t, err, volume.ErrPrecondition, "expired on "+old.NotAfter.UTC().Format("2006-01-02"))
}

func TestBundleModesAndNoOverwrite(t *testing.T) {
	ca, _ := authority(t, "test")
	cert, key, err := Issue(ca, RoleNode, nil, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "pki")
	if err := WriteBundle(dir, "node", cert, key); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{"node.key": 0o600, "node.crt": 0o644, ".": 0o700} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v; want %v", name, fi.Mode(), err, want)
		}
	}
	cert2, key2, err := Issue(ca, RoleNode, nil, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	wantErr(t, WriteBundle(dir, "node", cert2, key2), volume.ErrExists, "node.key")
	// Only the certificate is there: the new key must go again.
	if err := os.Remove(filepath.Join(dir, "node.key")); err != nil {
		t.Fatal(err)
	}
	wantErr(t, WriteBundle(dir, "node", cert2, key2), volume.ErrExists, "node.crt")
	entries, _ := os.ReadDir(dir)
	if len(entries) != 1 || entries[0].Name() != "node.crt" {
		t.Errorf("left behind: %v", entries)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "node.crt")); !slices.Equal(got, cert) {
		t.Error("overwritten")
	}
	for _, name := range []string{"", ".x", "a/b", "../x"} {
		wantErr(t, WriteBundle(dir, name, cert, key), volume.ErrInvalid)
	}
	wantErr(t, WriteBundle(dir, "mixed", cert, key2), volume.ErrInvalid, "mixed")
}
