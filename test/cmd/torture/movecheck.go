package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/holdfast-csi/holdfast/test/ack"
	"github.com/holdfast-csi/holdfast/test/cluster"
	"github.com/holdfast-csi/holdfast/test/vm"
)

// visit shows that the old node is clean for the volume: it reads there all that
// was acknowledged on the other, writes, and leaves.
func (v *move) visit(ctx context.Context) error {
	if err := v.intact(ctx, v.s, v.from); err != nil {
		return fmt.Errorf("back on %s: %w", v.from.Name(), err)
	}
	v.report.IOErrors += len(v.s.log.Errors())
	if err := v.write(ctx, v.from, v.s, 5); err != nil {
		return err
	}
	v.writers = append(v.writers, v.s.id)
	if err := v.s.stop(ctx, v.from); err != nil {
		return err
	}
	if err := ended(v.s.done, endTime, "the writer that came back"); err != nil {
		return err
	}
	v.report.IOErrors += len(v.s.log.Errors())
	return v.c.Drop(ctx, v.s.Volume, v.from)
}

// intact reads on a node what the writer of s was told is on disk.
func (v *move) intact(ctx context.Context, s *subject, n *cluster.Node) error {
	b, err := dump(ctx, n.Machine, s.File(), s.blocks())
	if err != nil {
		return err
	}
	// A file is as long as its last block.
	return v.judge(s, append(b, make([]byte, max(0, s.blocks()*ack.BlockSize-len(b)))...))
}

// dump reads blocks of a file of a machine, 0 for all, past its cache, so that
// the disk answers.
func dump(ctx context.Context, m *vm.Machine, path string, blocks int) ([]byte, error) {
	var out bytes.Buffer
	cmd := m.Command(ctx, "/usr/local/bin/ackio", "-dump", "-path", path, "-blocks", fmt.Sprint(blocks))
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		return nil, err
	}
	return ack.Undump(out.Bytes())
}

func (v *move) judge(s *subject, b []byte) error {
	res, err := s.log.Verify(bytes.NewReader(b), s.id)
	if err != nil {
		return err
	}
	v.report.AckedWrites += s.log.Acked()
	v.report.LostWrites += res.Lost
	v.report.CorruptReads += res.Corrupt
	if res.Lost+res.Corrupt > 0 {
		return fmt.Errorf("%d lost, %d wrong: %v", res.Lost, res.Corrupt, res.Details)
	}
	return nil
}

// check looks at the volume as the storage host has it: nothing of the old pod
// has come since the fence.
func (v *move) check(ctx context.Context) error {
	now, err := v.image(ctx)
	if err != nil {
		return err
	}
	if len(now) != len(v.fenced) {
		return fmt.Errorf("the volume has %d bytes and had %d", len(now), len(v.fenced))
	}
	for at := 0; at+ack.BlockSize <= len(now); at += ack.BlockSize {
		block := now[at : at+ack.BlockSize]
		if bytes.Equal(block, v.fenced[at:at+ack.BlockSize]) {
			continue
		}
		if err := v.ours(block, at/ack.BlockSize); err != nil {
			return fmt.Errorf("after the fence: %w", err)
		}
	}
	if v.s.FSType == "" {
		return nil
	}
	if out, err := v.c.Storages[0].Shell(ctx, "e2fsck -fn "+v.s.Image()); err != nil {
		return fmt.Errorf("e2fsck: %w\n%s", err, out)
	}
	return nil
}

// ours says whether a block that has changed since the fence may have. All of a
// block volume is the new writers'; a file system writes blocks of its own, but
// none of the old pod's.
func (v *move) ours(block []byte, at int) error {
	if bytes.Contains(block, []byte(stale)) {
		return fmt.Errorf("block %d: what the fenced node had not synced", at)
	}
	writer, seq, stamped := ack.Author(block)
	if stamped && !slices.Contains(v.writers, writer) {
		return fmt.Errorf("block %d: write %d of writer %d", at, seq, writer)
	}
	if v.s.FSType != "" {
		return nil
	}
	_, err := ack.Check(block, writer, uint64(at))
	return err
}

// clean ends the neighbour, which must not have noticed, and finds nothing left.
func (v *move) clean(ctx context.Context) error {
	if v.neighbour != nil {
		if err := v.endNeighbour(ctx); err != nil {
			return fmt.Errorf("the volume beside: %w", err)
		}
	}
	if err := v.c.Delete(ctx, v.s.Volume); err != nil {
		return err
	}
	left, err := v.c.Leaks(ctx)
	if err != nil || len(left) > 0 {
		return fmt.Errorf("left behind: %v %w", left, err)
	}
	return nil
}

func (v *move) endNeighbour(ctx context.Context) error {
	s := v.neighbour
	if _, ok := s.log.FirstAfter(v.healed); !ok {
		return fmt.Errorf("it has not gone on since the cable was healed")
	}
	if err := s.stop(ctx, v.from); err != nil {
		return err
	}
	if err := ended(s.done, endTime, "its writer"); err != nil {
		return err
	}
	if e := s.log.Errors(); len(e) > 0 {
		return fmt.Errorf("its writer saw %v", e)
	}
	if err := v.c.Drop(ctx, s.Volume, v.from); err != nil {
		return err
	}
	b, err := s.read(ctx, v.c)
	if err != nil {
		return err
	}
	if err := v.judge(s, b); err != nil {
		return err
	}
	return v.c.Delete(ctx, s.Volume)
}

// image is the volume as the storage host has it.
func (v *move) image(ctx context.Context) ([]byte, error) {
	return dump(ctx, v.c.Storages[0].Machine, v.s.Image(), 0)
}
