package node

import (
	"context"
	"fmt"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

type statusAnswer struct {
	status volume.PublicationStatus
	err    error
}

// askAhead asks the agent while the session is being made, because both take
// a round trip or more. A static volume has no agent and a block volume has no
// question: their channel is nil.
func (n *Node) askAhead(ctx context.Context, stage StageRequest) <-chan statusAnswer {
	at := stage.Attachment
	if at.Managed == nil || stage.FSType == "" {
		return nil
	}
	ch := make(chan statusAnswer, 1)
	go func() {
		agent, err := n.Authorities(at.Managed.Host)
		if err != nil {
			ch <- statusAnswer{err: err}
			return
		}
		st, err := agent.Status(ctx, at.Managed.Ref)
		ch <- statusAnswer{st, err}
	}()
	return ch
}

// inspect decides what has to be done to device before it is mounted, or that it
// must not be. Nothing is written.
func (n *Node) inspect(ctx context.Context, rec Record, device string, size int64, status <-chan statusAnswer) (action, error) {
	facts, err := n.facts(ctx, rec, device, size, status)
	if err != nil {
		return 0, err
	}
	act, err := plan(facts)
	if err != nil || act != formatZeroed {
		return act, err
	}
	zero, err := n.Disk.AllZero(ctx, device, size)
	if err != nil {
		return 0, fmt.Errorf("cannot read all of %s: %w (%w)", device, volume.ErrUnavailable, err)
	}
	if !zero {
		return 0, fmt.Errorf("%s holds no file system and is not all zero: it is not formatted: %w", device, volume.ErrPrecondition)
	}
	return act, nil
}

// prepare leaves a file system of the wanted kind on the record's device.
func (n *Node) prepare(ctx context.Context, rec Record, act action) error {
	switch act {
	case mountIt:
		return nil
	case checkIt:
		return n.Disk.Check(ctx, rec.Device, rec.Kind())
	case formatZeroed: // at once: that every byte is zero grows old
		return n.makeFileSystem(ctx, rec)
	case formatBlank:
	}
	release, err := n.formats.take(ctx, rec.Stage.Attachment.Session.NQN)
	if err != nil {
		return err
	}
	defer release()
	return n.formatManaged(ctx, rec)
}

func (n *Node) facts(ctx context.Context, rec Record, device string, size int64, status <-chan statusAnswer) (formatFacts, error) {
	at := rec.Stage.Attachment
	f := formatFacts{want: rec.Kind(), readOnly: rec.Stage.ReadOnly, managed: at.Managed != nil, mayFormatZeroed: at.FormatZeroed, size: size}
	if status != nil {
		a := <-status
		if a.err != nil {
			return f, fmt.Errorf("ask storage host %s about the volume: %w", at.Managed.Host, a.err)
		}
		f.status = a.status
	}
	var err error
	f.content, err = n.Disk.Probe(ctx, device, size)
	if err != nil {
		// Not readable is not blank, and it may pass.
		return f, fmt.Errorf("cannot read %s, so nothing is known of its content and nothing is written: %w (%w)", device, volume.ErrUnavailable, err)
	}
	return f, nil
}

// formatFacts is all that is known when it is decided whether to format.
type formatFacts struct {
	want            filesystem.Kind
	readOnly        bool
	managed         bool
	mayFormatZeroed bool
	size            int64
	status          volume.PublicationStatus // managed volumes
	content         filesystem.Content
}

type action int

const (
	mountIt action = iota
	checkIt
	formatBlank  // managed, with the agent's word and record
	formatZeroed // static, after every byte was read as zero
)

// plan decides. Only two ways lead to mkfs of a managed volume: the agent has
// a format on record that was never finished, and then the volume was never
// mounted; or the pool has not one block of it and the device reads as zeros.
func plan(f formatFacts) (action, error) {
	if f.status.Ended {
		return 0, fmt.Errorf("this publication has been withdrawn: %w", volume.ErrEnded)
	}
	wantsFormat := f.status.Formatting || f.content.Kind == filesystem.Blank
	if !wantsFormat {
		return existing(f)
	}
	switch {
	case f.readOnly:
		return 0, fmt.Errorf("the volume holds no file system and is asked for read-only: %w", volume.ErrPrecondition)
	case !f.managed && !f.mayFormatZeroed:
		return 0, fmt.Errorf("the volume holds no file system, and a static volume is never formatted unless its attribute formatIfZero is \"true\": %w", volume.ErrPrecondition)
	case !f.managed:
		return formatZeroed, nil
	case f.status.Formatting, f.status.Blank:
		return formatBlank, nil
	default:
		return 0, fmt.Errorf("no %s file system is found, both ends read as zeros, but the storage host holds data of this volume: it is neither blank nor readable, and nothing is written: %w", f.want, volume.ErrPrecondition)
	}
}

// existing decides about a device that holds something.
func existing(f formatFacts) (action, error) {
	c := f.content
	switch {
	case c.Kind != f.want:
		return 0, fmt.Errorf("the volume holds %s and fsType is %s: it is not formatted, because nothing that holds data ever is: %w", c.Detail, f.want, volume.ErrPrecondition)
	case c.DeclaredBytes > f.size:
		return 0, fmt.Errorf("the %s file system says it has %d bytes and the device has %d: it is cut off: %w", c.Kind, c.DeclaredBytes, f.size, volume.ErrPrecondition)
	case c.NeedsCheck && !f.readOnly:
		return checkIt, nil
	default:
		return mountIt, nil
	}
}

// formatManaged: permission on the agent's disk, mkfs, flush, permission gone,
// in this order, and never a mount before the last.
func (n *Node) formatManaged(ctx context.Context, rec Record) error {
	m := rec.Stage.Attachment.Managed
	agent, err := n.Authorities(m.Host)
	if err != nil {
		return err
	}
	if err := agent.BeginFormat(ctx, m.Ref); err != nil {
		return fmt.Errorf("permission to format from storage host %s: %w", m.Host, err)
	}
	if err := n.makeFileSystem(ctx, rec); err != nil {
		return err
	}
	if err := agent.EndFormat(ctx, m.Ref); err != nil {
		return fmt.Errorf("tell storage host %s that the format is done: %w", m.Host, err)
	}
	return nil
}

// makeFileSystem wraps every failure as uncertain: the next call formats again
// or finds out why it cannot.
func (n *Node) makeFileSystem(ctx context.Context, rec Record) error {
	n.Log.Info("formatting a volume that was never written", "volume", rec.Stage.VolumeID, "fsType", rec.Stage.FSType, "disk", rec.Disk)
	options, err := filesystem.ParseFormatOptions(rec.Kind(), rec.Stage.FormatOptions)
	if err != nil {
		return err
	}
	if err := n.Disk.Format(ctx, rec.Device, rec.Kind(), options); err != nil {
		return fmt.Errorf("%w (%w)", volume.ErrPending, err)
	}
	if err := n.bounded.Do(ctx, "flush "+rec.Device, func() error { return n.Flusher.FlushDevice(rec.Device) }); err != nil {
		return fmt.Errorf("%w (%w)", volume.ErrPending, err)
	}
	return nil
}
