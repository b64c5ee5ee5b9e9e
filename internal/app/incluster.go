package app

import (
	"context"
	"errors"
	"log/slog"

	"github.com/holdfast-csi/holdfast/internal/events"
	"github.com/holdfast-csi/holdfast/internal/kube"
	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/internal/watch"
)

// speakToCluster heeds annotations and writes events until ctx ends. Outside of a
// cluster there is nobody to speak to, and without the rights everything else works.
func speakToCluster(ctx context.Context, op operator, nodeName string, log *slog.Logger) {
	client, err := kube.InCluster()
	if errors.Is(err, kube.ErrNotInCluster) {
		return
	}
	if err != nil {
		log.Warn("no events are written, and volumes can be given up on this node only: the API server cannot be asked", "err", err)
		return
	}
	heedAnnotations(ctx, op, client, log)
	n := narrator{client, nodeName}
	go events.New(events.Options{Subjects: op.subjects, Tell: n.tell, Log: log.With("component", "events")}).Run(ctx)
}

// narrator writes events of this node.
type narrator struct {
	client *kube.Client
	node   string
}

func (n narrator) tell(ctx context.Context, persistentVolume string, e events.Event) error {
	about := kube.Node(n.node)
	if persistentVolume != "" {
		claim, err := n.client.Claim(ctx, persistentVolume)
		if errors.Is(err, volume.ErrNotFound) {
			return nil // nobody is there to be told
		}
		if err != nil {
			return err
		}
		about = claim
	}
	return n.client.Write(ctx, kube.Event{About: about, Warning: e.Warning, Reason: e.Reason, Message: e.Message, From: volume.DriverName, Host: n.node})
}

// subjects are the volumes of pods and the sessions, as they are now.
func (o operator) subjects() []events.Subject {
	var out []events.Subject
	for _, r := range o.flow.Records() {
		w, known := o.watch.Report(r.Stage.VolumeID)
		pv := persistentVolume(r)
		if !known || pv == "" || r.Phase != node.Staged || r.Ended == node.Shutdown {
			continue
		}
		s := subject(r.Stage.VolumeID, w, r.Ended)
		s.PersistentVolume = pv
		out = append(out, s)
	}
	volumes := o.sessionVolumes()
	for _, l := range o.watch.Links() {
		if volumes[l.NQN] > 0 {
			out = append(out, session(l, volumes[l.NQN]))
		}
	}
	return out
}

// subject is a pure function.
func subject(id string, w watch.Report, ended node.Ending) events.Subject {
	s := events.Subject{ID: id, Why: w.Why, State: events.Fine}
	if ended == node.Withdrawn {
		s.State = events.Withdrawn
		return s
	}
	switch w.State {
	case watch.Serving:
		s.Since = w.Since
	case watch.Waiting:
		if !w.WaitSince.IsZero() {
			s.State, s.Since = events.Waits, w.WaitSince
		}
	case watch.Refused:
		s.State = events.Refused
	case watch.Fenced:
		s.State = events.Withdrawn
	case watch.Failing:
		s.State = events.Failing
	case watch.Lost:
		s.State = events.Lost
	}
	return s
}

func session(l watch.Link, volumes int) events.Subject {
	s := events.Subject{ID: l.NQN, State: events.Fine, Volumes: volumes}
	if !l.Live && !l.LostSince.IsZero() {
		s.State, s.Since = events.Waits, l.LostSince
	}
	return s
}
