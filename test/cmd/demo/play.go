package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/test/ack"
	"github.com/holdfast-csi/holdfast/test/cluster"
	"github.com/holdfast-csi/holdfast/test/report"
)

// areaBlocks is how much of each volume the writers use, in blocks of 4 KiB.
const areaBlocks = 1024

type demo struct {
	c       *cluster.Cluster
	screen  *screen
	began   time.Time
	volumes []*running
	report  report.Report
	guard   string // what holds I/O on this kernel: kernel or dm
}

// running is a volume with its writer.
type running struct {
	*cluster.Volume
	id   uint64
	log  *ack.Log
	done chan error
}

func (d *demo) node() *cluster.Node       { return d.c.Nodes[0] }
func (d *demo) storage() *cluster.Storage { return d.c.Storages[0] }

func (d *demo) play(ctx context.Context) error {
	d.report.Kernel, d.report.Accel = d.c.Lab.KernelVersion(), d.c.Lab.Accel()
	d.screen.machines(d.report.Kernel, d.report.Accel, d.storage().Addr().String(), d.node().Addr().String(), d.node().ID)
	if err := d.provision(ctx); err != nil {
		return err
	}
	if err := d.watch(ctx, 4*time.Second, nil); err != nil {
		return err
	}
	for _, o := range outages {
		if err := d.outage(ctx, o); err != nil {
			return fmt.Errorf("%s: %w", o.kind, err)
		}
	}
	return d.verify(ctx)
}

func (d *demo) provision(ctx context.Context) error {
	d.screen.chapter("Provision, attach, format, mount")
	for i, v := range []*cluster.Volume{
		{Name: "pvc-database", FSType: "ext4", SizeBytes: 256 << 20},
		{Name: "pvc-queue", SizeBytes: 64 << 20},
	} {
		began := time.Now()
		if err := d.c.Use(ctx, v, d.node()); err != nil {
			return err
		}
		d.screen.provisioned(v, time.Since(began))
		d.volumes = append(d.volumes, d.start(ctx, v, uint64(i+1)))
	}
	sessions, err := d.node().Shell(ctx, "ls -d /sys/class/nvme/nvme* | wc -l")
	if err != nil {
		return err
	}
	tables, err := d.node().Shell(ctx, "ls /sys/block | grep -c ^dm- || true")
	if err != nil {
		return err
	}
	d.guard = "kernel"
	if strings.TrimSpace(tables) != "0" {
		d.guard = "dm"
	}
	d.screen.sessions(len(d.volumes), sessions, d.guard)
	d.report.Volumes = len(d.volumes)
	return nil
}

// start runs the writer in the node; what it says is kept here, outside.
func (d *demo) start(ctx context.Context, v *cluster.Volume, id uint64) *running {
	r := &running{Volume: v, id: id, log: ack.NewLog(), done: make(chan error, 1)}
	args := []string{"/usr/local/bin/ackio", "-path", v.File(), "-writer", fmt.Sprint(id), "-blocks", fmt.Sprint(areaBlocks), "-pause", "20ms"}
	if v.FSType == "" {
		args = append(args, "-direct")
	}
	in, out := io.Pipe()
	cmd := d.node().Command(ctx, args...)
	cmd.Stdout = out
	go func() {
		err := cmd.Run()
		_ = out.Close() // a pipe's Close does not fail
		r.done <- err
	}()
	go func() { _ = r.log.Read(in) }() // ends with the pipe
	return r
}

// watch shows the volumes for a while, or until done says so.
func (d *demo) watch(ctx context.Context, time_ time.Duration, done func() bool) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	end := time.Now().Add(time_)
	for time.Now().Before(end) && (done == nil || !done()) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		var lines []volumeLine
		for _, v := range d.volumes {
			lines = append(lines, volumeLine{v.Name, v.log.Acked(), len(v.log.Errors()), d.health(ctx, v)})
		}
		d.screen.live(time.Since(d.began), lines)
	}
	d.screen.endLive()
	return nil
}

// health asks the driver, as the kubelet's volume health monitor would.
func (d *demo) health(ctx context.Context, v *running) string {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	resp, err := d.node().CSI.NodeGetVolumeHealth(ctx, &csi.NodeGetVolumeHealthRequest{VolumeId: v.ID})
	if err != nil {
		return "no answer"
	}
	if s := resp.GetVolumeHealth().GetHealthStatuses(); len(s) > 0 {
		return s[0].GetReason()
	}
	return "Connected"
}

// verify stops the writers and reads every acknowledged block back: the block
// volume from the storage host's own file, the file system volume through a new
// mount, so that no cache answers for the disk.
func (d *demo) verify(ctx context.Context) error {
	d.screen.chapter("Verify every acknowledged byte")
	if err := d.node().Terminate(ctx, "ackio"); err != nil {
		return err
	}
	for _, v := range d.volumes {
		if err := <-v.done; err != nil {
			return fmt.Errorf("writer of %s: %w", v.Name, err)
		}
		if err := d.c.Drop(ctx, v.Volume, d.node()); err != nil {
			return err
		}
		image, err := d.read(ctx, v)
		if err != nil {
			return err
		}
		res, err := v.log.Verify(bytes.NewReader(image), v.id)
		if err != nil {
			return err
		}
		d.screen.verified(v, res)
		d.report.AckedWrites += v.log.Acked()
		d.report.LostWrites += res.Lost
		d.report.CorruptReads += res.Corrupt
		d.report.IOErrors += len(v.log.Errors())
	}
	d.report.Judge()
	return nil
}

func (d *demo) read(ctx context.Context, v *running) ([]byte, error) {
	if v.FSType != "" {
		for _, step := range []func() error{
			func() error { return d.c.Attach(ctx, v.Volume, d.node()) },
			func() error { return d.node().StageVolume(ctx, v.Volume) },
			func() error { return d.node().PublishVolume(ctx, v.Volume, true) },
		} {
			if err := step(); err != nil {
				return nil, err
			}
		}
		b, err := d.node().Get(ctx, v.File())
		// The file is as long as its last block; what was never written is zero.
		return append(b, make([]byte, max(0, areaBlocks*ack.BlockSize-len(b)))...), err
	}
	var image bytes.Buffer
	cmd := d.storage().Command(ctx, "dd", "if=/data/pool/volumes/"+v.UUID()+".img", "bs=4096", fmt.Sprintf("count=%d", areaBlocks), "iflag=direct", "status=none")
	cmd.Stdout = &image
	err := cmd.Run()
	return image.Bytes(), err
}
