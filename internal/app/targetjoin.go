package app

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/internal/config"
	"github.com/holdfast-csi/holdfast/internal/pki"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// invitation is what one storage host of an installation gives to another that is to
// belong to it. It has the authority's key: who reads it can be any role.
type invitation struct {
	installed
	CA    string `json:"ca"`
	CAKey string `json:"caKey"`
}

// installed is what all storage hosts of an installation have in common, and what
// the Helm chart wants to be told.
type installed struct {
	ClusterID string       `json:"clusterID"`
	Hosts     []listedHost `json:"hosts"`
}

type listedHost struct {
	Name     string            `json:"name"`
	Address  string            `json:"address"`
	Topology map[string]string `json:"topology,omitempty"`
}

func newTargetInviteCommand() *cobra.Command {
	dir, values := filepath.Dir(defaultTargetConfig), ""
	cmd := &cobra.Command{
		Use:   "invite FILE",
		Short: "Write what another storage host needs to belong to the same cluster",
		Long: "Write FILE, which another storage host needs to belong to the same cluster, for\n" +
			"`holdfast target init --join`. It has the key of the certificate authority in it:\n" +
			"keep it secret, and delete it when the other host is set up.\n\n" +
			"This host knows of no storage host that joined later: with --values it names all\n" +
			"that the installation has.",
		Example: "  helm get values holdfast -n holdfast -o yaml > values.yaml     # where you run helm; copy it here\n" +
			"  holdfast target invite join.yaml --values values.yaml\n" +
			"  holdfast target init --join join.yaml --host box2 --address 10.0.0.3 --pool fast=/srv/fast     # on the other host",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			text, err := invite(dir, values)
			if err != nil {
				return err
			}
			return writeSecret(args[0], text)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", dir, "directory that `holdfast target init` wrote to")
	cmd.Flags().StringVar(&values, "values", "", "file with the values of the installed chart; by default those that this host was set up with")
	return cmd
}

// writeSecret makes a new file that its owner alone can read.
func writeSecret(path string, text []byte) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

func invite(dir, values string) ([]byte, error) {
	if values == "" {
		values = valuesFile(dir)
	}
	tls := filepath.Join(dir, "tls")
	cert, err1 := os.ReadFile(filepath.Join(tls, "ca.crt"))
	key, err2 := os.ReadFile(filepath.Join(tls, "ca.key"))
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("dir: value %q: this host was not set up by `holdfast target init`, or its authority's key was taken away: %w: %w", dir, volume.ErrPrecondition, err)
	}
	i := invitation{CA: string(cert), CAKey: string(key)}
	var err error
	if i.installed, err = readInstalled(values); err != nil {
		return nil, fmt.Errorf("which storage hosts there are: give --values with what `helm get values` prints: %w", err)
	}
	return yaml.Marshal(i)
}

// readInstalled reads what matters here of values of the chart.
func readInstalled(path string) (installed, error) {
	var of installed
	b, err := os.ReadFile(path)
	if err != nil {
		return of, err
	}
	if err := yaml.Unmarshal(b, &of); err != nil {
		return of, fmt.Errorf("%s: %w: %w", path, volume.ErrInvalid, err)
	}
	if err := of.check(); err != nil {
		return of, fmt.Errorf("%s: %w", path, err)
	}
	return of, nil
}

// readInvitation reads and checks one.
func readInvitation(path string) (invitation, error) {
	var i invitation
	info, err := os.Stat(path)
	if err != nil {
		return i, fmt.Errorf("join: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return i, fmt.Errorf("join: %s: others than its owner can read it (%s), and it has the authority's key in it: chmod 600: %w", path, info.Mode().Perm(), volume.ErrPrecondition)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return i, fmt.Errorf("join: %w", err)
	}
	if err := yaml.UnmarshalStrict(b, &i); err != nil {
		return i, fmt.Errorf("join: %s: %w: %w", path, volume.ErrInvalid, err)
	}
	if i.ClusterID == "" {
		return i, fmt.Errorf("join: %s: want what `holdfast target invite` printed on a storage host, or `holdfast target found`: %w", path, volume.ErrInvalid)
	}
	if _, err := pki.ParseAuthority([]byte(i.CA), []byte(i.CAKey)); err != nil {
		return i, fmt.Errorf("join: %s: %w", path, err)
	}
	return i, nil
}

// with adds a host to those that an invitation names; to none, if there was none.
func (i invitation) with(host listedHost) (installed, error) {
	if at := slices.IndexFunc(i.Hosts, func(h listedHost) bool { return h.Name == host.Name }); at >= 0 {
		if i.Hosts[at].Address == host.Address { // it was listed before it was set up
			return installed{ClusterID: i.ClusterID, Hosts: slices.Clone(i.Hosts)}, nil
		}
		return installed{}, fmt.Errorf("host: value %q: the installation has a storage host of that name at another address; a name is part of volume IDs and must be another: %w", host.Name, volume.ErrInvalid)
	}
	return installed{ClusterID: i.ClusterID, Hosts: append(slices.Clone(i.Hosts), host)}, nil
}

// What is for Kubernetes lies in a directory of its own, to be copied whole.
func kubernetesDir(dir string) string { return filepath.Join(dir, "kubernetes") }
func valuesFile(dir string) string    { return filepath.Join(kubernetesDir(dir), valuesName) }

const (
	valuesName  = "values.yaml"
	secretsName = "secrets.yaml"
)

// Names that the chart has by default.
const (
	kubernetesNamespace = "holdfast"
	secretOf            = "holdfast-%s-tls"
)

// writeKubernetes writes what an installation in Kubernetes needs: values for the
// chart, and the namespace and the Secrets to be applied before.
func writeKubernetes(dir string, of installed) error {
	if err := of.check(); err != nil {
		return err
	}
	secrets, err := secretObjects(filepath.Join(dir, "tls"))
	if err != nil {
		return err
	}
	return writeObjects(kubernetesDir(dir), of, secrets)
}

func writeObjects(dir string, values any, secrets []byte) error {
	text, err := yaml.Marshal(values)
	if err != nil {
		return err
	}
	return errors.Join(
		os.MkdirAll(dir, 0o700),
		os.WriteFile(filepath.Join(dir, valuesName), text, 0o600),
		os.WriteFile(filepath.Join(dir, secretsName), secrets, 0o600),
	)
}

// check finds what the controller would refuse.
func (i installed) check() error {
	c := config.Cluster{ClusterID: i.ClusterID, TLS: config.TLS{CA: "-", Cert: "-", Key: "-"}}
	for _, h := range i.Hosts {
		c.Hosts = append(c.Hosts, config.Host{Name: h.Name, Address: h.Address, Topology: h.Topology})
	}
	text, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	_, err = config.Parse(text)
	return err
}

// secretObjects are the namespace and the Secrets; more are added as they are.
func secretObjects(tls string, more ...any) ([]byte, error) {
	// The node plugin is privileged, which the namespace has to allow where Pod
	// Security is enforced.
	objects := []any{map[string]any{
		"apiVersion": "v1", "kind": "Namespace",
		"metadata": map[string]any{"name": kubernetesNamespace, "labels": map[string]string{"pod-security.kubernetes.io/enforce": "privileged"}},
	}}
	for _, role := range []pki.Role{pki.RoleController, pki.RoleNode} {
		data := map[string]string{}
		for key, file := range map[string]string{"ca.crt": "ca.crt", "tls.crt": string(role) + ".crt", "tls.key": string(role) + ".key"} {
			b, err := os.ReadFile(filepath.Join(tls, file))
			if err != nil {
				return nil, err
			}
			data[key] = string(b)
		}
		objects = append(objects, secretObject(fmt.Sprintf(secretOf, role), data))
	}
	var out []byte
	for _, o := range append(objects, more...) {
		text, err := yaml.Marshal(o)
		if err != nil {
			return nil, err
		}
		out = append(append(out, "---\n"...), text...)
	}
	return out, nil
}

func secretObject(name string, data map[string]string) map[string]any {
	return map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
		"metadata":   map[string]string{"name": name, "namespace": kubernetesNamespace},
		"stringData": data,
	}
}
