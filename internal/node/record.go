package node

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/internal/filesystem"
	"github.com/holdfast-csi/holdfast/internal/initiator"
)

// Phase is how far a volume's stage has come. It is on disk before the act.
type Phase string

// The phases. Staging and Unstaging may have left anything behind; Flushed
// means that everything written is on the storage host's side, so that only
// taking away is left.
const (
	Staging   Phase = "staging"
	Staged    Phase = "staged"
	Unstaging Phase = "unstaging"
	Flushed   Phase = "flushed"
)

// recordVersion grows when a record can no longer be read by older code.
const recordVersion = 1

// Record is what the node keeps of a volume.
type Record struct {
	Version int
	Phase   Phase
	Stage   StageRequest
	// Began is when the stage was begun: it tells one from another.
	Began time.Time `json:",omitzero"`
	// Disk, Major and Minor name the device that was staged, which is that of the
	// table if there is one: for finding what is left of it, never for finding
	// the volume.
	Disk, Device string
	Major, Minor uint32
	// Found is the identity of the device when it was first staged, with what the
	// request left open: what comes back after an outage has to be that.
	Found initiator.Identity
	// Table is the device-mapper table that guards the volume; "" if the kernel
	// alone does.
	Table string `json:",omitempty"`
	// Ended says why the volume's I/O fails by now instead of waiting.
	Ended Ending `json:",omitempty"`
	// Errors are those that the file system had met before it was mounted.
	Errors int `json:",omitempty"`
	// Targets are the paths at which it is published, with their mode.
	Targets map[string]Target
	// LastTarget is where it was published last: by it people find out whose it is.
	LastTarget string `json:",omitempty"`
}

// Ending is why waiting has ended for a volume. It is on disk before its I/O
// fails, so that nothing puts a path below it again.
type Ending string

// The endings.
const (
	NotEnded  Ending = ""
	Withdrawn Ending = "withdrawn" // the storage host says that the publication has ended
	Expired   Ending = "expired"   // ctrlLossTmo is over
	Abandoned Ending = "abandoned" // a person gave it up
	Shutdown  Ending = "shutdown"  // the machine went down and could not reach it
)

// Target is one published path.
type Target struct{ ReadOnly bool }

// Kind returns the file system kind; "" for a block volume.
func (r Record) Kind() filesystem.Kind { return filesystem.Kind(r.Stage.FSType) }

// Identity is what the volume's device has to be.
func (r Record) Identity() initiator.Identity {
	if r.Found.NQN != "" {
		return r.Found
	}
	return r.Stage.Attachment.Identity
}

func (r Record) nqn() string { return r.Stage.Attachment.Session.NQN }

func newRecord(req StageRequest) Record {
	return Record{Version: recordVersion, Phase: Staging, Stage: req, Began: time.Now().UTC().Round(0), Targets: map[string]Target{}}
}

// sameStage says whether a record already stands for what req asks for. The
// token is left out: it proves, it does not name.
func sameStage(have, want StageRequest) bool {
	return have.StagingPath == want.StagingPath && have.FSType == want.FSType && have.ReadOnly == want.ReadOnly &&
		slices.Equal(have.MountOptions, want.MountOptions) &&
		have.Attachment.Session.NQN == want.Attachment.Session.NQN &&
		have.Attachment.Identity == want.Attachment.Identity
}

// BootID reads the kernel's random ID of this boot.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot ID: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
