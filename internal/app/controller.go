package app

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"github.com/holdfast-csi/holdfast/internal/config"
	"github.com/holdfast-csi/holdfast/internal/metrics"
	"github.com/holdfast-csi/holdfast/pkg/driver"
)

type controllerOptions struct {
	logOptions
	endpoint, hosts, metrics, declarations string
}

func newControllerCommand() *cobra.Command {
	var o controllerOptions
	cmd := &cobra.Command{
		Use:   "controller",
		Short: "Serve the CSI controller: provision and publish volumes of the storage hosts",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return runController(cmd.Context(), o) },
	}
	o.addFlags(cmd)
	cmd.Flags().StringVar(&o.endpoint, "csi-endpoint", "unix:///csi/csi.sock", "socket on which CSI is served")
	addHostsFlag(cmd, &o.hosts)
	addDeclarationsFlag(cmd, &o.declarations)
	addMetricsFlag(cmd, &o.metrics)
	return cmd
}

func runController(ctx context.Context, o controllerOptions) error {
	log := o.logger("controller")
	cluster, err := config.Load(o.hosts)
	if err != nil {
		return err
	}
	clients, err := dialHosts(cluster)
	if err != nil {
		return err
	}
	l, err := listenUnix(ctx, o.endpoint)
	if err != nil {
		return err
	}
	calls, counted := metrics.NewCalls()
	shown := []prometheus.Collector{counted, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})}
	if err := (monitor{o.metrics, o.endpoint, shown, log}).serve(ctx); err != nil {
		return err
	}
	gone, err := keepDeclarations(ctx, clients, o.declarations, log)
	if err != nil {
		return err
	}
	s, topology := newCSIServer(log, calls), topologyOf(cluster)
	csi.RegisterIdentityServer(s, &driver.Identity{Version: Version, Topology: len(topology.Keys()) > 0})
	csi.RegisterControllerServer(s, &driver.Controller{Hosts: backends(clients, gone), ClusterID: cluster.ClusterID, Topology: topology})
	log.Info("serving", "endpoint", o.endpoint, "hosts", len(clients), "version", Version)
	return serve(ctx, s, l)
}
