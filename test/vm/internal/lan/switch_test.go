package lan

import (
	"bytes"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

var (
	macA      = address{0x52, 0x54, 0, 0, 0, 0xa}
	macB      = address{0x52, 0x54, 0, 0, 0, 0xb}
	macC      = address{0x52, 0x54, 0, 0, 0, 0xc}
	broadcast = address{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
)

// machine is what QEMU is to a port: it sends frames, and collects those it gets with the time at which it got them.
type machine struct {
	conn     net.Conn
	received chan arrival
}

type arrival struct {
	payload string
	at      time.Time
}

func attach(p *Port) *machine {
	ours, theirs := net.Pipe()
	m := &machine{conn: theirs, received: make(chan arrival, 2*queueLen)}
	p.Attach(ours)
	go func() {
		defer close(m.received)
		for {
			frame, err := readFrame(theirs)
			if err != nil {
				return
			}
			m.received <- arrival{string(frame[minFrame:]), time.Now()}
		}
	}()
	return m
}

func (m *machine) send(t *testing.T, to, from address, payload string) {
	t.Helper()
	if err := writeFrame(m.conn, append(append(to[:], from[:]...), payload...)); err != nil {
		t.Fatal(err)
	}
}

// got returns the payloads that have arrived when nothing moves any more.
func (m *machine) got() []string {
	synctest.Wait()
	var all []string
	for {
		select {
		case a := <-m.received:
			all = append(all, a.payload)
		default:
			return all
		}
	}
}

func expect(t *testing.T, m *machine, want ...string) {
	t.Helper()
	got := m.got()
	if len(got) != len(want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

// inNetwork runs a test with a switch and three machines, in a bubble with its own clock.
func inNetwork(t *testing.T, test func(t *testing.T, ports [3]*Port, a, b, c *machine)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		sw := New()
		ports := [3]*Port{sw.AddPort(), sw.AddPort(), sw.AddPort()}
		machines := [3]*machine{attach(ports[0]), attach(ports[1]), attach(ports[2])}
		test(t, ports, machines[0], machines[1], machines[2])
		for _, p := range ports {
			p.Detach()
		}
	})
}

func TestLearning(t *testing.T) {
	inNetwork(t, func(t *testing.T, ports [3]*Port, a, b, c *machine) {
		a.send(t, macB, macA, "to an address not seen yet")
		expect(t, b, "to an address not seen yet")
		expect(t, c, "to an address not seen yet")
		expect(t, a)
		b.send(t, macA, macB, "reply")
		expect(t, a, "reply")
		expect(t, c)
		a.send(t, broadcast, macA, "to all")
		expect(t, b, "to all")
		expect(t, c, "to all")
		a.send(t, macA, macA, "to oneself")
		expect(t, a)
		expect(t, b)
		// An address that moves is found at its new place.
		c.send(t, broadcast, macB, "moved")
		expect(t, a, "moved")
		expect(t, b, "moved")
		a.send(t, macB, macA, "follow")
		expect(t, c, "follow")
		expect(t, b)
		// Too short to have addresses.
		if err := writeFrame(a.conn, []byte("short")); err != nil {
			t.Fatal(err)
		}
		expect(t, b)
	})
}

func TestReattach(t *testing.T) {
	inNetwork(t, func(t *testing.T, ports [3]*Port, a, b, _ *machine) {
		b.send(t, broadcast, macB, "here I am")
		expect(t, a, "here I am")
		ports[1].Drop()
		ports[1].Detach()
		a.send(t, macB, macA, "to a machine without power")
		again := attach(ports[1])
		a.send(t, macB, macA, "through a fault that outlived the power cut")
		expect(t, again)
		ports[1].Heal()
		a.send(t, macB, macA, "after the power cut")
		expect(t, again, "after the power cut")
	})
}

func TestDrops(t *testing.T) {
	for name, test := range map[string]struct {
		set      func(*Port)
		toB, toA bool // what still arrives, with the fault at A
	}{
		"none":      {func(*Port) {}, true, true},
		"unplug":    {(*Port).Unplug, false, false},
		"drop":      {(*Port).Drop, false, false},
		"drop from": {(*Port).DropFrom, false, true},
		"drop to":   {(*Port).DropTo, true, false},
		"loss":      {func(p *Port) { p.Loss(1, 1) }, false, false},
		"plugged":   {func(p *Port) { p.Unplug(); p.Plug() }, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			inNetwork(t, func(t *testing.T, ports [3]*Port, a, b, c *machine) {
				test.set(ports[0])
				for range 2 { // the second time with all faults healed
					a.send(t, broadcast, macA, "from A")
					if got := b.got(); (len(got) == 1) != test.toB {
						t.Errorf("B got %q, want it to get a frame: %v", got, test.toB)
					}
					b.send(t, broadcast, macB, "from B")
					if got := a.got(); (len(got) == 1) != test.toA {
						t.Errorf("A got %q, want it to get a frame: %v", got, test.toA)
					}
					b.send(t, macC, macB, "past A")
					if got := c.got(); len(got) < 2 || got[len(got)-1] != "past A" {
						t.Errorf("C got %q", got)
					}
					a.got()
					ports[0].Heal()
					test.toA, test.toB = true, true
				}
			})
		})
	}
}

func TestDelay(t *testing.T) {
	inNetwork(t, func(t *testing.T, ports [3]*Port, a, b, _ *machine) {
		const delay, jitter = 100 * time.Millisecond, 20 * time.Millisecond
		ports[0].Delay(delay, jitter)
		start := time.Now()
		for i := range 50 {
			a.send(t, macB, macA, string(rune('A'+i)))
			b.send(t, macA, macB, string(rune('A'+i)))
		}
		time.Sleep(time.Second) // of the bubble's clock
		synctest.Wait()
		for name, m := range map[string]*machine{"from": b, "to": a} {
			for i := range 50 {
				got := <-m.received
				if took := got.at.Sub(start); took < delay-jitter || took > delay+jitter {
					t.Errorf("%s: frame %d took %s", name, i, took)
				}
				if got.payload != string(rune('A'+i)) {
					t.Errorf("%s: frame %q in place %d", name, got.payload, i)
				}
			}
		}
	})
}

func TestLossIsRepeatable(t *testing.T) {
	pattern := func(seed uint64) string {
		var f faults
		p := Port{}
		p.Loss(0.3, seed)
		f.loss, f.rnd = p.faults.loss, p.faults.rnd
		var b bytes.Buffer
		for range 1000 {
			if _, ok := f.admit(toMachine, time.Time{}); ok {
				b.WriteByte('.')
			} else {
				b.WriteByte('x')
			}
		}
		return b.String()
	}
	if first, again := pattern(1), pattern(1); first != again || first == pattern(2) {
		t.Error("loss does not follow from the seed")
	}
	if lost := bytes.Count([]byte(pattern(1)), []byte("x")); lost < 250 || lost > 350 {
		t.Errorf("%d of 1000 lost at 30 %%", lost)
	}
}

// TestStuckReceiver proves that a machine that reads nothing holds up nobody else.
func TestStuckReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := New()
		ports := [3]*Port{sw.AddPort(), sw.AddPort(), sw.AddPort()}
		a, b := attach(ports[0]), attach(ports[1])
		ours, theirs := net.Pipe() // nobody reads theirs
		defer theirs.Close()
		ports[2].Attach(ours)
		const frames = queueLen + 100
		for range frames {
			a.send(t, broadcast, macA, "x")
			synctest.Wait()
		}
		if got := b.got(); len(got) != frames {
			t.Errorf("the other machine got %d of %d frames", len(got), frames)
		}
		for _, p := range ports {
			p.Detach()
		}
	})
}

func TestOutOfStep(t *testing.T) {
	if _, err := readFrame(bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff, 0})); err == nil {
		t.Error("accepted a frame of 4 GiB")
	}
}
