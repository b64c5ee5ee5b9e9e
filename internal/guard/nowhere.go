package guard

import (
	"errors"
	"strings"

	"github.com/holdfast-csi/holdfast/internal/dm"
)

// prepare loads what waits beside what a leg leads to: when the disk is lost there
// may be no memory for it.
func (g *Guards) prepare(c *change, name string) error {
	g.aside.Lock()
	defer g.aside.Unlock()
	d, err := g.makeNowhere()
	if err != nil {
		return err
	}
	return g.dm.Load(name, waitTable(d.Number(), c.path.sectors(), c.readOnly))
}

// makeNowhere makes the device nowhere, or finds it. To be called with aside held.
func (g *Guards) makeNowhere() (dm.Device, error) {
	d, err := g.dm.Get(nowhere)
	if errors.Is(err, dm.ErrNotFound) {
		d, err = g.dm.Create(nowhere, uuidOf(nowhere))
	}
	if err != nil || d.HasTable && !d.Suspended {
		return d, err
	}
	if err := g.dm.Load(nowhere, errorTable(nowhereSectors, false)); err != nil {
		return d, err
	}
	return g.dm.Resume(nowhere, dm.NoScan)
}

// removeNowhere removes the device nowhere with the last table. One that is still
// open stays for the next removal.
func (g *Guards) removeNowhere() error {
	g.aside.Lock()
	defer g.aside.Unlock()
	list, err := g.dm.List()
	if err != nil {
		return err
	}
	there := false
	for _, e := range list {
		switch {
		case e.Name == nowhere:
			there = true
		case strings.HasPrefix(e.Name, namePrefix):
			return nil
		}
	}
	if !there {
		return nil
	}
	if err := g.dm.Remove(nowhere); !errors.Is(err, dm.ErrBusy) && !errors.Is(err, dm.ErrNotFound) {
		return err
	}
	return nil
}
