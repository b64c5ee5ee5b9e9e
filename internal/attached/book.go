package attached

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/internal/kube"
	"github.com/holdfast-csi/holdfast/internal/pause"
	"github.com/holdfast-csi/holdfast/internal/statefile"
	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/internal/watch"
)

// Cluster is the API server; *kube.Client is the real one.
type Cluster interface {
	Attachment(ctx context.Context, name string) (kube.Attachment, error)
	Attachments(ctx context.Context, driver string) ([]kube.Attachment, error)
}

var _ Cluster = (*kube.Client)(nil)

// Volume is one that is staged on this node.
type Volume struct {
	ID string
	// Staged tells one stage of a volume from another.
	Staged time.Time
	// Sure: the volume serves, or has been away for so short a time that it cannot have
	// been given away. What the API server has now is what holds for it.
	Sure bool
}

// Options are what a book is made of. All fields are required.
type Options struct {
	Cluster Cluster
	Node    string // its name in Kubernetes
	// Dir is for what is known, and goes with the boot.
	Dir string
	Log *slog.Logger
}

// Book is what is known of the attachments of this node. Its methods may be called
// concurrently.
type Book struct {
	Options
	kept statefile.Dir[map[string]staging]

	mu      sync.Mutex
	volumes func() []Volume    // guarded by mu; nil before Run
	under   map[string]staging // by volume ID; guarded by mu
}

// staging is the attachment under which a volume is staged.
type staging struct {
	Staged time.Time
	UID    string
	asked  time.Time
}

// keptAs is the name of the one record.
const keptAs = "attachments"

// New returns a book that knows what an earlier process of this boot has known.
func New(o Options) (*Book, error) {
	kept, err := statefile.OpenVolatile[map[string]staging](o.Dir)
	if err != nil {
		return nil, err
	}
	under, err := kept.Get(keptAs)
	if err != nil && !errors.Is(err, volume.ErrNotFound) {
		o.Log.Warn("under which attachments volumes were staged is not known any more", "err", err)
	}
	if under == nil {
		under = map[string]staging{}
	}
	return &Book{Options: o, kept: kept, under: under}, nil
}

const (
	// every is how soon after a stage its attachment is asked for.
	every = 10 * time.Second
	// fresh is how long an answer holds for a volume that serves: an attachment that
	// was deleted and made anew without any outage has moved nothing.
	fresh = 10 * time.Minute
)

// Run learns the attachments of volumes, of a target that is not ours, until ctx ends.
func (b *Book) Run(ctx context.Context, volumes func() []Volume) {
	b.mu.Lock()
	b.volumes = volumes
	b.mu.Unlock()
	for {
		b.learn(ctx, volumes())
		if !pause.For(ctx, every) {
			return
		}
	}
}

// learn asks for what is not known yet, or for long, and forgets what is not staged any
// more.
func (b *Book) learn(ctx context.Context, volumes []Volume) {
	known := map[string]staging{}
	for _, v := range volumes {
		s, ok := b.stagingOf(v)
		if v.Sure && (!ok || time.Since(s.asked) >= fresh) {
			if uid, err := b.attachment(ctx, v); err == nil {
				s, ok = staging{v.Staged, uid, time.Now()}, true
			} else {
				b.Log.Debug("the attachment of a volume is not known", "volume", v.ID, "err", err)
			}
		}
		if ok {
			known[v.ID] = s
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	same := maps.EqualFunc(b.under, known, func(x, y staging) bool { return x.UID == y.UID && x.Staged.Equal(y.Staged) })
	b.under = known
	if same {
		return
	}
	if err := b.kept.Put(keptAs, known); err != nil {
		b.Log.Warn("under which attachments volumes are staged could not be kept", "err", err)
	}
}

// attachment is the UID of the one that a volume has here.
func (b *Book) attachment(ctx context.Context, v Volume) (string, error) {
	a, err := b.Cluster.Attachment(ctx, Name(v.ID, b.Node))
	if err == nil && !ours(a) {
		err = fmt.Errorf("VolumeAttachment %s is not, or not any more: %w", a.Name, volume.ErrUnavailable)
	}
	return a.UID, err
}

func ours(a kube.Attachment) bool { return a.Attached && !a.Deleted }

// stagingOf is the attachment under which a volume was staged, if that is known.
func (b *Book) stagingOf(v Volume) (staging, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.under[v.ID]
	return s, ok && s.Staged.Equal(v.Staged)
}

// Owners implements watch.Cluster: one question for each volume, and those after all
// attachments only if one is not this node's.
func (b *Book) Owners(ctx context.Context, volumeIDs []string) (map[string]watch.Owner, error) {
	said, staged := map[string]watch.Owner{}, b.staged()
	var gone []string
	for _, id := range volumeIDs {
		v, ok := staged[id]
		if !ok {
			return said, fmt.Errorf("volume %s is not known to be staged: %w", id, volume.ErrUnavailable)
		}
		owner, err := b.owner(ctx, v)
		if err != nil {
			return said, err
		}
		if owner == watch.Nobodys {
			gone = append(gone, id)
			continue
		}
		said[id] = owner
	}
	if len(gone) == 0 {
		return said, nil
	}
	all, err := b.Cluster.Attachments(ctx, volume.DriverName)
	if err != nil {
		return said, err
	}
	for _, id := range gone {
		said[id] = b.elsewhere(all, id)
	}
	return said, nil
}

// owner is what this node's attachment says of a volume.
func (b *Book) owner(ctx context.Context, v Volume) (watch.Owner, error) {
	a, err := b.Cluster.Attachment(ctx, Name(v.ID, b.Node))
	if errors.Is(err, volume.ErrNotFound) {
		return watch.Nobodys, nil
	}
	if err != nil {
		return "", err
	}
	s, known := b.stagingOf(v)
	switch {
	case known && a.UID != s.UID:
		return watch.Anothers, nil
	case ours(a):
		return watch.Ours, nil
	default:
		return watch.Nobodys, nil
	}
}

// elsewhere looks for the volume at all other nodes.
func (b *Book) elsewhere(all []kube.Attachment, volumeID string) watch.Owner {
	if slices.ContainsFunc(all, func(a kube.Attachment) bool { return a.Node != b.Node && a.Name == Name(volumeID, a.Node) }) {
		return watch.Anothers
	}
	return watch.Nobodys
}

// staged are the volumes of this node, by ID; none before Run.
func (b *Book) staged() map[string]Volume {
	b.mu.Lock()
	volumes := b.volumes
	b.mu.Unlock()
	all := map[string]Volume{}
	if volumes != nil {
		for _, v := range volumes() {
			all[v.ID] = v
		}
	}
	return all
}

// Name is that of the VolumeAttachment of a volume of ours (Kubernetes,
// pkg/volume/csi/csi_attacher.go, getAttachmentName).
func Name(volumeID, node string) string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(volumeID+volume.DriverName+node)))
}
