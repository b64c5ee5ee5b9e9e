package watch

import (
	"errors"
	"path/filepath"
	"time"

	"github.com/holdfast-csi/holdfast/internal/guard"
	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
)

var errNoPath = errors.New("no path to it is live")

// rules are what the watch was told.
type rules struct {
	grace time.Duration // between the word that a volume is another's and the end
	dev   string        // "/dev"
	// cluster says that there is one to be asked whose a volume is.
	cluster bool
}

// decideSession decides about the controllers of a session.
func decideSession(r rules, f facts, m *sessionMemory) []order {
	var out []order
	config := f.session.Config
	if f.finite && !f.live() {
		config.CtrlLossTmo = finiteLoss
	}
	for _, s := range settings(f.controllers, config, f.eager) {
		out = append(out, order{act: set, setting: s})
	}
	switch live := f.live(); {
	case live:
		m.wasLive, m.lostSince, m.dead = true, time.Time{}, nil
	default:
		m.bury(f)
		if m.lostSince.IsZero() {
			m.lostSince = f.now
			if m.wasLive {
				m.outages++
			}
		}
		m.rescans, m.rescanAt = 0, f.now.Add(rescanFirst)
	}
	if r.drops(f, m) {
		m.dropAt = f.now.Add(dropAgain)
		out = append(out, order{act: drop})
	}
	if wanted(f.volumes) && f.moved() && !f.now.Before(m.retireAt) {
		m.retireAt = f.now.Add(retireAgain)
		out = append(out, order{act: retire})
	}
	if !f.missing() {
		m.failures, m.connectAt = 0, time.Time{}
		return out
	}
	if wanted(f.volumes) && !f.now.Before(m.connectAt) {
		most := connectMost
		if f.live() {
			most = connectSpare
		}
		m.connectAt = f.now.Add(backoff(connectFirst, most, m.failures))
		m.failures++
		out = append(out, order{act: connect})
	}
	return out
}

func wanted(vs []Volume) bool {
	for _, v := range vs {
		if !v.Ended {
			return true
		}
	}
	return false
}

// decideVolume decides about one volume of a session.
func decideVolume(r rules, f facts, v Volume, s *sessionMemory, m *volumeMemory) []order {
	if v.Ended {
		m.become(Failing, f.now)
		return endAgain(f, v, m)
	}
	m.ended = false
	if m.well() && f.now.Sub(m.since) >= peace {
		m.feeds, m.feedAt = 0, time.Time{}
	}
	out, state := look(r, f, v, m)
	if state == Serving {
		m.serve(f.now)
		return out
	}
	if m.waitSince.IsZero() {
		m.waitSince = f.now
	}
	if !m.fencedAt.IsZero() {
		state = Fenced
	}
	m.become(state, f.now)
	if len(out) == 0 && f.live() && f.looked && state == Waiting {
		out = s.rescan(f.now)
	}
	return append(out, policy(r, f, v, m)...)
}

// endAgain ends what is on record as ended and was not ended to the last step:
// whoever ended it was killed in between, or failed.
func endAgain(f facts, v Volume, m *volumeMemory) []order {
	t, known := f.tables[v.Table]
	if !known || t.absent || t.unseen || !t.HasTable || m.ended && !t.Queues && !t.Active && !t.Holds && !t.Suspended {
		return nil
	}
	return m.end(f.now, v, Again)
}

// look finds what to do with the volume's device, and what state it is in.
func look(r rules, f facts, v Volume, m *volumeMemory) ([]order, State) {
	t := f.tables[v.Table]
	m.asks = false
	switch {
	case v.Table == "":
		return nil, unguarded(f, v, m)
	case t.unseen:
		return nil, m.last()
	case t.absent && v.Unsettled:
		return nil, Waiting
	case t.absent:
		return nil, Lost
	case !f.live():
		m.feeds, m.feedAt = 0, time.Time{}
		m.forgetOwner()
		return m.hold(f.now, t, v), Waiting
	case !f.looked:
		return nil, m.last()
	}
	ns, err := f.candidate(v)
	var wrong *initiator.IdentityError
	if errors.As(err, &wrong) {
		m.why = wrong.Error()
		return m.hold(f.now, t, v), Refused
	}
	if err != nil {
		return m.hold(f.now, t, v), Waiting
	}
	return found(r, f, v, m, ns)
}

// found decides about a volume whose device is there: whether it is put to use, or has
// to wait for a word on whose it is.
func found(r rules, f facts, v Volume, m *volumeMemory, ns nvmesysfs.Namespace) ([]order, State) {
	t, p := f.tables[v.Table], pathOf(r, ns)
	if m.untidy = !t.Whole(p); !m.untidy {
		return nil, Serving
	}
	state := Waiting
	if t.On(p) && t.Queues && !t.Suspended {
		state = Serving // what is left to do disturbs nobody
	}
	if m.asks = state != Serving && m.contested(r, f, v); m.asks {
		if m.owner == Nobodys {
			state = Detached
		}
		return m.hold(f.now, t, v), state
	}
	if f.now.Before(m.feedAt) {
		return nil, state
	}
	m.feedAt = f.now.Add(backoff(feedFirst, feedMost, m.feeds))
	m.feeds++
	m.holdAt = time.Time{}
	return []order{{act: feed, volume: v, path: p, ro: ns.ReadOnly}}, state
}

// well says whether a volume serves and nothing is left to do about it.
func (m *volumeMemory) well() bool { return m.state == Serving && !m.untidy }

// hold paces the holds of a volume: the loop looks again as soon as one has
// ended, and one that fails, or finds another call at the table, ends at once.
func (m *volumeMemory) hold(now time.Time, t table, v Volume) []order {
	if !t.HasTable || t.Suspended || !t.Queues && v.Finite || t.Queues && t.Holds && !t.Active || now.Before(m.holdAt) {
		return nil
	}
	m.holdAt = now.Add(holdAgain)
	return []order{{act: hold, volume: v}}
}

func pathOf(r rules, ns nvmesysfs.Namespace) guard.Path {
	return guard.Path{Disk: ns.Disk, Node: filepath.Join(r.dev, ns.Disk), Major: ns.Major, Minor: ns.Minor, SizeBytes: ns.SizeBytes}
}

// unguarded is the state of a volume that the kernel alone keeps. The disk that
// was staged is not told from one that came back in its place: that is the next
// stage's business.
func unguarded(f facts, v Volume, m *volumeMemory) State {
	switch {
	case !f.live():
		return Waiting
	case !f.looked:
		return m.last()
	}
	_, err := f.candidate(v)
	var wrong *initiator.IdentityError
	if errors.As(err, &wrong) {
		m.why = wrong.Error()
		return Refused
	}
	if err != nil {
		return Waiting
	}
	return Serving
}

// rescan paces the rescans of a session.
func (s *sessionMemory) rescan(now time.Time) []order {
	if now.Before(s.rescanAt) {
		return nil
	}
	s.rescanAt = now.Add(backoff(rescanFirst, rescanMost, s.rescans))
	s.rescans++
	return []order{{act: rescan}}
}

// policy ends what must end, and asks what has to be known for it.
func policy(r rules, f facts, v Volume, m *volumeMemory) []order {
	if n := f.session.Config.CtrlLossTmo; n > 0 && m.away(f.now) >= time.Duration(n)*time.Second {
		return m.end(f.now, v, Expired)
	}
	if !m.fencedAt.IsZero() && f.now.Sub(m.fencedAt) >= r.grace {
		return m.end(f.now, v, Withdrawn)
	}
	if m.asks && !f.now.Before(m.askAt) || v.Managed && f.now.Sub(m.waitSince) >= askAfter {
		return []order{{act: ask, volume: v}}
	}
	return nil
}

// end paces the attempts to end a volume, which may fail at once.
func (m *volumeMemory) end(now time.Time, v Volume, why Reason) []order {
	if now.Before(m.endAt) {
		return nil
	}
	m.endAt = now.Add(endPause)
	return []order{{act: end, volume: v, why: why}}
}

// settled says whether nothing more is to be done for a volume, if nothing happens.
func (m *volumeMemory) settled(v Volume) bool {
	if v.Ended {
		return v.Table == "" || m.ended
	}
	return m.well()
}

func (m *volumeMemory) become(s State, now time.Time) {
	if m.state != s {
		m.state, m.since = s, now
	}
}

// last is the state that stands until the next full look.
func (m *volumeMemory) last() State {
	if m.state == "" {
		return Waiting
	}
	return m.state
}

func (m *volumeMemory) serve(now time.Time) {
	if m.served && !m.waitSince.IsZero() {
		m.reconnects++
		m.waited += now.Sub(m.waitSince)
	}
	m.become(Serving, now)
	m.served = true
	m.waitSince, m.fencedAt, m.why = time.Time{}, time.Time{}, ""
	m.forgetOwner()
}
