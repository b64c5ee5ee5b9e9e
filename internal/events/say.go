package events

import (
	"fmt"
	"time"
)

// Event is what is told, of a claim or of the node.
type Event struct {
	Warning bool
	Reason  string // one word, as Kubernetes has them
	Message string
}

// State is what matters to people of a volume or a session.
type State string

// Fine needs no words, but for the end of an outage that was told. Waits is what
// goes on by itself. The others are those of the watch, of a volume.
const (
	Fine      State = "fine"
	Waits     State = "waits"
	Refused   State = "refused"
	Withdrawn State = "withdrawn"
	Failing   State = "failing"
	Lost      State = "lost"
	// Unusable is a volume that is not mounted for what it holds.
	Unusable State = "unusable"
	// Detached is a static volume that waits because it is not this node's any more.
	Detached State = "detached"
)

// Subject is a volume or a session as it is now.
type Subject struct {
	ID    string // of the volume, or the NQN of the session
	State State
	// Since is when it began to wait, or to be fine again; zero if that is not known.
	Since time.Time
	// Why explains Refused and Unusable.
	Why string
	// PersistentVolume is empty for a session, and for a volume whose is not known.
	PersistentVolume string
	// Volumes is how many a session serves.
	Volumes int
}

// told is what was last told of a subject.
type told struct {
	state State
	since time.Time // of the outage
	at    time.Time
	count int // events in a row of which each came soon after the one before

	// retry is when an event that could not be written may be tried again, after so
	// many attempts.
	retry    time.Time
	attempts int
}

const (
	// settleTime is how long an outage lasts before it is told: a target that
	// restarts is back by then, and nobody could do anything yet.
	settleTime = 10 * time.Second
	// soon and often: what goes on and off is told often times, and then once in a
	// while only.
	soon  = 30 * time.Minute
	often = 4
	// while is how long the rest is silent then.
	while = 10 * time.Minute
)

// next decides whether something is to be told of a subject. It is a pure function.
func next(before told, s Subject, now time.Time) (Event, bool) {
	switch {
	case now.Before(before.retry):
		return Event{}, false
	case s.State == before.state && (s.State != Waits || s.Since.Equal(before.since)):
		return Event{}, false
	case s.State == Waits && now.Sub(s.Since) < settleTime:
		return Event{}, false
	case s.State == Fine && before.state == "":
		return Event{}, false
	case before.count >= often && now.Sub(before.at) < while && quiet(s.State):
		return Event{}, false
	}
	return words(before, s), true
}

// failed is what is known of a subject whose event could not be written. The pauses
// double, to a minute: whoever is asked may be in trouble himself.
func failed(before told, now time.Time) told {
	const longest = 6 // doublings of a second that stay below a minute
	before.attempts++
	before.retry = now.Add(min(time.Second<<min(before.attempts, longest), time.Minute))
	return before
}

// quiet are the states of a volume that goes on and off; the others are told always.
func quiet(s State) bool { return s == Fine || s == Waits }

// after is what was told once an event is out.
func after(before told, s Subject, now time.Time) told {
	out := told{state: s.State, since: s.Since, at: now, count: 1}
	if !before.at.IsZero() && now.Sub(before.at) < soon {
		out.count = before.count + 1
	}
	return out
}

// fineAfter: only what waited has lost nothing. After an end the volume was staged
// anew.
func fineAfter(state State) string {
	switch state {
	case Waits, Refused, Detached:
		return "The volume serves its pod again. Nothing was lost."
	case Unusable:
		return "The volume is mounted now."
	default:
		return "The volume serves pods again; it was staged anew."
	}
}

func words(before told, s Subject) Event {
	if s.Volumes > 0 {
		return sessionWords(before, s)
	}
	switch s.State {
	case Fine:
		return Event{Reason: "VolumeResumed", Message: fineAfter(before.state) + lasted(before, s)}
	case Waits:
		return Event{Warning: true, Reason: "VolumeWaiting", Message: fmt.Sprintf(
			"The volume's storage host has not answered since %s. Reads and writes wait, and go on by themselves when it is back; there is nothing to be done to the pod.", clock(s.Since))}
	case Refused:
		return Event{Warning: true, Reason: "VolumeRefused", Message: fmt.Sprintf(
			"Where the volume should be, the storage host shows something else (%s). It is not used; reads and writes wait for the right one. Look at the storage host.", s.Why)}
	case Unusable:
		return Event{Warning: true, Reason: "VolumeNotMounted", Message: fmt.Sprintf(
			"The volume is not mounted and nothing is written to it: %s. Its data is as it was.", s.Why)}
	case Withdrawn:
		return Event{Warning: true, Reason: "VolumeWithdrawn", Message: "The volume was taken from this node, because it was moved or detached. Reads and writes of pods here will fail in a moment; what they wrote and never synced is lost, and nothing of it reaches the volume."}
	case Detached:
		return Event{Warning: true, Reason: "VolumeDetached", Message: "After an outage the volume is there again, but it is not attached to this node any more. So that nothing old is written to it, reads and writes of pods here wait; they fail as soon as it is attached elsewhere."}
	case Lost:
		return Event{Warning: true, Reason: "VolumeLost", Message: "The kernel deleted the volume's device and no guard was over it (guard: kernel). Its pod has to be started again; what was written and never synced is lost."}
	case Failing:
		return Event{Warning: true, Reason: "VolumeFailing", Message: "The waiting of the volume was ended, by its limit (ctrlLossTmo) or by hand: reads and writes fail. What was written and never synced is lost. Its pod has to be started again."}
	}
	return Event{}
}

func sessionWords(before told, s Subject) Event {
	if s.State == Fine {
		return Event{Reason: "StorageReconnected", Message: fmt.Sprintf("The connection to %s is back.%s", s.ID, lasted(before, s))}
	}
	return Event{Warning: true, Reason: "StorageDisconnected", Message: fmt.Sprintf(
		"The connection to %s is lost since %s; volumes on this node that wait for it: %d. It is made again as soon as the storage host answers.", s.ID, clock(s.Since), s.Volumes)}
}

// lasted is how long an outage was, if one was told and its end is known.
func lasted(before told, s Subject) string {
	if before.since.IsZero() || !s.Since.After(before.since) {
		return ""
	}
	return fmt.Sprintf(" The outage lasted %s.", s.Since.Sub(before.since).Round(time.Second))
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05 UTC") }
