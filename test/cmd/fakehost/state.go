package main

import (
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/config"
	"github.com/holdfast-csi/holdfast/internal/nvmet/nvmettest"
	"github.com/holdfast-csi/holdfast/internal/store"
	"github.com/holdfast-csi/holdfast/test/kube/scale"
)

// host is what the agent stands on.
type host struct {
	cfg    config.Target
	db     *store.DB
	kernel *nvmettest.Kernel
}

// state reads the records, the pools and the model of the kernel, past the agent.
func (h *host) state() (out scale.State, err error) {
	if err := h.db.View(func(tx *store.Tx) error { return h.records(tx, &out) }); err != nil {
		return out, err
	}
	for _, p := range h.cfg.Pools {
		entries, err := os.ReadDir(filepath.Join(p.Path, "volumes"))
		if err != nil {
			return out, err
		}
		for _, e := range entries {
			out.Files = append(out.Files, e.Name())
		}
	}
	return out, h.target(&out)
}

func (h *host) records(tx *store.Tx, out *scale.State) error {
	volumes, err := tx.Volumes(uuid.Nil, 0)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		out.Volumes = append(out.Volumes, scale.Volume{UUID: v.UUID.String(), Name: v.Name, State: v.State})
	}
	publications, err := tx.Publications()
	if err != nil {
		return err
	}
	for _, p := range publications {
		out.Publications = append(out.Publications, scale.Publication{Volume: p.Volume.String(), Node: p.Node, State: p.State, NQN: p.SubsystemNQN, NSID: p.NSID})
	}
	sessions, err := tx.Sessions()
	for _, s := range sessions {
		out.Sessions++
		for _, ns := range h.kernel.Visible(s.NQN, s.HostNQN) {
			out.Visible = append(out.Visible, scale.Export{NQN: s.NQN, NSID: ns.NSID, Volume: ns.UUID.String()})
		}
	}
	return err
}

func (h *host) target(out *scale.State) error {
	for _, kind := range []string{"subsystems", "hosts"} {
		names, err := h.kernel.ReadDir(kind)
		if err != nil {
			return err
		}
		for _, name := range names {
			out.Target = append(out.Target, kind+"/"+name)
		}
	}
	return nil
}
