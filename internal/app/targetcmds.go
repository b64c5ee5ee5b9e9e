package app

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-csi/holdfast/internal/config"
	"github.com/holdfast-csi/holdfast/internal/pki"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

func randomClusterID() string { return strings.ToLower(rand.Text()) }

func newTargetIssueCommand() *cobra.Command {
	var dir, role, name string
	cmd := &cobra.Command{
		Use:   "issue --role controller|node|target --name NAME",
		Short: "Issue one more certificate",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r := pki.Role(role)
			if r != pki.RoleController && r != pki.RoleNode && r != pki.RoleTarget {
				return fmt.Errorf("role: value %q: want controller, node or target: %w", role, volume.ErrInvalid)
			}
			if err := volume.ValidateName("certificate", name, volume.MaxHostName); err != nil {
				return err
			}
			cert, err1 := os.ReadFile(filepath.Join(dir, "ca.crt"))
			key, err2 := os.ReadFile(filepath.Join(dir, "ca.key"))
			if err1 != nil || err2 != nil {
				return fmt.Errorf("dir: value %q: want ca.crt and ca.key as `holdfast target init` makes them: %w", dir, volume.ErrPrecondition)
			}
			ca, err := pki.ParseAuthority(cert, key)
			if err != nil {
				return err
			}
			if err := issue(ca, dir, r, name, nil); err != nil {
				return err
			}
			cmd.Printf("%s/%s.crt and %s/%s.key\n", dir, name, dir, name)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "dir", filepath.Join(filepath.Dir(defaultTargetConfig), "tls"), "directory of the certificates")
	f.StringVar(&role, "role", "", "what its bearer may do: controller, node or target")
	f.StringVar(&name, "name", "", "name of the files")
	return cmd
}

func newTargetStopCommand(o *targetOptions) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "stop-exports",
		Short: "Take every export of this host away for maintenance; I/O of all nodes waits",
		Long: "Take every export of this host away, in the order that no node takes for \"the volume\n" +
			"is gone\": first the ports are closed to new connections, then the exports end. I/O of\n" +
			"all nodes waits until `holdfast target` runs again. The agent must not be running.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.LoadTarget(o.config)
			if err != nil {
				return err
			}
			if !yes && !confirm(cmd, "I/O of every node that uses "+cfg.Host+" will wait. Go on?") {
				return fmt.Errorf("nothing was changed: %w", context.Canceled)
			}
			return stopExports(cmd.Context(), o, cfg)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func stopExports(ctx context.Context, o *targetOptions, cfg config.Target) error {
	service, closeDB, err := newTargetService(ctx, cfg, o.logger("target"))
	if err != nil {
		return err
	}
	defer closeDB()
	return service.StopExports(ctx)
}

func confirm(cmd *cobra.Command, question string) bool {
	cmd.PrintErr(question + " Type yes: ")
	answer, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	return strings.TrimSpace(answer) == "yes"
}
