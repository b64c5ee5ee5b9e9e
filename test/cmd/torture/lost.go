package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-csi/holdfast/test/ack"
)

// deletion says whose device a fault makes the kernel delete. A volume under
// guard dm does not notice; one under guard kernel is lost then, must say so, and
// must be whole again after the next stage.
type deletion int

const (
	nobodys   deletion = iota
	managed            // of every volume of the managed session
	refused            // the same, on kernels that take Do-Not-Retry for an end (6.10 to 6.15)
	theVictim          // of the round's victim alone
)

// mayLose says whether the faults may delete the device of s, and s has nothing
// but the kernel to guard it.
func (t *campaign) mayLose(s *subject, faults []fault) bool {
	if s.guard != "kernel" {
		return false
	}
	for _, f := range faults {
		switch f.deletes {
		case managed:
			return true
		case refused:
			if t.kernel != "6.1" {
				return true
			}
		case theVictim:
			if s == t.victim {
				return true
			}
		case nobodys:
		}
	}
	return false
}

// The reasons that the driver gives for a volume whose device was deleted, and
// for one whose file system met I/O errors while it was.
const (
	lost   = "Lost"
	failed = "Failed"
)

// settled waits until s serves, or is lost and says so; then it is staged again,
// as a person would have it done by starting the pod again. The kernel may have a
// path again before the last trace of the device is gone: then a file system has
// stopped, and says so, or a writer saw errors and goes on.
func (t *campaign) settled(ctx context.Context, s *subject, since time.Time) error {
	for end := time.Now().Add(resumeTime); ; time.Sleep(50 * time.Millisecond) {
		h, err := s.health(ctx, t.node())
		_, serves := s.log.FirstAfter(since)
		switch {
		case err == nil && h == lost:
			t.restaged++
			return t.restage(ctx, s)
		case err == nil && h == "" && serves && len(s.log.Errors()) == 0:
			return nil
		case err == nil && (h == failed || h == "" && serves):
			t.erred++
			return t.restage(ctx, s)
		case time.Now().After(end):
			return fmt.Errorf("volume %s neither serves nor says that it is lost; its health: %q %v, errors %v", s.Name, h, err, s.log.Errors())
		}
	}
}

// restage ends the pod, stages the volume anew, and finds everything in it that
// was acknowledged.
func (t *campaign) restage(ctx context.Context, s *subject) error {
	if err := s.finish(ctx, t.node()); err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return t.node().UnpublishVolume(ctx, s.Volume) },
		func() error { return t.node().UnstageVolume(ctx, s.Volume) },
		func() error { return t.node().StageVolume(ctx, s.Volume) },
		func() error { return t.node().PublishVolume(ctx, s.Volume, false) },
	} {
		if err := untilDone(step); err != nil {
			return fmt.Errorf("stage the lost volume %s again: %w", s.Name, err)
		}
	}
	image, err := s.fromNode(ctx, t)
	if err != nil {
		return err
	}
	res, err := s.log.Verify(bytes.NewReader(image), s.id)
	if err != nil {
		return err
	}
	t.report.AckedWrites += s.log.Acked()
	t.report.CorruptReads += res.Corrupt
	if res.Corrupt > 0 {
		return fmt.Errorf("volume %s after it was lost and staged again: %d wrong: %v", s.Name, res.Corrupt, res.Details)
	}
	if res.Lost > 0 {
		t.unkept += res.Lost
		fmt.Printf("         %s, under guard kernel, lost %d writes whose fsync had returned: native multipath reports flushes that it never sends (docs/faults.md)\n", s.Name, res.Lost)
	}
	t.writers++
	s.start(ctx, t.node(), t.writers)
	return nil
}

// fromNode reads what the writer writes to through the new stage, whose caches
// are empty.
func (s *subject) fromNode(ctx context.Context, t *campaign) ([]byte, error) {
	if s.FSType != "" {
		b, err := t.node().Get(ctx, s.File())
		return s.padded(b), err
	}
	var image bytes.Buffer
	cmd := t.node().Command(ctx, "dd", "if="+s.File(), "bs=1M", fmt.Sprintf("count=%d", s.blocks()*ack.BlockSize>>20), "iflag=direct", "status=none")
	cmd.Stdout = &image
	if err := cmd.Run(); err != nil {
		return nil, errors.Join(fmt.Errorf("read %s", s.Name), err)
	}
	return image.Bytes(), nil
}
