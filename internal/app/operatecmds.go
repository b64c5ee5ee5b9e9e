package app

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-csi/holdfast/internal/control"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

const defaultControlSocket = "/run/holdfast/node.sock"

func newVolumesCommand() *cobra.Command {
	var socket string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "volumes",
		Short: "List what is staged on this node, and how it is",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := control.NewClient(socket).Volumes(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(list)
			}
			return printVolumes(cmd.OutOrStdout(), list, time.Now())
		},
	}
	cmd.Flags().StringVar(&socket, "control-socket", defaultControlSocket, "socket of the node plugin")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printVolumes(w io.Writer, list []control.Volume, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "VOLUME\tCLAIM\tSTATE\tFOR\tREQUESTS\tGUARD\tDISK\tKIND\tPODS")
	for _, v := range list {
		since, kind := "-", v.FSType
		if v.WaitingSince != nil {
			since = now.Sub(*v.WaitingSince).Round(time.Second).String()
		}
		if kind == "" {
			kind = "block"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\t%d\n", v.ID, cmp.Or(v.Claim, "-"), v.State, since, v.Requests, v.Guard, v.Disk, kind, len(v.Published))
	}
	return t.Flush()
}

func newAbandonCommand() *cobra.Command {
	var socket string
	var yes bool
	cmd := &cobra.Command{
		Use:   "abandon VOLUME",
		Short: "Give up one volume on this node: its I/O fails instead of waiting",
		Long: `Give up one volume on this node. Everything that was written to it and has not
reached the storage host is lost, its I/O fails from now on, and an unstage that
waits for the storage host can end. No other volume is touched, and nothing on the
storage host is. Use it when a storage host will not come back and pods have to.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c := control.NewClient(socket)
			list, err := c.Volumes(cmd.Context())
			if err != nil {
				return err
			}
			at := slices.IndexFunc(list, func(v control.Volume) bool { return v.ID == args[0] })
			if at < 0 {
				return fmt.Errorf("volume %s is not staged on this node: %w", args[0], volume.ErrNotFound)
			}
			warnAbandon(cmd.OutOrStdout(), list[at])
			if !yes && !confirm(cmd, "Give it up?") {
				return fmt.Errorf("nothing was done: type yes to go on, or give --yes: %w", volume.ErrPrecondition)
			}
			if err := c.Abandon(cmd.Context(), args[0]); err != nil {
				return err
			}
			cmd.Println("abandoned: its I/O fails from now on; delete its pods, and they can end")
			return nil
		},
	}
	cmd.Flags().StringVar(&socket, "control-socket", defaultControlSocket, "socket of the node plugin")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func warnAbandon(w io.Writer, v control.Volume) {
	fmt.Fprintf(w, "volume %s is %s: %s\n", v.ID, v.State, v.Message)
	fmt.Fprintf(w, "it is published at %d path(s), and %d request(s) wait or are under way\n", len(v.Published), v.Requests)
	fmt.Fprintln(w, "WHAT WAS WRITTEN AND HAS NOT REACHED THE STORAGE HOST WILL BE LOST; what was synced is safe there")
	if v.State == "Connected" {
		fmt.Fprintln(w, "the volume is connected: there is nothing to be gained by giving it up")
	}
}
