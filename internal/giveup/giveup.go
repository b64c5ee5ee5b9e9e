package giveup

import (
	"context"
	"log/slog"
	"regexp"
	"time"

	"github.com/holdfast-csi/holdfast/internal/pause"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Annotation of a PersistentVolume gives the volume up on the node that waits for
// it. Its value has to be the volume's handle (spec.csi.volumeHandle): that is the
// one question that is asked before anything is thrown away. It has to be put there
// during the outage: one that was forgotten there throws nothing away.
const Annotation = volume.DriverName + "/abandon"

// Waiting is a volume in an outage.
type Waiting struct {
	VolumeID, PersistentVolume string
	Since                      time.Time // when the outage began
}

// Options are what a loop needs.
type Options struct {
	// Waiting returns the volumes to ask about.
	Waiting func() []Waiting
	// Annotations returns those of a PersistentVolume.
	Annotations func(ctx context.Context, persistentVolume string) (map[string]string, error)
	// Abandon gives a volume up.
	Abandon func(ctx context.Context, volumeID string) error
	Log     *slog.Logger
}

// every is how long after one round of questions the next begins: giving up is not
// urgent, and an outage of a storage host makes every node ask. gap is between two
// questions of a round.
const (
	every = 10 * time.Second
	gap   = 100 * time.Millisecond
)

// Loop asks until its context ends.
type Loop struct {
	Options
	known map[string]outage // by volume
}

// outage is what is known of the outage of a volume.
type outage struct {
	since time.Time
	said  string // last
	// without says that the annotation was once not there, or had another value.
	without bool
}

// New returns a loop that has asked nothing yet.
func New(o Options) *Loop { return &Loop{Options: o, known: map[string]outage{}} }

// Run asks until ctx ends.
func (l *Loop) Run(ctx context.Context) {
	for pause.For(ctx, every) {
		l.round(ctx)
	}
}

func (l *Loop) round(ctx context.Context) {
	list := l.Waiting()
	still := map[string]outage{}
	for _, w := range list {
		still[w.VolumeID] = outage{since: w.Since}
		if before := l.known[w.VolumeID]; before.since.Equal(w.Since) {
			still[w.VolumeID] = before
		}
	}
	l.known = still
	for _, w := range list {
		l.ask(ctx, w)
		if !pause.For(ctx, gap) {
			return
		}
	}
}

func (l *Loop) ask(ctx context.Context, w Waiting) {
	log := l.Log.With("volume", w.VolumeID, "persistentVolume", w.PersistentVolume)
	all, err := l.Annotations(ctx, w.PersistentVolume)
	if err != nil {
		l.once(w, "error "+err.Error(), func() {
			log.Warn("whether the volume is to be given up cannot be read; it goes on waiting", "err", err)
		})
		return
	}
	value, there := all[Annotation]
	o := l.known[w.VolumeID]
	o.without = o.without || value != w.VolumeID
	l.known[w.VolumeID] = o
	switch {
	case !there:
		l.once(w, "", func() {})
	case value != w.VolumeID:
		l.once(w, "value "+value, func() {
			log.Warn("the annotation does not give this volume up: its value has to be the volume's handle", "annotation", Annotation, "value", value)
		})
	case !o.without:
		l.once(w, "old", func() {
			log.Warn("the annotation does not give this volume up: it was there already when the node first looked in this outage; take it away and, half a minute later, put it there again", "annotation", Annotation)
		})
	default:
		log.Warn("the volume is given up: its PersistentVolume says so", "annotation", Annotation)
		if err := l.Abandon(ctx, w.VolumeID); err != nil {
			log.Error("the volume could not be given up; it is tried again", "err", err)
		}
	}
}

// once says what was not said of the volume last.
func (l *Loop) once(w Waiting, what string, say func()) {
	if o := l.known[w.VolumeID]; o.said != what {
		o.said = what
		l.known[w.VolumeID] = o
		say()
	}
}

// Paths of the kubelet have the name of the PersistentVolume in them (kubelet,
// pkg/volume/csi: csi_mounter.go and csi_block.go).
var kubeletPath = regexp.MustCompile(`/volumes/kubernetes\.io~csi/([^/]+)/mount$|/volumeDevices/(?:publish|staging)/([^/]+)(?:/|$)`)

// PersistentVolumeOf finds the name of the PersistentVolume in the paths at which a
// volume is staged and published; "" if none is the kubelet's, or they disagree.
func PersistentVolumeOf(paths []string) string {
	name := ""
	for _, p := range paths {
		m := kubeletPath.FindStringSubmatch(p)
		if m == nil {
			continue
		}
		found := m[1] + m[2] // one of them is empty
		if name != "" && name != found {
			return ""
		}
		name = found
	}
	return name
}
