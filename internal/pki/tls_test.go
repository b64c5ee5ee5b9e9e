package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

func serverTLS(t *testing.T, p party) *tls.Config {
	t.Helper()
	cfg, err := ServerTLS(p.ca, p.cert, p.key)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func clientTLS(t *testing.T, p party) *tls.Config {
	t.Helper()
	cfg, err := ClientTLS(p.ca, p.cert, p.key)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestServerAccepts(t *testing.T) {
	ca, caPEM := authority(t, "right")
	server := serverTLS(t, issue(t, ca, caPEM, RoleTarget))
	for _, role := range []Role{RoleController, RoleNode} {
		s, c := shake(t, server, clientTLS(t, issue(t, ca, caPEM, role)))
		if s != nil || c != nil {
			t.Errorf("%s: server %v, client %v", role, s, c)
		}
	}
}

func TestServerRefuses(t *testing.T) {
	ca, caPEM := authority(t, "right")
	other, _ := authority(t, "wrong")
	server := serverTLS(t, issue(t, ca, caPEM, RoleTarget))
	uris := func(list ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.URIs = nil
			for _, s := range list {
				u, err := url.Parse(s)
				if err != nil {
					t.Error(err)
				}
				c.URIs = append(c.URIs, u)
			}
		}
	}
	for _, c := range []struct {
		name   string
		client party
		text   string
	}{
		{"wrong authority", issue(t, other, caPEM, RoleNode), "unknown authority"},
		{"expired", forge(t, ca, caPEM, RoleNode, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), "expired"},
		{"no role", forge(t, ca, caPEM, RoleNode, uris()), "exactly one"},
		{"foreign URI", forge(t, ca, caPEM, RoleNode, uris("spiffe://role/node")), "exactly one"},
		{"unknown role", forge(t, ca, caPEM, "admin", uris("holdfast://role/admin")), "exactly one"},
		{"two roles", forge(t, ca, caPEM, RoleNode, uris("holdfast://role/node", "holdfast://role/controller")), "exactly one"},
		{"the server's certificate", issue(t, ca, caPEM, RoleTarget), "usage"},
		{"a target's with client usage", forge(t, ca, caPEM, RoleTarget, func(*x509.Certificate) {}), `role "target"`},
		{"no certificate", party{ca: issue(t, ca, caPEM, RoleNode).ca}, "didn't provide a certificate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, cl := shake(t, server, rawClient(t, c.client))
			if s == nil || cl == nil || !strings.Contains(s.Error(), c.text) {
				t.Errorf("server %v, client %v; want %q", s, cl, c.text)
			}
		})
	}
	t.Run("TLS 1.2", func(t *testing.T) {
		cfg := rawClient(t, issue(t, ca, caPEM, RoleNode))
		cfg.MaxVersion = tls.VersionTLS12
		if s, c := shake(t, server, cfg); s == nil || c == nil {
			t.Errorf("server %v, client %v", s, c)
		}
	})
}

func TestClientRefuses(t *testing.T) {
	ca, caPEM := authority(t, "right")
	other, otherPEM := authority(t, "wrong")
	client := clientTLS(t, issue(t, ca, caPEM, RoleNode))
	for _, c := range []struct {
		name   string
		server party
		text   string
	}{
		{"wrong authority", issue(t, other, otherPEM, RoleTarget), "unknown authority"},
		{"expired", forge(t, ca, caPEM, RoleTarget, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), "expired"},
		{"a node's certificate", issue(t, ca, caPEM, RoleNode), ""},
		{"a node's with server name and usage", forge(t, ca, caPEM, RoleNode, func(*x509.Certificate) {}), `role "node"`},
		{"no role", forge(t, ca, caPEM, RoleTarget, func(c *x509.Certificate) { c.URIs = nil }), "exactly one"},
		{"another name", forge(t, ca, caPEM, RoleTarget, func(c *x509.Certificate) { c.DNSNames = []string{"x.example"} }), ServerName},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, cl := shake(t, rawServer(t, c.server), client)
			if cl == nil || !strings.Contains(cl.Error(), c.text) {
				t.Errorf("client %v; want %q", cl, c.text)
			}
		})
	}
}

func TestLoadNamesFileAndRule(t *testing.T) {
	ca, caPEM := authority(t, "right")
	_, otherPEM := authority(t, "wrong")
	node, target := issue(t, ca, caPEM, RoleNode), issue(t, ca, caPEM, RoleTarget)
	gone := filepath.Join(t.TempDir(), "gone")
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(-48 * time.Hour)
	expired := forge(t, ca, caPEM, RoleNode, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = end.Add(-time.Hour), end })
	early := forge(t, ca, caPEM, RoleNode, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) })
	foreign := write(t, otherPEM, read(t, node.cert), read(t, node.key))
	for _, c := range []struct {
		p     party
		texts []string
	}{
		{party{gone, node.cert, node.key}, []string{gone}},
		{party{junk, node.cert, node.key}, []string{junk, "PEM"}},
		{party{node.ca, gone, node.key}, []string{gone}},
		{party{node.ca, node.cert, gone}, []string{gone}},
		{party{node.ca, node.cert, target.key}, []string{node.cert, target.key}},
		{expired, []string{expired.cert, "expired on " + end.UTC().Format(time.RFC3339)}},
		{early, []string{early.cert, "not valid before", "clock"}},
		{foreign, []string{foreign.cert, foreign.ca, "not issued"}},
		{target, []string{target.cert, `role "target"`}},
	} {
		_, err := ClientTLS(c.p.ca, c.p.cert, c.p.key)
		wantErr(t, err, volume.ErrPrecondition, c.texts...)
	}
	_, err := ServerTLS(node.ca, node.cert, node.key)
	wantErr(t, err, volume.ErrPrecondition, node.cert, `role "node"`)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// replace puts the content of other in place, by rename as an update does.
func replace(t *testing.T, path, other string) {
	t.Helper()
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, read(t, other), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		t.Fatal(err)
	}
}

func TestReload(t *testing.T) {
	ca, caPEM := authority(t, "old")
	next, nextPEM := authority(t, "new")
	sp, cp := issue(t, ca, caPEM, RoleTarget), issue(t, ca, caPEM, RoleNode)
	server, client := serverTLS(t, sp), clientTLS(t, cp)
	newServer, newClient := issue(t, next, nextPEM, RoleTarget), issue(t, next, nextPEM, RoleNode)
	ok := func(when string, client *tls.Config, want bool) {
		t.Helper()
		s, c := shake(t, server, client)
		if (s == nil && c == nil) != want {
			t.Errorf("%s: server %v, client %v", when, s, c)
		}
	}
	ok("before", client, true)
	replace(t, sp.cert, newServer.cert)
	ok("half replaced: the old one serves on", client, true)
	replace(t, sp.key, newServer.key)
	replace(t, sp.ca, newServer.ca)
	ok("old client, new server", client, false)
	ok("new client, new server", clientTLS(t, newClient), true)

	// A client's own certificate is read again.
	used := issue(t, next, nextPEM, RoleNode)
	cfg := clientTLS(t, used)
	replace(t, used.cert, newClient.cert)
	replace(t, used.key, newClient.key)
	got, err := cfg.GetClientCertificate(nil)
	if want, _ := tls.LoadX509KeyPair(newClient.cert, newClient.key); err != nil || !got.Leaf.Equal(want.Leaf) {
		t.Errorf("client's certificate was not read again: %v", err)
	}
}

func TestExpiredIsNotKept(t *testing.T) {
	ca, caPEM := authority(t, "ca")
	p := issue(t, ca, caPEM, RoleTarget)
	r, err := newReloader(files(p), RoleTarget)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(p.key); err != nil {
		t.Fatal(err)
	}
	if _, err := r.get(); err != nil {
		t.Errorf("the last good one should serve on: %v", err)
	}
	r.current.pair.Leaf.NotAfter = time.Now().Add(-time.Second)
	_, err = r.get()
	wantErr(t, err, volume.ErrPrecondition, p.key)
}
