package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// pattern is one way to use a device.
type pattern struct{ name, rw, size string }

var patterns = []pattern{
	{"random read, 4 KiB", "randread", "4k"},
	{"random write, 4 KiB", "randwrite", "4k"},
	{"sequential read, 128 KiB", "read", "128k"},
	{"sequential write, 128 KiB", "write", "128k"},
}

// Runs of each pattern with and without the table, in turn.
const (
	dataRuns    = 4
	dataSeconds = 3
)

// throughput is I/O per second, one element a run.
type throughput struct {
	Pattern string    `json:"pattern"`
	Table   []float64 `json:"through_table_iops"`
	Beside  []float64 `json:"beside_iops"`
	Ratio   float64   `json:"ratio"`
}

const dataNQN = "nqn.2020-01.com.example:bench"

// dataPath compares a device under its table with one of the same session that
// has none: two namespaces of a target that nobody manages, in memory.
func (b *bench) dataPath(ctx context.Context) error {
	storage, node := b.c.Storages[0], b.c.Nodes[0]
	if _, err := storage.Shell(ctx, fmt.Sprintf(`cd /sys/kernel/config/nvmet; S=subsystems/%s; mkdir $S; echo 1 >$S/attr_allow_any_host
for n in 1 2; do truncate -s 64M /run/bench$n; mkdir $S/namespaces/$n; (cd $S/namespaces/$n; echo $(losetup -f --show /run/bench$n) >device_path; echo 11111111-2222-4333-8444-00000000000$n >device_uuid; echo 1 >enable); done
mkdir ports/4450; (cd ports/4450; echo tcp >addr_trtype; echo ipv4 >addr_adrfam; echo %s >addr_traddr; echo 4450 >addr_trsvcid); ln -s $PWD/$S ports/4450/subsystems/`, dataNQN, storage.Addr())); err != nil {
		return err
	}
	paths := map[string]string{}
	for i, guard := range []string{"dm", "kernel"} {
		v := &cluster.Volume{Name: "data-" + guard, ID: "data-" + guard, SizeBytes: 64 << 20, Context: map[string]string{
			"nqn": dataNQN, "addresses": fmt.Sprintf("%s:4450", storage.Addr()), "nsid": fmt.Sprint(i + 1), "guard": guard,
		}}
		if err := node.StageVolume(ctx, v); err != nil {
			return err
		}
		if err := node.PublishVolume(ctx, v, false); err != nil {
			return err
		}
		paths[guard] = v.Target()
	}
	for _, p := range patterns {
		t, err := b.compare(ctx, p, paths)
		if err != nil {
			return err
		}
		b.result.DataPath = append(b.result.DataPath, t)
	}
	return nil
}

// compare runs a pattern on both in turn; who goes first changes each time. The
// first pair warms up and does not count.
func (b *bench) compare(ctx context.Context, p pattern, paths map[string]string) (throughput, error) {
	t := throughput{Pattern: p.name}
	for i := range dataRuns + 1 {
		order := []string{"dm", "kernel"}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, guard := range order {
			iops, err := b.fio(ctx, p, paths[guard])
			if err != nil {
				return t, err
			}
			switch {
			case i == 0:
			case guard == "dm":
				t.Table = append(t.Table, iops)
			default:
				t.Beside = append(t.Beside, iops)
			}
		}
	}
	t.Ratio = median(t.Table) / median(t.Beside)
	return t, nil
}

func (b *bench) fio(ctx context.Context, p pattern, path string) (float64, error) {
	out, err := b.c.Nodes[0].Shell(ctx, fmt.Sprintf("fio --name=x --filename=%s --direct=1 --ioengine=psync --rw=%s --bs=%s --time_based --runtime=%d --size=64M --output-format=json", path, p.rw, p.size, dataSeconds))
	if err != nil {
		return 0, err
	}
	var report struct {
		Jobs []struct {
			Read, Write struct {
				IOPS float64 `json:"iops"`
			}
		} `json:"jobs"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || len(report.Jobs) != 1 {
		return 0, fmt.Errorf("fio said %.200q: %w", out, err)
	}
	return report.Jobs[0].Read.IOPS + report.Jobs[0].Write.IOPS, nil
}
