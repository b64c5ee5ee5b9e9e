package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-csi/holdfast/internal/agentclient"
	"github.com/holdfast-csi/holdfast/internal/config"
	"github.com/holdfast-csi/holdfast/internal/kube"
	"github.com/holdfast-csi/holdfast/internal/retirement"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

const (
	defaultDeclarations  = "holdfast-retired-hosts"
	declarationsVariable = "HOLDFAST_RETIRED_HOSTS"
)

func addDeclarationsFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "retired-hosts", cmp.Or(os.Getenv(declarationsVariable), defaultDeclarations),
		"ConfigMap in the controller's namespace that says which storage hosts were declared gone for good (default also by "+declarationsVariable+")")
}

// keepDeclarations knows which hosts were declared gone until ctx ends; nil outside of
// a cluster, where nobody can have declared it.
func keepDeclarations(ctx context.Context, clients map[string]*agentclient.Client, configMap string, log *slog.Logger) (*retirement.Keeper, error) {
	client, err := kube.InCluster()
	if errors.Is(err, kube.ErrNotInCluster) {
		return nil, nil //nolint:nilnil // a controller without a cluster has no declarations
	}
	if err != nil {
		return nil, err
	}
	hosts := map[string]volume.Retiree{}
	for name, c := range clients {
		hosts[name] = c
	}
	k := retirement.New(retirement.Options{
		Hosts: hosts, Log: log.With("component", "retirement"),
		Read: func(ctx context.Context) (map[string]string, error) { return client.ConfigMap(ctx, configMap) },
	})
	k.Refresh(ctx)
	go k.Run(ctx)
	return k, nil
}

// registrarOptions say where the declarations and the hosts are.
type registrarOptions struct{ hosts, declarations string }

func (o *registrarOptions) addFlags(cmd *cobra.Command) {
	addHostsFlag(cmd, &o.hosts)
	addDeclarationsFlag(cmd, &o.declarations)
}

func (o *registrarOptions) registrar(cmd *cobra.Command, name string) (registrar, error) {
	cluster, err := config.Load(o.hosts)
	if err != nil {
		return registrar{}, err
	}
	at := slices.IndexFunc(cluster.Hosts, func(h config.Host) bool { return h.Name == name })
	if at < 0 {
		var names []string
		for _, h := range cluster.Hosts {
			names = append(names, h.Name)
		}
		return registrar{}, fmt.Errorf("storage host %q is not in %s (it has %v): %w", name, o.hosts, names, volume.ErrNotFound)
	}
	cluster.Hosts = cluster.Hosts[at : at+1]
	client, err := kube.InCluster()
	if err != nil {
		return registrar{}, fmt.Errorf("run this where the controller runs, as in: kubectl -n NAMESPACE exec -it deploy/holdfast-controller -- holdfast …: %w", err)
	}
	agents, err := dialHosts(cluster)
	if err != nil {
		return registrar{}, err
	}
	return registrar{
		host: name, address: cluster.Hosts[0].Address, agent: agents[name], cluster: client, configMap: o.declarations, reach: reach, out: cmd.OutOrStdout(),
	}, nil
}

// silentTime is how long a host has to be silent before it can be declared gone: by
// then every node knows of the outage.
const silentTime = time.Minute

func newRetireCommand() *cobra.Command {
	var o registrarOptions
	var yes bool
	var while time.Duration
	cmd := &cobra.Command{
		Use:   "retire HOST",
		Short: "Declare a storage host gone for good, so that Kubernetes can let go of its volumes",
		Long: `Declare a storage host gone for good. It runs where the controller runs:

  kubectl -n holdfast exec -it deploy/holdfast-controller -- holdfast retire HOST

Nodes that wait for one of its volumes give it up, and its pods get I/O errors instead
of waiting; detaching and deleting its volumes succeeds without it; no new volume is
asked of it. It is refused while anything answers at the host's address.

Nothing is deleted on the host. Should it come back, it withdraws its exports as soon
as the controller has told it, and exports nothing until ` + "`holdfast admit HOST`" + `.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := o.registrar(cmd, args[0])
			if err != nil {
				return err
			}
			h, err := r.holding(cmd.Context())
			if err != nil {
				return err
			}
			if err := r.silent(cmd.Context(), h, while); err != nil {
				return err
			}
			r.show(h)
			if !yes && !confirm(cmd, "Declare "+r.host+" gone for good?") {
				return fmt.Errorf("nothing was changed: %w", context.Canceled)
			}
			// It may have come back while it was thought over.
			if h, err = r.holding(cmd.Context()); err == nil {
				err = r.silent(cmd.Context(), h, 0)
			}
			if err != nil {
				return err
			}
			return r.retire(cmd.Context(), h)
		},
	}
	o.addFlags(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().DurationVar(&while, "silent-for", silentTime, "how long the host has to be silent; a volume is given up on nodes that have waited for it for half a minute")
	return cmd
}

func newAdmitCommand() *cobra.Command {
	var o registrarOptions
	cmd := &cobra.Command{
		Use:   "admit HOST",
		Short: "Take a storage host that was declared gone for good into service again",
		Long: `Take a storage host that was declared gone for good (holdfast retire) into service
again. It has to be there. Its volumes are as it has them on disk; publications of
before do not come back: a pod that still has one of them has to be deleted, and its
successor gets it as usual.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := o.registrar(cmd, args[0])
			if err != nil {
				return err
			}
			return r.admit(cmd.Context())
		},
	}
	o.addFlags(cmd)
	return cmd
}
