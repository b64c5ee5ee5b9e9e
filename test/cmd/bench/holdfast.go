package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

const callPath = "/usr/local/bin/csicall"

// Numbers of volumes: rounds of the first volume of a node, volumes before the
// twentieth, samples of the twentieth and volumes at once.
const (
	rounds  = 7
	before  = 19
	samples = 5
	atOnce  = 10
)

const volumeSize = 256 << 20

type bench struct {
	c      *cluster.Cluster
	result result
}

// chain is what csicall takes.
type call struct {
	Method  string          `json:"method"`
	Request json.RawMessage `json:"request"`
}

func calls(pairs ...any) ([]call, error) {
	var out []call
	for i := 0; i < len(pairs); i += 2 {
		text, err := protojson.Marshal(pairs[i+1].(proto.Message))
		if err != nil {
			return nil, err
		}
		out = append(out, call{pairs[i].(string), text})
	}
	return out, nil
}

func up(v *cluster.Volume) ([]call, error) {
	return calls(
		"NodeStageVolume", &csi.NodeStageVolumeRequest{VolumeId: v.ID, StagingTargetPath: v.Staging(), VolumeCapability: v.Capability(), VolumeContext: v.Context, PublishContext: v.Publish},
		"NodePublishVolume", &csi.NodePublishVolumeRequest{VolumeId: v.ID, StagingTargetPath: v.Staging(), TargetPath: v.Target(), VolumeCapability: v.Capability(), VolumeContext: v.Context, PublishContext: v.Publish})
}

func down(v *cluster.Volume) ([]call, error) {
	return calls(
		"NodeUnpublishVolume", &csi.NodeUnpublishVolumeRequest{VolumeId: v.ID, TargetPath: v.Target()},
		"NodeUnstageVolume", &csi.NodeUnstageVolumeRequest{VolumeId: v.ID, StagingTargetPath: v.Staging()})
}

// call runs chains in the node and returns the seconds of each, and of all.
func (b *bench) call(ctx context.Context, together bool, make func(*cluster.Volume) ([]call, error), vs ...*cluster.Volume) (each []float64, all float64, err error) {
	var chains [][]call
	for _, v := range vs {
		chain, err := make(v)
		if err != nil {
			return nil, 0, err
		}
		chains = append(chains, chain)
	}
	input, err := json.Marshal(chains)
	if err != nil {
		return nil, 0, err
	}
	cmd := b.c.Nodes[0].Command(ctx, callPath, "-together="+strconv.FormatBool(together))
	var out, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &out, &stderr
	if err := cmd.Run(); err != nil {
		return nil, 0, fmt.Errorf("%w\n%s", err, stderr.String())
	}
	for _, line := range strings.Fields(out.String()) {
		f, err := strconv.ParseFloat(line, 64)
		if err != nil {
			return nil, 0, err
		}
		each = append(each, f)
	}
	return each[:len(each)-1], each[len(each)-1], nil
}

// volumes provisions and attaches n volumes; that is not measured.
func (b *bench) volumes(ctx context.Context, name string, n int) ([]*cluster.Volume, error) {
	var out []*cluster.Volume
	for i := range n {
		v := &cluster.Volume{Name: fmt.Sprintf("%s-%d", name, i), FSType: "ext4", SizeBytes: volumeSize}
		if err := b.c.Provision(ctx, v); err != nil {
			return nil, err
		}
		if err := b.c.Attach(ctx, v, b.c.Nodes[0]); err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func (b *bench) remove(ctx context.Context, vs []*cluster.Volume) error {
	for _, v := range vs {
		if err := b.c.Detach(ctx, v, b.c.Nodes[0]); err != nil {
			return err
		}
		if err := b.c.Delete(ctx, v); err != nil {
			return err
		}
	}
	return nil
}

// part is one of what is measured.
type part struct {
	name string
	run  func(*bench, context.Context) error
}

var parts = []part{
	{"idle", (*bench).idle}, {"shell", (*bench).floor}, {"first", (*bench).first}, {"twentieth", (*bench).twentieth},
	{"together", (*bench).together}, {"watching", (*bench).watching}, {"datapath", (*bench).dataPath},
}

func partNames() []string {
	var out []string
	for _, p := range parts {
		out = append(out, p.name)
	}
	return out
}

// choose returns the parts named, in their own order, or all.
func choose(only string) ([]part, error) {
	if only == "" {
		return parts, nil
	}
	wanted := strings.Split(only, ",")
	for _, name := range wanted {
		if !slices.Contains(partNames(), name) {
			return nil, fmt.Errorf("only: value %q: want some of %s", name, strings.Join(partNames(), ", "))
		}
	}
	return slices.DeleteFunc(slices.Clone(parts), func(p part) bool { return !slices.Contains(wanted, p.name) }), nil
}

func (b *bench) measure(ctx context.Context, chosen []part) error {
	for _, p := range chosen {
		began := time.Now()
		if err := p.run(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		fmt.Printf("  %-10s measured in %.0f s\n", p.name, time.Since(began).Seconds())
	}
	return nil
}

func (b *bench) idle(ctx context.Context) (err error) {
	b.result.Idle, err = b.memory(ctx)
	return err
}

// first measures a node's first volume: the session is made each time.
func (b *bench) first(ctx context.Context) error {
	vs, err := b.volumes(ctx, "first", rounds+1)
	if err != nil {
		return err
	}
	for i, v := range vs {
		fresh, _, err := b.call(ctx, false, up, v)
		if err != nil {
			return err
		}
		if _, _, err := b.call(ctx, false, down, v); err != nil {
			return err
		}
		formatted, _, err := b.call(ctx, false, up, v)
		if err != nil {
			return err
		}
		teardown, _, err := b.call(ctx, false, down, v)
		if err != nil {
			return err
		}
		if i == 0 {
			continue // warms up caches on both machines, as for the shell
		}
		b.result.FirstFresh = append(b.result.FirstFresh, fresh...)
		b.result.FirstFormatted = append(b.result.FirstFormatted, formatted...)
		b.result.Teardown = append(b.result.Teardown, teardown...)
	}
	return b.remove(ctx, vs)
}

// twentieth measures volumes that find their session there.
func (b *bench) twentieth(ctx context.Context) error {
	vs, err := b.volumes(ctx, "many", before+samples)
	if err != nil {
		return err
	}
	if _, _, err := b.call(ctx, false, up, vs[:before]...); err != nil {
		return err
	}
	if b.result.Loaded, err = b.memory(ctx); err != nil {
		return err
	}
	last := vs[before:]
	if b.result.TwentiethFresh, _, err = b.call(ctx, false, up, last...); err != nil {
		return err
	}
	if b.result.TeardownShared, _, err = b.call(ctx, false, down, last...); err != nil {
		return err
	}
	if b.result.TwentiethFormatted, _, err = b.call(ctx, false, up, last...); err != nil {
		return err
	}
	if _, _, err := b.call(ctx, false, down, vs...); err != nil {
		return err
	}
	return b.remove(ctx, vs)
}

func (b *bench) together(ctx context.Context) error {
	vs, err := b.volumes(ctx, "burst", atOnce)
	if err != nil {
		return err
	}
	if _, b.result.BurstFresh, err = b.call(ctx, true, up, vs...); err != nil {
		return err
	}
	if _, _, err = b.call(ctx, true, down, vs...); err != nil {
		return err
	}
	if _, b.result.BurstFormatted, err = b.call(ctx, true, up, vs...); err != nil {
		return err
	}
	if _, _, err = b.call(ctx, true, down, vs...); err != nil {
		return err
	}
	return b.remove(ctx, vs)
}

// memory reads the plugin's resident memory.
func (b *bench) memory(ctx context.Context) (m memory, err error) {
	text, err := b.c.Nodes[0].Get(ctx, fmt.Sprintf("/proc/%d/status", b.c.Nodes[0].PluginPID()))
	for line := range strings.Lines(string(text)) {
		var n float64
		if c, _ := fmt.Sscanf(line, "VmRSS: %f kB", &n); c == 1 {
			m.RSSMiB = n / 1024
		}
		if c, _ := fmt.Sscanf(line, "RssAnon: %f kB", &n); c == 1 {
			m.AnonMiB = n / 1024
		}
	}
	return m, err
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s) == 0 {
		return 0
	}
	return s[len(s)/2]
}
