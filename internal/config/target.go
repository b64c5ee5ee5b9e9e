package config

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Target is the configuration of a storage host's agent.
type Target struct {
	// Host is the storage host's name. It is in every volume ID and NQN and
	// must never change.
	Host string `json:"host"`
	// Listen is the agent's own HOST:PORT, for controllers and nodes.
	Listen string `json:"listen"`
	// StateDir holds the agent's records.
	StateDir string `json:"stateDir"`
	TLS      TLS    `json:"tls"`
	Pools    []Pool `json:"pools"`
}

// Pool is a directory of volumes and where it is exported.
type Pool struct {
	Name string `json:"name"`
	Path string `json:"path"`
	// Address is the IP that nodes connect to.
	Address string `json:"address"`
	// Port is the TCP port, one for each pool of a host; 4420 by default.
	Port int `json:"port,omitempty"`
	// ReserveBytes is never handed out; 0 means a twentieth of the file system,
	// between 1 GiB and a fifth of it.
	ReserveBytes int64 `json:"reserveBytes,omitempty"`
}

// Defaults of the agent.
const (
	DefaultListen      = "0.0.0.0:9700"
	DefaultTargetState = "/var/lib/holdfast/target"
	DefaultNVMePort    = 4420
	maxPoolName        = 32
)

// LoadTarget reads and checks the file at path.
func LoadTarget(path string) (Target, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Target{}, fmt.Errorf("target configuration: %w (make one with: holdfast target init)", err)
	}
	t, err := ParseTarget(b)
	if err != nil {
		return Target{}, fmt.Errorf("target configuration %s: %w", path, err)
	}
	return t, nil
}

// ParseTarget reads the YAML text strictly and fills in the defaults.
func ParseTarget(b []byte) (Target, error) {
	var t Target
	if err := yaml.UnmarshalStrict(b, &t); err != nil {
		return Target{}, fmt.Errorf("%w: %w", volume.ErrInvalid, err)
	}
	if err := t.Complete(); err != nil {
		return Target{}, err
	}
	for _, f := range []struct{ key, path string }{{"ca", t.TLS.CA}, {"cert", t.TLS.Cert}, {"key", t.TLS.Key}} {
		if !filepath.IsAbs(f.path) {
			return Target{}, fmt.Errorf("tls.%s: value %q: want the absolute path of a PEM file: %w", f.key, f.path, volume.ErrInvalid)
		}
	}
	return t, nil
}

// Complete fills in defaults and checks every field.
func (t *Target) Complete() error {
	if t.Listen == "" {
		t.Listen = DefaultListen
	}
	if t.StateDir == "" {
		t.StateDir = DefaultTargetState
	}
	if err := volume.ValidateName("host", t.Host, volume.MaxHostName); err != nil {
		return err
	}
	if _, port, err := net.SplitHostPort(t.Listen); err != nil || !isPort(port) {
		return fmt.Errorf("listen: value %q: want ADDRESS:PORT: %w", t.Listen, volume.ErrInvalid)
	}
	if !cleanAbs(t.StateDir) {
		return fmt.Errorf("stateDir: value %q: want a clean absolute path: %w", t.StateDir, volume.ErrInvalid)
	}
	if len(t.Pools) == 0 {
		return fmt.Errorf("pools: want at least one: %w", volume.ErrInvalid)
	}
	names, ports, paths := map[string]bool{}, map[int]bool{}, map[string]bool{}
	for i := range t.Pools {
		p := &t.Pools[i]
		if err := p.complete(); err != nil {
			return fmt.Errorf("pools[%d]: %w", i, err)
		}
		if names[p.Name] || ports[p.Port] || paths[p.Path] {
			return fmt.Errorf("pools[%d]: name %q, port %d and path %q must each be used by one pool only: %w", i, p.Name, p.Port, p.Path, volume.ErrInvalid)
		}
		names[p.Name], ports[p.Port], paths[p.Path] = true, true, true
	}
	return nil
}

func (p *Pool) complete() error {
	if p.Port == 0 {
		p.Port = DefaultNVMePort
	}
	if err := volume.ValidateName("pool", p.Name, maxPoolName); err != nil {
		return err
	}
	if !cleanAbs(p.Path) {
		return fmt.Errorf("pool %s: path: value %q: want a clean absolute path: %w", p.Name, p.Path, volume.ErrInvalid)
	}
	a, err := netip.ParseAddr(p.Address)
	if err != nil || a.IsUnspecified() || a.IsMulticast() || a.Is4In6() || a.Zone() != "" {
		return fmt.Errorf("pool %s: address: value %q: want the numeric IP that nodes connect to: %w", p.Name, p.Address, volume.ErrInvalid)
	}
	if p.Port < 1 || p.Port > 65535 {
		return fmt.Errorf("pool %s: port: value %d: want 1 to 65535: %w", p.Name, p.Port, volume.ErrInvalid)
	}
	if p.ReserveBytes < 0 {
		return fmt.Errorf("pool %s: reserveBytes: value %d: must not be negative: %w", p.Name, p.ReserveBytes, volume.ErrInvalid)
	}
	return nil
}

func cleanAbs(path string) bool {
	return filepath.IsAbs(path) && filepath.Clean(path) == path && path != "/"
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// Portal is where the pool is exported.
func (p Pool) Portal() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(p.Address), uint16(p.Port))
}
