package app

import (
	"cmp"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-csi/holdfast/internal/agentclient"
	"github.com/holdfast-csi/holdfast/internal/backend"
	"github.com/holdfast-csi/holdfast/internal/config"
	"github.com/holdfast-csi/holdfast/internal/pki"
	"github.com/holdfast-csi/holdfast/internal/retirement"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

const (
	defaultHostsFile = "/etc/holdfast/hosts.yaml"
	// hostsVariable names another default, so that what is run by hand where the
	// controller runs finds the controller's file.
	hostsVariable = "HOLDFAST_HOSTS"
)

func addHostsFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "hosts", cmp.Or(os.Getenv(hostsVariable), defaultHostsFile), "file that names the storage hosts (default also by "+hostsVariable+")")
}

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

// backends are the storage hosts, less those that were declared gone; nil is none.
func backends(clients map[string]*agentclient.Client, gone *retirement.Keeper) *backend.Hosts {
	m := map[string]volume.Backend{}
	for name, c := range clients {
		m[name] = c
		if gone != nil {
			m[name] = retirement.Wrap(name, c, func() (time.Time, bool) { return gone.Declared(name) })
		}
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
