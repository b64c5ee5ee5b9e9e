package lan

import (
	"math/rand/v2"
	"sync"
	"time"
)

type direction int

const (
	fromMachine direction = iota
	toMachine
	directions
)

// faults is what is wrong with a port. The zero value is a good port.
type faults struct {
	mu      sync.Mutex
	drop    [directions]bool      // guarded by mu
	unplug  bool                  // guarded by mu
	delay   time.Duration         // guarded by mu
	jitter  time.Duration         // guarded by mu
	loss    float64               // guarded by mu
	rnd     *rand.Rand            // guarded by mu; nil until jitter or loss is asked for
	lastDue [directions]time.Time // guarded by mu; frames of one direction are never reordered
}

// admit decides about one frame: whether it passes, and when.
func (f *faults) admit(dir direction, now time.Time) (due time.Time, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.unplug || f.drop[dir] {
		return time.Time{}, false
	}
	if f.loss > 0 && f.rnd.Float64() < f.loss {
		return time.Time{}, false
	}
	if f.delay <= 0 && f.jitter <= 0 {
		return time.Time{}, true
	}
	wait := f.delay
	if f.jitter > 0 {
		wait += time.Duration((2*f.rnd.Float64() - 1) * float64(f.jitter))
	}
	due = now.Add(max(wait, 0))
	if due.Before(f.lastDue[dir]) {
		due = f.lastDue[dir]
	}
	f.lastDue[dir] = due
	return due, true
}

func (f *faults) set(change func(*faults)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func source(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, seed)) }

// Unplug drops everything. That the machine sees no carrier is the business of whoever emulates its network card.
func (p *Port) Unplug() { p.faults.set(func(f *faults) { f.unplug = true }) }

// Plug ends Unplug.
func (p *Port) Plug() { p.faults.set(func(f *faults) { f.unplug = false }) }

// Unplugged tells whether Unplug holds.
func (p *Port) Unplugged() bool {
	p.faults.mu.Lock()
	defer p.faults.mu.Unlock()
	return p.faults.unplug
}

// Drop loses every frame of both directions without a sign.
func (p *Port) Drop() {
	p.faults.set(func(f *faults) { f.drop = [directions]bool{fromMachine: true, toMachine: true} })
}

// DropFrom loses what the machine sends.
func (p *Port) DropFrom() { p.faults.set(func(f *faults) { f.drop[fromMachine] = true }) }

// DropTo loses what is sent to the machine.
func (p *Port) DropTo() { p.faults.set(func(f *faults) { f.drop[toMachine] = true }) }

// Delay holds every frame of either direction for d, give or take jitter, so a round trip takes 2d longer. The order of
// frames is kept.
func (p *Port) Delay(d, jitter time.Duration) {
	p.faults.set(func(f *faults) {
		f.delay, f.jitter = d, jitter
		if f.rnd == nil {
			f.rnd = source(1)
		}
	})
}

// Loss loses the given share (0 to 1) of the frames of either direction, the same ones for the same seed and traffic.
func (p *Port) Loss(share float64, seed uint64) {
	p.faults.set(func(f *faults) { f.loss, f.rnd = share, source(seed) })
}

// Heal ends all faults. Frames under way keep their delay.
func (p *Port) Heal() {
	p.faults.set(func(f *faults) {
		f.drop, f.unplug = [directions]bool{}, false
		f.delay, f.jitter, f.loss = 0, 0, 0
	})
}
