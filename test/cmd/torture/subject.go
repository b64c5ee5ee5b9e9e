package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/test/ack"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// areaBlocks is how much of a volume its writer uses by default: 4 MiB.
const areaBlocks = 1024

// mortalBlocks is the same for a volume under guard kernel, which is read back
// whenever it was lost: 1 MiB.
const mortalBlocks = 256

// subject is a volume under a writer that checks.
type subject struct {
	*cluster.Volume
	guard string
	area  int // blocks that its writer uses; areaBlocks if 0
	id    uint64
	log   *ack.Log
	done  chan error
}

// kind is how the subject is named in the output.
func (s *subject) kind() string {
	if s.FSType == "" {
		return "block"
	}
	return s.FSType
}

func (s *subject) blocks() int {
	if s.area > 0 {
		return s.area
	}
	return areaBlocks
}

// start runs a writer in the node; what it says is kept here, outside. A subject
// may get another writer while an earlier one still runs, so each reports to the
// log and the channel it was started with.
func (s *subject) start(ctx context.Context, n *cluster.Node, id uint64) {
	log, done := ack.NewLog(), make(chan error, 1)
	s.id, s.log, s.done = id, log, done
	script := fmt.Sprintf("echo $$ >%s; exec /usr/local/bin/ackio -path %s -writer %d -blocks %d -pause 20ms", s.pidFile(), s.File(), id, s.blocks())
	if s.FSType == "" {
		script += " -direct"
	}
	in, out := io.Pipe()
	cmd := n.Command(ctx, "bash", "-c", script)
	cmd.Stdout = out
	go func() {
		err := cmd.Run()
		_ = out.Close() // a pipe's Close does not fail
		done <- err
	}()
	go func() { _ = log.Read(in) }() // ends with the pipe
}

func (s *subject) pidFile() string { return fmt.Sprintf("/run/writer%d", s.id) }

// writing is an error if the writer has ended by itself.
func (s *subject) writing() error {
	select {
	case err := <-s.done:
		s.done <- err // for finish
		return fmt.Errorf("the writer of %s has ended: %v", s.Name, err)
	default:
		return nil
	}
}

// stop sends SIGTERM to the subject's writer.
func (s *subject) stop(ctx context.Context, n *cluster.Node) error {
	_, err := n.Shell(ctx, fmt.Sprintf("kill -TERM $(<%s) 2>/dev/null || true", s.pidFile()))
	return err
}

// finish stops the writer and waits until it has ended.
func (s *subject) finish(ctx context.Context, n *cluster.Node) error {
	if err := s.stop(ctx, n); err != nil {
		return err
	}
	select {
	case err := <-s.done:
		if len(s.log.Errors()) > 0 {
			return nil // it ends with what it saw, and that is counted
		}
		return err
	case <-time.After(20 * time.Second):
		return fmt.Errorf("writer of %s hangs", s.Name)
	}
}

// health is the one reason that the driver gives; "" if the volume is well.
func (s *subject) health(ctx context.Context, n *cluster.Node) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	resp, err := n.CSI.NodeGetVolumeHealth(ctx, &csi.NodeGetVolumeHealthRequest{VolumeId: s.ID})
	if err != nil {
		return "", err
	}
	for _, h := range resp.GetVolumeHealth().GetHealthStatuses() {
		return h.GetReason(), nil
	}
	return "", nil
}

// verify reads every acknowledged block back, from the storage host's own file
// or through a new mount, so that no cache answers for the disk. The volume must
// be on no node.
func (s *subject) verify(ctx context.Context, c *cluster.Cluster) (ack.Result, error) {
	image, err := s.read(ctx, c)
	if err != nil {
		return ack.Result{}, err
	}
	return s.log.Verify(bytes.NewReader(image), s.id)
}

func (s *subject) read(ctx context.Context, c *cluster.Cluster) ([]byte, error) {
	if s.FSType == "" {
		var image bytes.Buffer
		cmd := c.Storages[0].Command(ctx, "dd", "if="+s.image(), "bs=4096", fmt.Sprintf("count=%d", s.blocks()), "iflag=direct", "status=none")
		cmd.Stdout = &image
		err := cmd.Run()
		return image.Bytes(), err
	}
	n := c.Nodes[0]
	if err := attach(ctx, c, s.Volume, n); err != nil {
		return nil, err
	}
	b, err := n.Get(ctx, s.File())
	if err != nil {
		return nil, err
	}
	if err := c.Drop(ctx, s.Volume, n); err != nil {
		return nil, err
	}
	return s.padded(b), nil
}

// padded is a file as its writer's area: it is as long as its last block, and what
// was never written is zero.
func (s *subject) padded(file []byte) []byte {
	return append(file, make([]byte, max(0, s.blocks()*ack.BlockSize-len(file)))...)
}

func (s *subject) image() string {
	if s.static() {
		return staticImage
	}
	return s.Image()
}

func (s *subject) static() bool { return s.Publish == nil }

func attach(ctx context.Context, c *cluster.Cluster, v *cluster.Volume, n *cluster.Node) error {
	if err := c.Attach(ctx, v, n); err != nil {
		return err
	}
	if err := n.StageVolume(ctx, v); err != nil {
		return err
	}
	return n.PublishVolume(ctx, v, false)
}
