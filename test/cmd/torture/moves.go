package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/test/ack"
	"github.com/holdfast-csi/holdfast/test/cluster"
	"github.com/holdfast-csi/holdfast/test/report"
)

// grace is the nodes' for withdrawn volumes, short so that a round is.
const grace = 3 * time.Second

// mover plays a node that is taken for dead and is not: its volume is withdrawn
// and given to the other node while it is cut off with writes in every state,
// and then it comes back.
type mover struct {
	c      *cluster.Cluster
	report report.Report
	began  time.Time
	writer uint64
}

func runMoves(ctx context.Context, o options) (err error) {
	c, err := cluster.Start(ctx, cluster.Config{
		Name: "moves", Kernel: o.kernel, Nodes: 2, NodeFlags: []string{"--withdrawn-grace", grace.String()},
		Log: func(f string, a ...any) { fmt.Printf("  "+f+"\n", a...) },
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	m := &mover{c: c, began: time.Now()}
	m.report.Kernel, m.report.Accel, m.report.Volumes = c.Lab.KernelVersion(), c.Lab.Accel(), 1
	for i := range o.moves {
		if err := m.round(ctx, i); err != nil {
			return fmt.Errorf("round %d: %w\n%s", i+1, err, autopsy(c))
		}
	}
	m.report.Judge()
	path := filepath.Join(cluster.Root(), "build", "torture", fmt.Sprintf("moves-%s.json", o.kernel))
	if err := m.report.Write(path); err != nil {
		return err
	}
	fmt.Printf("\n  Linux %s: %d moves in %s, %d writes acknowledged, %d lost, %d wrong, nothing of a fenced node after its fence, nothing left behind\n  %s\n",
		m.report.Kernel, o.moves, time.Since(m.began).Round(time.Second), m.report.AckedWrites, m.report.LostWrites, m.report.CorruptReads, path)
	if !m.report.Passed {
		return errors.New("the promise was not kept")
	}
	return nil
}

// round moves a volume from one node to the other; both kinds in turn, both
// directions in turn.
func (m *mover) round(ctx context.Context, i int) error {
	from, to := m.c.Nodes[i%2], m.c.Nodes[(i+1)%2]
	s := &subject{Volume: &cluster.Volume{Name: fmt.Sprintf("moved-%d", i), SizeBytes: 32 << 20, Parameters: map[string]string{"guard": "dm"}}, guard: "dm"}
	if i/2%2 == 0 {
		s.FSType = "ext4"
	}
	if err := m.c.Use(ctx, s.Volume, from); err != nil {
		return err
	}
	m.writer++
	s.start(ctx, from, m.writer)
	if err := m.wait(10*time.Second, "the first write", func() bool { return s.log.Acked() > 0 }); err != nil {
		return err
	}
	old := *s
	injected := time.Now()
	from.NIC(0).Drop()
	if s.FSType != "" {
		// Dirty pages beside what the writer syncs.
		if _, err := from.Shell(ctx, "head -c 2000000 /dev/urandom >"+s.Target()+"/dirty"); err != nil {
			return err
		}
	}
	took, err := m.fence(ctx, s.Volume, from)
	if err != nil {
		return err
	}
	fenced, err := m.image(ctx, s)
	if err != nil {
		return err
	}
	if err := attach(ctx, m.c, s.Volume, to); err != nil {
		return err
	}
	m.writer++
	s.start(ctx, to, m.writer)
	if err := m.wait(10*time.Second, "a write on the new node", func() bool { return s.log.Acked() > 10 }); err != nil {
		return err
	}
	if err := from.NIC(0).Heal(); err != nil {
		return err
	}
	healed := time.Now()
	// The old pod ends by itself, and the old node lets go.
	if err := m.wait(grace+20*time.Second, "an error for the pod of the fenced node", func() bool { return len(old.log.Errors()) > 0 }); err != nil {
		return err
	}
	if err := from.Terminate(ctx, "ackio"); err != nil {
		return err
	}
	select {
	case <-old.done:
	case <-time.After(20 * time.Second):
		return errors.New("the pod of the fenced node does not end")
	}
	ended := time.Since(healed)
	if err := m.release(ctx, s.Volume, from); err != nil {
		return err
	}
	released := time.Since(healed)
	time.Sleep(time.Second)
	if err := m.settle(ctx, s, &old, fenced, to); err != nil {
		return err
	}
	m.report.Outages = append(m.report.Outages, report.Outage{Kind: "moved", Guard: "dm", OK: true, InjectedS: injected.Sub(m.began).Seconds(), HealedS: healed.Sub(m.began).Seconds()})
	fmt.Printf("%4d %6.1f s  %-5s %s -> %s: fenced in %.1f s, old pod ended %.1f s and old node released it %.1f s after healing\n",
		i+1, time.Since(m.began).Seconds(), s.kind(), from.Name(), to.Name(), took.Seconds(), ended.Seconds(), released.Seconds())
	return nil
}

// fence takes the volume from a node that cannot be asked, as the attach-detach
// controller does when it forces.
func (m *mover) fence(ctx context.Context, v *cluster.Volume, n *cluster.Node) (time.Duration, error) {
	began := time.Now()
	for {
		err := m.c.Detach(ctx, v, n)
		if err == nil {
			return time.Since(began), nil
		}
		if time.Since(began) > time.Minute || ctx.Err() != nil {
			return 0, err
		}
	}
}

// release takes the volume off the fenced node, as its kubelet does once its pod
// has ended.
func (m *mover) release(ctx context.Context, v *cluster.Volume, n *cluster.Node) error {
	for end := time.Now().Add(40 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		call, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := n.UnpublishVolume(call, v)
		if err == nil {
			err = n.UnstageVolume(call, v)
		}
		cancel()
		// That what was never synced is lost on a fenced node is no surprise.
		if err == nil || status.Code(errors.Unwrap(err)) == codes.DataLoss {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the fenced node does not let go: %w", err)
		}
	}
}

// settle ends the new pod and checks: everything acknowledged to it is there,
// and every block is either its own or as it was when the fence had answered.
func (m *mover) settle(ctx context.Context, s, old *subject, fenced []byte, to *cluster.Node) error {
	if err := to.Terminate(ctx, "ackio"); err != nil {
		return err
	}
	if err := <-s.done; err != nil {
		return fmt.Errorf("the writer on the new node: %w", err)
	}
	if err := m.c.Drop(ctx, s.Volume, to); err != nil {
		return err
	}
	res, err := s.verify(ctx, m.c)
	if err != nil {
		return err
	}
	m.report.AckedWrites += s.log.Acked()
	m.report.LostWrites += res.Lost
	m.report.CorruptReads += res.Corrupt
	m.report.IOErrors += len(s.log.Errors())
	if res.Lost+res.Corrupt+len(s.log.Errors()) > 0 {
		return fmt.Errorf("%d lost, %d wrong, errors %v: %v", res.Lost, res.Corrupt, s.log.Errors(), res.Details)
	}
	if s.FSType == "" {
		if err := m.onlyOurs(ctx, s, fenced); err != nil {
			return err
		}
		// What was acknowledged to the old pod stood on the disk at the fence.
		before, err := old.log.Verify(bytes.NewReader(fenced), old.id)
		if err != nil || before.Lost+before.Corrupt > 0 {
			return fmt.Errorf("at the fence: %+v %w", before, err)
		}
		m.report.AckedWrites += old.log.Acked()
	} else if out, err := m.c.Storages[0].Shell(ctx, "e2fsck -fn "+s.Image()); err != nil {
		return fmt.Errorf("e2fsck: %w\n%s", err, out)
	}
	if err := m.c.Delete(ctx, s.Volume); err != nil {
		return err
	}
	left, err := m.c.Leaks(ctx)
	if err != nil || len(left) > 0 {
		return fmt.Errorf("left behind: %v %w", left, err)
	}
	return nil
}

// onlyOurs compares the device, block by block, with how the fence left it.
func (m *mover) onlyOurs(ctx context.Context, s *subject, fenced []byte) error {
	now, err := m.image(ctx, s)
	if err != nil {
		return err
	}
	for at := 0; at+ack.BlockSize <= len(now) && at+ack.BlockSize <= len(fenced); at += ack.BlockSize {
		block := now[at : at+ack.BlockSize]
		if bytes.Equal(block, fenced[at:at+ack.BlockSize]) {
			continue
		}
		if _, err := ack.Check(block, s.id, uint64(at/ack.BlockSize)); err != nil {
			return fmt.Errorf("after the fence: %w", err)
		}
	}
	return nil
}

// image is the volume as the storage host has it.
func (m *mover) image(ctx context.Context, s *subject) ([]byte, error) {
	var out bytes.Buffer
	cmd := m.c.Storages[0].Command(ctx, "dd", "if="+s.Image(), "bs=1M", "iflag=direct", "status=none")
	cmd.Stdout = &out
	err := cmd.Run()
	return out.Bytes(), err
}

func (m *mover) wait(limit time.Duration, what string, ok func() bool) error {
	for end := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("%s: not within %s", what, limit)
		}
	}
	return nil
}
