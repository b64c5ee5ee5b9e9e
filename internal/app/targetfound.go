package app

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/internal/pki"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// invitationSecret is the chart's target.invitationSecret by default, and
// invitationKey is the key in it.
const (
	invitationSecret = "holdfast-invitation"
	invitationKey    = "join.yaml"
)

func newTargetFoundCommand() *cobra.Command {
	var cluster string
	cmd := &cobra.Command{
		Use:   "found DIR",
		Short: "Make what an installation needs whose storage hosts are nodes of the cluster",
		Long: "Make a certificate authority and a cluster ID for an installation whose storage hosts\n" +
			"are nodes of the cluster (target.enabled of the chart), and write values and Secrets\n" +
			"for it to DIR, which must not exist. One of the Secrets has the authority's key in it.",
		Example: "  holdfast target found kubernetes\n" +
			"  kubectl create -f kubernetes/secrets.yaml",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := found(args[0], cluster); err != nil {
				return err
			}
			cmd.Printf("Written to %[1]s. Create what is in %[1]s/%[2]s (kubectl create, which replaces nothing), list the nodes as hosts in %[1]s/%[3]s, and install the chart with it.\n", args[0], secretsName, valuesName)
			return nil
		},
	}
	cmd.Flags().StringVar(&cluster, "cluster-id", "", "ID of the Kubernetes cluster, part of every node's identity; a random one by default")
	return cmd
}

// found writes to a directory that must not be there: what is overwritten here cuts
// every node off.
func found(dir, cluster string) error {
	if cluster == "" {
		cluster = randomClusterID()
	}
	if _, err := os.Lstat(dir); err == nil {
		return fmt.Errorf("%s exists: nothing is changed: %w", dir, volume.ErrPrecondition)
	}
	anyHost := listedHost{Name: "any", Address: "192.0.2.1:1"} // whoever checks wants one
	if err := (installed{ClusterID: cluster, Hosts: []listedHost{anyHost}}).check(); err != nil {
		return err
	}
	tls, err := os.MkdirTemp("", "holdfast-found-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tls) //nolint:errcheck // what is left is for root's eyes
	cert, key, err := authorityIn(tls, cluster, nil)
	if err != nil {
		return err
	}
	ca, err := pki.ParseAuthority(cert, key)
	if err != nil {
		return err
	}
	for _, role := range []pki.Role{pki.RoleController, pki.RoleNode} {
		if err := issue(ca, tls, role, string(role), nil); err != nil {
			return err
		}
	}
	join, err := yaml.Marshal(invitation{installed: installed{ClusterID: cluster}, CA: string(cert), CAKey: string(key)})
	if err != nil {
		return err
	}
	secrets, err := secretObjects(tls, secretObject(invitationSecret, map[string]string{invitationKey: string(join)}))
	if err != nil {
		return err
	}
	return writeObjects(filepath.Clean(dir), map[string]any{
		"clusterID": cluster, "hosts": []listedHost{}, "target": map[string]any{"enabled": true, "pools": []map[string]string{{"name": "fast", "path": "/srv/fast"}}},
	}, secrets)
}
