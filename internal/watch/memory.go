package watch

import (
	"time"

	"github.com/holdfast-csi/holdfast/internal/guard"
)

// State is what the watch makes of a volume.
type State string

// The states.
const (
	// Serving: I/O goes through.
	Serving State = "serving"
	// Waiting: the way to the device is away, I/O waits for it.
	Waiting State = "waiting"
	// Refused: where the volume should be is something else. I/O waits.
	Refused State = "refused"
	// Fenced: the storage host, or for a static volume the cluster, says that this
	// node's right to the volume has ended. I/O waits for the rest of the grace, and
	// then fails.
	Fenced State = "fenced"
	// Detached: the cluster says that this node has the volume no more, and no other
	// has it. I/O waits. Static volumes only.
	Detached State = "detached"
	// Failing: waiting has ended.
	Failing State = "failing"
	// Lost: the kernel deleted the device and nothing guards the volume.
	Lost State = "lost"
)

// sessionMemory and volumeMemory are what the watch remembers between two looks.
type sessionMemory struct {
	wasLive   bool
	lostSince time.Time       // zero while a controller is live
	connectAt time.Time       // not before
	failures  int             // connects in a row that failed
	retireAt  time.Time       // not before
	dead      map[string]bool // controllers that died with the session and are not gone; nil while it is live
	dropAt    time.Time       // not before
	rescanAt  time.Time
	rescans   int
	askAt     time.Time
	outages   int
	connects  int // that succeeded
}

type volumeMemory struct {
	generation uint64
	state      State
	since      time.Time
	served     bool      // since it was staged, or the plugin started
	waitSince  time.Time // of the outage; zero if none
	why        string    // of Refused
	untidy     bool      // the last look at its table found something left to do
	feedAt     time.Time // not before
	feeds      int       // in a row without ten seconds of peace
	holdAt     time.Time // not before
	endAt      time.Time // not before
	ended      bool      // the last step of an end has succeeded since the plugin started
	fencedAt   time.Time // when it was first said to be another's
	asks       bool      // before it is fed it has to be known whose it is
	backAt     time.Time // when it was there again for the first time in this outage; zero if it is not
	askAt      time.Time // not before
	owner      Owner     // the last word since then; "" if there is none
	ownerAt    time.Time // when was asked what that answers
	silentAt   time.Time // when was asked what was first not answered; zero if it is known whose it is
	reconnects int
	waited     time.Duration // of the outages that are over
	swaps      int           // feeds that succeeded
}

// The pace of what is repeated.
const (
	connectFirst = 250 * time.Millisecond
	connectMost  = 500 * time.Millisecond // while nothing of the session is live
	connectSpare = 5 * time.Second        // while another portal serves
	rescanFirst  = 200 * time.Millisecond
	rescanMost   = 5 * time.Second
	feedFirst    = 100 * time.Millisecond
	feedMost     = 5 * time.Second
	holdAgain    = 200 * time.Millisecond
	endPause     = time.Second
	retireAgain  = time.Second
	// peace is how long a volume must serve before a failed path counts as the
	// first again. A device that answers and fails its I/O is fed ever more slowly.
	peace    = 10 * time.Second
	askAfter = 2 * time.Second
	askEvery = 5 * time.Second
)

// backoff doubles first n times, up to most.
func backoff(first, most time.Duration, n int) time.Duration {
	for range n {
		if first *= 2; first >= most {
			return most
		}
	}
	return first
}

// order is one thing to be done.
type order struct {
	act     act
	setting setting
	volume  Volume     // of feed, hold, ask and end
	path    guard.Path // of feed
	ro      bool
	why     Reason // of end
}

type act string

const (
	set     act = "set"
	connect act = "connect"
	retire  act = "retire"
	drop    act = "drop"
	rescan  act = "rescan"
	feed    act = "feed"
	hold    act = "hold"
	ask     act = "ask"
	end     act = "end"
)
