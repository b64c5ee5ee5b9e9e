package agent_test

import (
	"crypto/tls"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/agent"
	"github.com/holdfast-csi/holdfast/internal/agent/agenttest"
	"github.com/holdfast-csi/holdfast/internal/agentclient"
	"github.com/holdfast-csi/holdfast/internal/pki"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// authority is a certificate authority in a directory.
type authority struct {
	dir string
	ca  *pki.Authority
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	cert, key, err := pki.NewAuthority("test")
	must(t, err)
	ca, err := pki.ParseAuthority(cert, key)
	must(t, err)
	a := authority{t.TempDir(), ca}
	must(t, pki.WriteBundle(a.dir, "ca", cert, key))
	return a
}

// files issues a certificate and names its files.
func (a authority) files(t *testing.T, role pki.Role, validity time.Duration) (ca, cert, key string) {
	t.Helper()
	name := uuid.NewString()
	c, k, err := pki.Issue(a.ca, role, []string{name}, nil, validity)
	must(t, err)
	must(t, pki.WriteBundle(a.dir, name, c, k))
	return filepath.Join(a.dir, "ca.crt"), filepath.Join(a.dir, name+".crt"), filepath.Join(a.dir, name+".key")
}

// overTLS serves the agent as the product does and returns its address.
func overTLS(t *testing.T, s *agent.Service, ca authority) string {
	t.Helper()
	cfg, err := pki.ServerTLS(ca.files(t, pki.RoleTarget, time.Hour))
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	server := agent.NewServer(s, cfg, slog.New(slog.DiscardHandler))
	go func() { _ = server.Serve(l) }() // ends with Stop
	t.Cleanup(server.Stop)
	return l.Addr().String()
}

func dial(t *testing.T, address string, cfg *tls.Config) *agentclient.Client {
	t.Helper()
	c, err := agentclient.Dial("box1", address, cfg)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// A controller may do everything, a node ask about its publications only, and
// nobody else anything.
func TestRoles(t *testing.T) {
	ca := newAuthority(t)
	e := agenttest.New(t, "fast")
	address := overTLS(t, e.StartServing(t).Service, ca)
	as := func(role pki.Role) *agentclient.Client {
		cfg, err := pki.ClientTLS(ca.files(t, role, time.Hour))
		must(t, err)
		return dial(t, address, cfg)
	}
	controller, node := as(pki.RoleController), as(pki.RoleNode)
	v, err := controller.Create(t.Context(), volume.CreateRequest{Name: "v", RequiredBytes: 1 << 20})
	must(t, err)
	p, err := controller.Publish(t.Context(), agenttest.Request(v.UUID, 1))
	must(t, err)
	for what, err := range map[string]error{
		"info":         second(node.Info(t.Context())),
		"create":       second(node.Create(t.Context(), volume.CreateRequest{Name: "w", RequiredBytes: 1 << 20})),
		"get":          second(node.Get(t.Context(), v.UUID)),
		"find":         second(node.FindByName(t.Context(), "v")),
		"list":         second(node.List(t.Context(), uuid.Nil, 0)),
		"delete":       node.Delete(t.Context(), v.UUID),
		"publish":      second(node.Publish(t.Context(), agenttest.Request(v.UUID, 1))),
		"unpublish":    node.Unpublish(t.Context(), v.UUID, ""),
		"publications": second(node.Publications(t.Context())),
		"retire":       node.Retire(t.Context(), time.Now()),
		"admit":        node.Admit(t.Context(), time.Now()),
	} {
		t.Run(what, func(t *testing.T) { agenttest.WantErr(t, err, volume.ErrDenied, "node") })
	}
	for _, c := range []*agentclient.Client{node, controller} {
		if st, err := c.Status(t.Context(), agenttest.Ref(p)); err != nil || !st.Blank {
			t.Errorf("status: %+v %v", st, err)
		}
	}
	ref := agenttest.Ref(p)
	ref.Token = "x"
	_, err = node.Status(t.Context(), ref)
	agenttest.WantErr(t, err, volume.ErrDenied)
}

func TestStrangers(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	e := agenttest.New(t, "fast")
	address := overTLS(t, e.StartServing(t).Service, ca)
	caFile, cert, key := ca.files(t, pki.RoleController, time.Hour)
	good, err := pki.ClientTLS(caFile, cert, key)
	must(t, err)
	for what, change := range map[string]func(*tls.Config){
		"no certificate":  func(c *tls.Config) { c.GetClientCertificate = nil },
		"TLS 1.2":         func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 },
		"another server":  func(c *tls.Config) { c.ServerName = "example.com" },
		"server's cert":   present(t, ca, pki.RoleTarget, time.Hour),
		"other authority": present(t, other, pki.RoleController, time.Hour),
		"expired":         present(t, ca, pki.RoleController, time.Nanosecond),
	} {
		t.Run(what, func(t *testing.T) {
			cfg := good.Clone()
			change(cfg)
			_, err := dial(t, address, cfg).Info(t.Context())
			agenttest.WantErr(t, err, volume.ErrUnavailable)
		})
	}
	// And a client does not talk to a server that is none.
	wrong, err := pki.ClientTLS(other.files(t, pki.RoleController, time.Hour))
	must(t, err)
	_, err = dial(t, address, wrong).Info(t.Context())
	agenttest.WantErr(t, err, volume.ErrUnavailable, "certificate")
}

// present makes a client show a certificate that ClientTLS would refuse to load.
func present(t *testing.T, ca authority, role pki.Role, validity time.Duration) func(*tls.Config) {
	t.Helper()
	_, cert, key := ca.files(t, role, validity)
	pair, err := tls.LoadX509KeyPair(cert, key)
	must(t, err)
	return func(c *tls.Config) {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
}
