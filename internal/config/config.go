// Package config reads the file that tells controllers and nodes which storage
// hosts there are. It opens no connection and reads no certificate.
package config

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Cluster is the content of the hosts file.
type Cluster struct {
	// ClusterID keeps the host identities of two clusters apart that share a
	// storage host. Any text; it must never change while volumes are attached.
	ClusterID string `json:"clusterID"`
	// TLS is used for every host that has none of its own.
	TLS   TLS    `json:"tls"`
	Hosts []Host `json:"hosts"`
}

// Host is one storage host.
type Host struct {
	// Name is in every volume ID and must never change.
	Name string `json:"name"`
	// Address is the agent's HOST:PORT, a name or an IP.
	Address string `json:"address"`
	TLS     *TLS   `json:"tls,omitempty"`
	// Topology is labels that a node must have for the host to be reachable from it;
	// none is from everywhere.
	Topology map[string]string `json:"topology,omitempty"`
}

// TLS names PEM files.
type TLS struct {
	CA   string `json:"ca"`
	Cert string `json:"cert"`
	Key  string `json:"key"`
}

// maxClusterID bounds the only free text in the file, in bytes.
const maxClusterID = 253

// Load reads and checks the file at path.
func Load(path string) (Cluster, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Cluster{}, fmt.Errorf("hosts file: %w", err)
	}
	c, err := Parse(b)
	if err != nil {
		return Cluster{}, fmt.Errorf("hosts file %s: %w", path, err)
	}
	return c, nil
}

// Parse reads the YAML text. Keys that are not known are refused, because a
// misspelt key is a setting that silently does nothing.
func Parse(b []byte) (Cluster, error) {
	var c Cluster
	if err := yaml.UnmarshalStrict(b, &c); err != nil {
		return Cluster{}, fmt.Errorf("%w: %w", volume.ErrInvalid, err)
	}
	if c.ClusterID == "" || len(c.ClusterID) > maxClusterID {
		return Cluster{}, fmt.Errorf("clusterID %q: want 1 to %d bytes: %w", c.ClusterID, maxClusterID, volume.ErrInvalid)
	}
	if len(c.Hosts) == 0 {
		return Cluster{}, fmt.Errorf("hosts: want at least one storage host: %w", volume.ErrInvalid)
	}
	seen := map[string]bool{}
	for i := range c.Hosts {
		h := &c.Hosts[i]
		if err := c.check(h, seen); err != nil {
			return Cluster{}, fmt.Errorf("hosts[%d]: %w", i, err)
		}
	}
	return c, nil
}

func (c Cluster) check(h *Host, seen map[string]bool) error {
	if err := volume.ValidateName("storage host", h.Name, volume.MaxHostName); err != nil {
		return err
	}
	if seen[h.Name] {
		return fmt.Errorf("name %q is used twice: %w", h.Name, volume.ErrInvalid)
	}
	seen[h.Name] = true
	host, port, err := net.SplitHostPort(h.Address)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || host == "" || perr != nil || n == 0 {
		return fmt.Errorf("host %s: address %q: want HOST:PORT with a port from 1 to 65535: %w", h.Name, h.Address, volume.ErrInvalid)
	}
	if err := checkTopology(h.Topology); err != nil {
		return fmt.Errorf("host %s: %w", h.Name, err)
	}
	if h.TLS == nil {
		t := c.TLS
		h.TLS = &t
	}
	for key, v := range map[string]string{"ca": h.TLS.CA, "cert": h.TLS.Cert, "key": h.TLS.Key} {
		if v == "" {
			return fmt.Errorf("host %s: tls.%s is empty: want the path of a PEM file, here or at the top: %w", h.Name, key, volume.ErrInvalid)
		}
	}
	return nil
}

// checkTopology: keys and values become labels of nodes.
func checkTopology(t map[string]string) error {
	for k, v := range t {
		if wrong := validation.IsQualifiedName(k); len(wrong) > 0 {
			return fmt.Errorf("topology: key %q: %s: %w", k, strings.Join(wrong, "; "), volume.ErrInvalid)
		}
		if wrong := validation.IsValidLabelValue(v); len(wrong) > 0 || v == "" {
			return fmt.Errorf("topology: key %q: value %q: want the value of a label, not empty: %s: %w", k, v, strings.Join(wrong, "; "), volume.ErrInvalid)
		}
	}
	return nil
}
