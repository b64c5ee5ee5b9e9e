package app

import (
	"fmt"

	"github.com/holdfast-csi/holdfast/internal/agentclient"
	"github.com/holdfast-csi/holdfast/internal/backend"
	"github.com/holdfast-csi/holdfast/internal/config"
	"github.com/holdfast-csi/holdfast/internal/pki"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

const defaultHostsFile = "/etc/holdfast/hosts.yaml"

// dialHosts makes a client for every storage host of the file. It connects to
// none yet: one that is away must not keep a plugin from starting.
func dialHosts(cluster config.Cluster) (map[string]*agentclient.Client, error) {
	out := map[string]*agentclient.Client{}
	for _, h := range cluster.Hosts {
		tls, err := pki.ClientTLS(h.TLS.CA, h.TLS.Cert, h.TLS.Key)
		if err != nil {
			return nil, fmt.Errorf("storage host %s: %w", h.Name, err)
		}
		c, err := agentclient.Dial(h.Name, h.Address, tls)
		if err != nil {
			return nil, err
		}
		out[h.Name] = c
	}
	return out, nil
}

func backends(clients map[string]*agentclient.Client) *backend.Hosts {
	m := map[string]volume.Backend{}
	for name, c := range clients {
		m[name] = c
	}
	return backend.New(m)
}

// authorities finds a host's agent for the node workflows.
func authorities(clients map[string]*agentclient.Client) func(string) (volume.FormatAuthority, error) {
	return func(host string) (volume.FormatAuthority, error) {
		c, ok := clients[host]
		if !ok {
			return nil, fmt.Errorf("storage host %q is not in the hosts file of this node: %w", host, volume.ErrUnavailable)
		}
		return agentclient.Patient(c), nil
	}
}
