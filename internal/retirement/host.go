package retirement

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/rpcerr"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// askTime is how long a host that was declared gone may take for a simple question.
const askTime = time.Second

// answerTime is how long a host that was declared gone is waited for when something it
// held is to be withdrawn or deleted: should it be back, it does it itself.
const answerTime = 5 * time.Second

// Backend is a storage host.
type Backend interface {
	volume.Backend
	volume.Lister
}

// Host is a storage host that may have been declared gone.
type Host struct {
	Backend
	name     string
	declared func() (time.Time, bool)
}

var _ Backend = Host{}

// Wrap returns the host of a name; declared says when it was declared gone, if it was.
func Wrap(name string, b Backend, declared func() (time.Time, bool)) Host {
	return Host{Backend: b, name: name, declared: declared}
}

// refusal is nil for a host in service.
func (h Host) refusal() error {
	at, gone := h.declared()
	if !gone {
		return nil
	}
	return fmt.Errorf("storage host %s was declared gone for good at %s (`holdfast admit %s` takes that back): %w", h.name, at.Format(time.RFC3339), h.name, volume.ErrPrecondition)
}

// Info of a host that is gone has no pools.
func (h Host) Info(ctx context.Context) (volume.HostInfo, error) {
	if at, gone := h.declared(); gone {
		return volume.HostInfo{Retired: at}, nil
	}
	return h.Backend.Info(ctx)
}

// Create implements volume.Backend.
func (h Host) Create(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	if err := h.refusal(); err != nil {
		return volume.Volume{}, err
	}
	return h.Backend.Create(ctx, req)
}

// FindByName finds nothing on a host that is gone and silent: the name is free for
// another. One that is back may have been admitted, which is heard of later.
func (h Host) FindByName(ctx context.Context, name string) (v volume.Volume, err error) {
	refusal := h.refusal()
	if refusal == nil {
		return h.Backend.FindByName(ctx, name)
	}
	err = h.within(ctx, askTime, func(ctx context.Context) (err error) {
		v, err = h.Backend.FindByName(ctx, name)
		return err
	})
	if rpcerr.Unanswered(err) && ctx.Err() == nil {
		return volume.Volume{}, fmt.Errorf("volume %q: %w: %v", name, volume.ErrNotFound, refusal)
	}
	return v, err
}

// Publish implements volume.Backend.
func (h Host) Publish(ctx context.Context, req volume.PublishRequest) (volume.Publication, error) {
	if err := h.refusal(); err != nil {
		return volume.Publication{}, err
	}
	return h.Backend.Publish(ctx, req)
}

// Unpublish of a volume whose host is gone is done: it is given to nobody else, and
// the host exports nothing before it is admitted, if it should come back.
func (h Host) Unpublish(ctx context.Context, id uuid.UUID, node string) error {
	return h.settle(ctx, func(ctx context.Context) error { return h.Backend.Unpublish(ctx, id, node) })
}

// Delete of a volume whose host is gone is done, as far as anybody can see: what the
// host held went with it.
func (h Host) Delete(ctx context.Context, id uuid.UUID) error {
	return h.settle(ctx, func(ctx context.Context) error { return h.Backend.Delete(ctx, id) })
}

func (h Host) settle(ctx context.Context, act func(context.Context) error) error {
	if _, gone := h.declared(); !gone {
		return act(ctx)
	}
	err := h.within(ctx, answerTime, act)
	if rpcerr.Unanswered(err) && h.silent(ctx) {
		return nil
	}
	return err
}

// silent asks the simplest of questions: what has to wait for a fence is late, and
// its host is there.
func (h Host) silent(ctx context.Context) bool {
	err := h.within(ctx, askTime, func(ctx context.Context) error {
		_, err := h.Backend.Info(ctx)
		return err
	})
	return rpcerr.Unanswered(err) && ctx.Err() == nil
}

func (h Host) within(ctx context.Context, limit time.Duration, act func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return act(ctx)
}

// List leaves out what is gone with its host.
func (h Host) List(ctx context.Context, after uuid.UUID, limit int) ([]volume.Volume, error) {
	if _, gone := h.declared(); gone {
		return nil, nil
	}
	return h.Backend.List(ctx, after, limit)
}

// Publications leaves out what is gone with its host.
func (h Host) Publications(ctx context.Context) ([]volume.Publication, error) {
	if _, gone := h.declared(); gone {
		return nil, nil
	}
	return h.Backend.Publications(ctx)
}
