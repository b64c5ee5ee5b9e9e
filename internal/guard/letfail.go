package guard

import (
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-csi/holdfast/internal/dm"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// letFailTime is how long the bare device stands in the place of the table.
const letFailTime = time.Second

// LetFail puts the bare device in the place of the table for a second, so that
// I/O which the device itself refuses fails as on any disk, instead of waiting for
// a path that is there: to the multipath target most errors of a disk look like
// that of a path (blk_path_error, blk_types.h). What the device does not refuse
// goes through. In that second nothing is held back if the path is lost, so it is
// for a device that has answered and refused for long. A process that is killed in
// it leaves the bare device, and the next Feed ends that.
func (g *Guards) LetFail(name string, p Path, readOnly bool, proof Proof) (err error) {
	release, ok := g.tryHold(name)
	if !ok {
		return fmt.Errorf("guard %s: %w", name, volume.ErrBusy)
	}
	defer release()
	if err := g.expose(name, p, readOnly, proof); err != nil {
		return err
	}
	time.Sleep(letFailTime)
	return g.feed(name, p, readOnly, proof)
}

// expose is the first half, with the device held open as in feed.
func (g *Guards) expose(name string, p Path, readOnly bool, proof Proof) (err error) {
	f, err := g.open(p)
	if err != nil {
		return fmt.Errorf("guard %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := proof(); err != nil {
		return fmt.Errorf("guard %s: %w", name, err)
	}
	if err := g.dm.Load(name, bareTable(p, readOnly)); err != nil {
		return fmt.Errorf("guard %s: %w", name, err)
	}
	if err := proof(); err != nil {
		return errors.Join(fmt.Errorf("guard %s: %w", name, err), g.dm.Clear(name))
	}
	if err := g.dm.Suspend(name); err != nil {
		return fmt.Errorf("guard %s: %w", name, err)
	}
	if _, err := g.dm.Resume(name, dm.NoScan); err != nil {
		return fmt.Errorf("guard %s: %w", name, err)
	}
	return nil
}

// bare is the state of a table that is the bare device.
func (g *Guards) bare(name string, s State) (State, error) {
	_, table, err := g.dm.Table(name)
	if err != nil {
		return State{}, err
	}
	s.Bare, s.Active = true, true
	s.Path, err = parseBare(table.Text)
	return s, err
}
