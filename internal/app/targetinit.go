package app

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/internal/config"
	"github.com/holdfast-csi/holdfast/internal/pki"
	"github.com/holdfast-csi/holdfast/internal/pool/file"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// certificateTime is how long certificates are valid. The CA's own is longer.
const certificateTime = 5 * 365 * 24 * time.Hour

type initOptions struct {
	dir, state, host, listen, address, cluster string
	pools                                      []string
}

func newTargetInitCommand(t *targetOptions) *cobra.Command {
	var o initOptions
	cmd := &cobra.Command{
		Use:   "init --host NAME --address IP --pool NAME=DIR[,PORT] [--pool …]",
		Short: "Make configuration, certificates and pools of a new storage host",
		Long: "Make the configuration, a certificate authority, the certificates of the agent, the\n" +
			"controller and the nodes, and mark the pool directories. Nothing that exists is\n" +
			"overwritten. It prints what the controller and the nodes need.",
		Example: "  holdfast target init --host box1 --address 10.0.0.2 --pool fast=/srv/fast",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("config") {
				o.dir = filepath.Dir(t.config)
			}
			return initTarget(cmd, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", filepath.Dir(defaultTargetConfig), "directory for the configuration and certificates")
	f.StringVar(&o.state, "state-dir", config.DefaultTargetState, "directory for the agent's records")
	f.StringVar(&o.host, "host", "", "name of this storage host; it is part of every volume ID and can never change")
	f.StringVar(&o.address, "address", "", "IP address that nodes connect to")
	f.StringVar(&o.listen, "listen", config.DefaultListen, "address of the agent itself")
	f.StringVar(&o.cluster, "cluster-id", "", "ID of the Kubernetes cluster for the printed hosts file; a random one by default")
	f.StringArrayVar(&o.pools, "pool", nil, "pool as NAME=DIR[,PORT]; the first has port 4420 by default, the next 4421 and so on")
	return cmd
}

func initTarget(cmd *cobra.Command, o initOptions) error {
	cfg, err := o.target()
	if err != nil {
		return err
	}
	path := filepath.Join(o.dir, "target.yaml")
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s exists: this storage host was set up before; nothing is changed: %w", path, volume.ErrPrecondition)
	}
	text, err := yaml.Marshal(cfg)
	if err != nil {
		return err
	}
	db, err := openStore(cfg)
	if err != nil {
		return err
	}
	installation := db.Installation().ID
	if err := db.Close(); err != nil {
		return err
	}
	for _, p := range cfg.Pools {
		if err := file.Init(fileOptions(p, installation)); err != nil {
			return fmt.Errorf("pool %s: %w", p.Name, err)
		}
	}
	if err := makeCertificates(filepath.Join(o.dir, "tls"), o.host, o.address); err != nil {
		return err
	}
	// The configuration goes last: with it the host counts as set up.
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return err
	}
	return o.explain(cmd, cfg, path)
}

func (o initOptions) target() (config.Target, error) {
	tls := filepath.Join(o.dir, "tls")
	cfg := config.Target{
		Host: o.host, Listen: o.listen, StateDir: o.state,
		TLS: config.TLS{CA: filepath.Join(tls, "ca.crt"), Cert: filepath.Join(tls, "target.crt"), Key: filepath.Join(tls, "target.key")},
	}
	if !filepath.IsAbs(o.dir) {
		return cfg, fmt.Errorf("dir: value %q: want an absolute path: %w", o.dir, volume.ErrInvalid)
	}
	for i, text := range o.pools {
		name, rest, ok := strings.Cut(text, "=")
		dir, port, hasPort := strings.Cut(rest, ",")
		p := config.Pool{Name: name, Path: dir, Address: o.address, Port: config.DefaultNVMePort + i}
		if hasPort {
			n, err := strconv.Atoi(port)
			if err != nil {
				return cfg, fmt.Errorf("pool: value %q: port %q is not a number: %w", text, port, volume.ErrInvalid)
			}
			p.Port = n
		}
		if !ok {
			return cfg, fmt.Errorf("pool: value %q: want NAME=DIR[,PORT]: %w", text, volume.ErrInvalid)
		}
		cfg.Pools = append(cfg.Pools, p)
	}
	return cfg, cfg.Complete()
}

// makeCertificates makes the authority and one certificate for each role.
// Certificates that are there stay: init can be run again after a failure.
func makeCertificates(dir, host, address string) error {
	caCert, caKey, err := authorityIn(dir, host)
	if err != nil {
		return err
	}
	ca, err := pki.ParseAuthority(caCert, caKey)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		role pki.Role
		ips  []net.IP
	}{{pki.RoleTarget, []net.IP{net.ParseIP(address)}}, {pki.RoleController, nil}, {pki.RoleNode, nil}} {
		if err := issue(ca, dir, c.role, string(c.role), c.ips); err != nil && !errors.Is(err, volume.ErrExists) {
			return err
		}
	}
	return nil
}

func authorityIn(dir, host string) (cert, key []byte, err error) {
	cert, err1 := os.ReadFile(filepath.Join(dir, "ca.crt"))
	key, err2 := os.ReadFile(filepath.Join(dir, "ca.key"))
	if err1 == nil && err2 == nil {
		return cert, key, nil
	}
	if cert, key, err = pki.NewAuthority("holdfast " + host); err != nil {
		return nil, nil, err
	}
	return cert, key, pki.WriteBundle(dir, "ca", cert, key)
}

func issue(ca *pki.Authority, dir string, role pki.Role, name string, ips []net.IP) error {
	cert, key, err := pki.Issue(ca, role, []string{name}, ips, certificateTime)
	if err != nil {
		return err
	}
	return pki.WriteBundle(dir, name, cert, key)
}

func (o initOptions) explain(cmd *cobra.Command, cfg config.Target, path string) error {
	id := o.cluster
	if id == "" {
		id = randomClusterID()
	}
	_, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return err
	}
	tls := filepath.Dir(cfg.TLS.CA)
	agent := net.JoinHostPort(netip.MustParseAddr(o.address).String(), port)
	cmd.Printf(`Storage host %[1]s is set up: %[2]s

Start the agent here:

    holdfast target --config %[2]s

Copy to the controller:  %[3]s/ca.crt  %[3]s/controller.crt  %[3]s/controller.key
Copy to every node:      %[3]s/ca.crt  %[3]s/node.crt  %[3]s/node.key
Keep here, secret:       %[3]s/ca.key

/etc/holdfast/hosts.yaml of the controller (of a node: with node.crt and node.key):

clusterID: %[4]s
tls:
  ca: /etc/holdfast/tls/ca.crt
  cert: /etc/holdfast/tls/controller.crt
  key: /etc/holdfast/tls/controller.key
hosts:
- name: %[1]s
  address: %[5]s
`, cfg.Host, path, tls, id, agent)
	return nil
}
