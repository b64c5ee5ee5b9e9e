package app

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/internal/config"
	"github.com/holdfast-csi/holdfast/internal/pki"
	"github.com/holdfast-csi/holdfast/internal/pool/file"
	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/internal/wholefile"
)

// certificateTime is how long certificates are valid. The CA's own is longer.
const certificateTime = 5 * 365 * 24 * time.Hour

type initOptions struct {
	dir, state, host, listen, address, cluster, join string
	pools                                            []string
	ifNeeded                                         bool
}

func newTargetInitCommand(t *targetOptions) *cobra.Command {
	var o initOptions
	cmd := &cobra.Command{
		Use:   "init --host NAME --address IP --pool NAME=DIR[,PORT] [--pool …]",
		Short: "Make configuration, certificates and pools of a new storage host",
		Long: "Make the configuration, a certificate authority, the certificates of the agent, the\n" +
			"controller and the nodes, and mark the pool directories. Nothing that exists is\n" +
			"overwritten. What Kubernetes needs is put into one directory, to be copied.\n\n" +
			"With --join the host belongs to an installation that exists: the authority and the\n" +
			"cluster ID are those that `holdfast target invite` printed on another storage host.",
		Example: "  holdfast target init --host box1 --address 10.0.0.2 --pool fast=/srv/fast\n" +
			"  holdfast target init --join join.yaml --host box2 --address 10.0.0.3 --pool fast=/srv/fast",
		Args: cobra.NoArgs,
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
	f.StringVar(&o.cluster, "cluster-id", "", "ID of the Kubernetes cluster, part of every node's identity; a random one by default")
	f.StringVar(&o.join, "join", "", "file that `holdfast target invite` printed on a storage host of the same cluster")
	f.BoolVar(&o.ifNeeded, "if-needed", false, "succeed if this host was set up before in the same way; pools that it does not have are added")
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
		if o.ifNeeded {
			return o.addPools(cmd, path, cfg)
		}
		return fmt.Errorf("%s exists: this storage host was set up before; nothing is changed: %w", path, volume.ErrPrecondition)
	}
	to, authority, err := o.installation(cfg)
	if err != nil {
		return err
	}
	text, err := yaml.Marshal(cfg)
	if err != nil {
		return err
	}
	if err := initPools(cfg); err != nil {
		return err
	}
	if err := makeCertificates(filepath.Join(o.dir, "tls"), o.host, o.address, authority); err != nil {
		return err
	}
	if err := writeKubernetes(o.dir, to); err != nil {
		return err
	}
	// The configuration goes last: with it the host counts as set up.
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return err
	}
	o.explain(cmd, cfg, path, to)
	return nil
}

// addPools adds pools that a storage host does not have yet to one that was set up
// before. Nothing else can change: volumes are where they are.
func (o initOptions) addPools(cmd *cobra.Command, path string, want config.Target) error {
	have, err := config.LoadTarget(path)
	if err != nil {
		return err
	}
	added, err := newPools(have, want)
	if err != nil {
		return fmt.Errorf("%s: this storage host was set up before, and is asked for differently: %w", path, err)
	}
	if len(added) == 0 {
		cmd.Printf("%s exists: this storage host was set up before\n", path)
		return nil
	}
	have.Pools = append(have.Pools, added...)
	text, err := yaml.Marshal(have)
	if err == nil {
		err = have.Complete() // a port or a path twice
	}
	if err == nil {
		err = initPools(config.Target{StateDir: have.StateDir, Pools: added})
	}
	if err != nil {
		return err
	}
	cmd.Printf("%s: %d pools more\n", path, len(added))
	return wholefile.Replace(path, text, 0o644, true)
}

// newPools are those of want that have does not have. It is a pure function.
func newPools(have, want config.Target) (added []config.Pool, err error) {
	if have.Host != want.Host || have.Listen != want.Listen {
		return nil, fmt.Errorf("host %q at %s, not %q at %s: %w", have.Host, have.Listen, want.Host, want.Listen, volume.ErrPrecondition)
	}
	for _, p := range want.Pools {
		at := slices.IndexFunc(have.Pools, func(h config.Pool) bool { return h.Name == p.Name })
		if at < 0 {
			added = append(added, p)
			continue
		}
		if h := have.Pools[at]; h.Path != p.Path || h.Address != p.Address || h.Port != p.Port {
			return nil, fmt.Errorf("pool %s: %s at %s:%d, not %s at %s:%d (change the file by hand, and move the volumes): %w", p.Name, h.Path, h.Address, h.Port, p.Path, p.Address, p.Port, volume.ErrPrecondition)
		}
	}
	for _, h := range have.Pools {
		if !slices.ContainsFunc(want.Pools, func(p config.Pool) bool { return p.Name == h.Name }) {
			return nil, fmt.Errorf("pool %s is not asked for any more, and may hold volumes: %w", h.Name, volume.ErrPrecondition)
		}
	}
	return added, nil
}

func initPools(cfg config.Target) error {
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
	return nil
}

// installation is the one that this host will belong to, and the authority of an
// invitation if there is one.
func (o initOptions) installation(cfg config.Target) (installed, *invitation, error) {
	_, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return installed{}, nil, err
	}
	own := listedHost{Name: cfg.Host, Address: net.JoinHostPort(netip.MustParseAddr(o.address).String(), port)}
	i := &invitation{}
	switch {
	case o.join != "" && o.cluster != "":
		return installed{}, nil, fmt.Errorf("cluster-id: value %q: it comes with --join: %w", o.cluster, volume.ErrInvalid)
	case o.join != "":
		if *i, err = readInvitation(o.join); err != nil {
			return installed{}, nil, err
		}
	default:
		i.ClusterID = o.cluster
	}
	if i.ClusterID, err = o.keptID(i.ClusterID); err != nil {
		return installed{}, nil, err
	}
	to, err := i.with(own)
	if o.join == "" {
		i = nil
	}
	return to, i, err
}

// keptID is the cluster's ID, which never changes: that of an init that was not
// finished, the one that is wanted, or a new one.
func (o initOptions) keptID(wanted string) (string, error) {
	before, err := readInstalled(valuesFile(o.dir))
	switch {
	case errors.Is(err, os.ErrNotExist) && wanted == "":
		return randomClusterID(), nil
	case errors.Is(err, os.ErrNotExist):
		return wanted, nil
	case err != nil:
		return "", err
	case wanted != "" && wanted != before.ClusterID:
		return "", fmt.Errorf("%s has the cluster ID %q from an earlier init, not %q; it never changes (remove the file if no volume was ever used): %w", valuesFile(o.dir), before.ClusterID, wanted, volume.ErrPrecondition)
	}
	return before.ClusterID, nil
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
func makeCertificates(dir, host, address string, from *invitation) error {
	caCert, caKey, err := authorityIn(dir, host, from)
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

func authorityIn(dir, host string, from *invitation) (cert, key []byte, err error) {
	cert, err1 := os.ReadFile(filepath.Join(dir, "ca.crt"))
	key, err2 := os.ReadFile(filepath.Join(dir, "ca.key"))
	switch {
	case err1 == nil && err2 == nil && from != nil && string(cert) != from.CA:
		return nil, nil, fmt.Errorf("join: %s has another authority already: %w", dir, volume.ErrPrecondition)
	case err1 == nil && err2 == nil:
		return cert, key, nil
	case from != nil:
		cert, key = []byte(from.CA), []byte(from.CAKey)
	default:
		if cert, key, err = pki.NewAuthority("holdfast " + host); err != nil {
			return nil, nil, err
		}
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

func (o initOptions) explain(cmd *cobra.Command, cfg config.Target, path string, to installed) {
	tls, agent := filepath.Dir(cfg.TLS.CA), to.Hosts[len(to.Hosts)-1].Address
	cmd.Printf(`Storage host %[1]s is set up: %[2]s

Start the agent here:

    systemctl enable --now holdfast-target     (from a package; else: holdfast target --config %[2]s)

`, cfg.Host, path)
	if o.join == "" {
		cmd.Printf(`For Kubernetes, copy %[1]s to where you run kubectl, and there:

    kubectl apply -f kubernetes/secrets.yaml
    helm install holdfast CHART -n %[2]s -f kubernetes/values.yaml

`, kubernetesDir(o.dir), kubernetesNamespace)
	} else {
		cmd.Printf(`Tell Kubernetes of this host, with %[1]s, which has to name all storage hosts
(it names %[3]d):

    helm upgrade holdfast CHART -n %[2]s --reset-then-reuse-values -f values.yaml

`, valuesFile(o.dir), kubernetesNamespace, len(to.Hosts))
	}
	cmd.Printf(`Keep here, secret: %[1]s/ca.key

Without Kubernetes: a controller needs ca.crt, controller.crt and controller.key of %[1]s, a node ca.crt, node.crt and
node.key, and both a file /etc/holdfast/hosts.yaml:

clusterID: %[2]s
tls:
  ca: /etc/holdfast/tls/ca.crt
  cert: /etc/holdfast/tls/controller.crt
  key: /etc/holdfast/tls/controller.key
hosts:
- name: %[3]s
  address: %[4]s
`, tls, to.ClusterID, cfg.Host, agent)
}
