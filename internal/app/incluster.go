package app

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/holdfast-csi/holdfast/internal/attached"
	"github.com/holdfast-csi/holdfast/internal/events"
	"github.com/holdfast-csi/holdfast/internal/kube"
	"github.com/holdfast-csi/holdfast/internal/node"
	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/internal/watch"
)

// inCluster is what a node plugin in a pod has of the cluster; nil outside of one.
type inCluster struct {
	client *kube.Client
	node   string         // its name in Kubernetes
	book   *attached.Book // nil if what it knows cannot be kept
	log    *slog.Logger
}

// findCluster returns nil where there is nobody to speak to; everything else works
// without.
func findCluster(nodeName, runDir string, log *slog.Logger) *inCluster {
	client, err := kube.InCluster()
	if errors.Is(err, kube.ErrNotInCluster) {
		return nil
	}
	if err != nil {
		log.Warn("no events are written, volumes can be given up on this node only, and nobody is asked whose static volumes are: the API server cannot be asked", "err", err)
		return nil
	}
	c := &inCluster{client: client, node: nodeName, log: log}
	if c.book, err = openBook(client, nodeName, runDir, log); err != nil {
		log.Warn("nobody is asked whose static volumes are", "err", err)
	}
	return c
}

func openBook(client *kube.Client, nodeName, runDir string, log *slog.Logger) (*attached.Book, error) {
	boot, err := node.BootID()
	if err != nil {
		return nil, err
	}
	return attached.New(attached.Options{
		Cluster: client, Node: nodeName, Dir: filepath.Join(node.BootDir(runDir, boot), "attached"), Log: log.With("component", "attached"),
	})
}

// owners answers whose volumes are.
func (c *inCluster) owners() watch.Cluster {
	if c == nil || c.book == nil {
		return nil // which is not the same as a book that is nil
	}
	return c.book
}

// speak heeds annotations, writes events and learns what is attached, until ctx ends.
func (c *inCluster) speak(ctx context.Context, op operator) {
	if c == nil {
		return
	}
	heedAnnotations(ctx, op, c.client, c.log)
	n := narrator{c.client, c.node}
	go events.New(events.Options{Subjects: op.subjects, Tell: n.tell, Log: c.log.With("component", "events")}).Run(ctx)
	if c.book != nil {
		go c.book.Run(ctx, op.static)
	}
}

// static are the volumes of targets that are not ours.
func (o operator) static() []attached.Volume {
	var out []attached.Volume
	for _, r := range o.flow.Records() {
		if r.Stage.Attachment.Managed == nil {
			w, _ := o.watch.Report(r.Stage.VolumeID)
			short := w.State == watch.Waiting && !w.WaitSince.IsZero() && time.Since(w.WaitSince) < watch.Movable/2
			out = append(out, attached.Volume{ID: r.Stage.VolumeID, Staged: r.Began, Sure: w.State == watch.Serving || short})
		}
	}
	return out
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
	for _, u := range o.flow.Unusable() {
		if u.Stage.PersistentVolume != "" {
			out = append(out, events.Subject{ID: u.Stage.VolumeID, State: events.Unusable, Why: u.Why, PersistentVolume: u.Stage.PersistentVolume})
		}
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
	case watch.Detached:
		s.State = events.Detached
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
