package agent

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/pool"
	"github.com/holdfast-csi/holdfast/internal/store"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Sizes of volumes, in bytes.
const (
	// granularity is what sizes are rounded up to.
	granularity = 1 << 20
	defaultSize = 1 << 30 // CSI leaves the size to us when none is asked for
	maxSize     = 1 << 50 // beyond what ext4 and XFS are used with; keeps sums far from overflow
	maxNameLen  = 128     // bytes; CSI 1.x, "Size Limits"
)

// states of a volume record.
const (
	stateCreating = "creating"
	stateReady    = "ready"
	stateDeleting = "deleting"
)

// Create makes a volume, or finishes one that a crash left half-made, or
// returns the one of that name if it fits.
func (s *Service) Create(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	if err := validateVolumeName(req.Name); err != nil {
		return volume.Volume{}, err
	}
	size, err := chooseSize(req.RequiredBytes, req.LimitBytes)
	if err != nil {
		return volume.Volume{}, fmt.Errorf("volume %q: %w", req.Name, err)
	}
	release, err := s.objects.Lock("name "+req.Name, "create")
	if err != nil {
		return volume.Volume{}, err
	}
	defer release()
	rec, err := s.recordFor(ctx, req, size)
	if err != nil {
		return volume.Volume{}, fmt.Errorf("volume %q: %w", req.Name, err)
	}
	if rec.State == stateReady {
		return toVolume(rec), fits(rec, req)
	}
	_, backing, err := s.serving(rec.Pool)
	if err != nil {
		return volume.Volume{}, err
	}
	unlock, err := s.objects.Lock("volume "+rec.UUID.String(), "create")
	if err != nil {
		return volume.Volume{}, err
	}
	defer unlock()
	if err := s.finishCreate(ctx, &rec, backing); err != nil {
		return volume.Volume{}, fmt.Errorf("volume %q: %w", req.Name, err)
	}
	return toVolume(rec), fits(rec, req)
}

// recordFor returns the record of that name, or writes a new one in state
// creating. A volume of that name which is being deleted is finished first.
func (s *Service) recordFor(ctx context.Context, req volume.CreateRequest, size int64) (store.Volume, error) {
	var rec store.Volume
	err := s.db.View(func(tx *store.Tx) (err error) {
		rec, err = tx.VolumeByName(req.Name)
		return err
	})
	switch {
	case err == nil && rec.State == stateDeleting:
		if err := s.Delete(ctx, rec.UUID); err != nil && !errors.Is(err, volume.ErrNotFound) {
			return rec, err
		}
	case !errors.Is(err, volume.ErrNotFound):
		return rec, err
	}
	return s.promise(ctx, req, size)
}

// promise finds a pool with room and puts the volume on record. Whether there
// is room is decided in the transaction that takes it.
func (s *Service) promise(ctx context.Context, req volume.CreateRequest, size int64) (store.Volume, error) {
	name, c, err := s.choosePool(ctx, req.Pool)
	if err != nil {
		return store.Volume{}, err
	}
	rec := store.Volume{
		UUID: uuid.New(), Name: req.Name, Pool: name, SizeBytes: size, BlockSize: c.BlockSize,
		Created: time.Now().UTC(), State: stateCreating,
	}
	return rec, s.db.Update(func(tx *store.Tx) error {
		if err := s.inService(tx); err != nil {
			return err
		}
		available, err := s.availableIn(tx, name, c)
		if err != nil {
			return err
		}
		if size > available {
			return fmt.Errorf("%d bytes asked for, pool %s of storage host %s has %d left to promise: %w", size, name, s.host, max(available, 0), volume.ErrNoSpace)
		}
		return tx.PutVolume(rec)
	})
}

// choosePool returns the pool asked for, or the serving one with most room.
func (s *Service) choosePool(ctx context.Context, want string) (string, pool.Capacity, error) {
	names := s.poolNames()
	if want != "" {
		if _, ok := s.pools[want]; !ok {
			return "", pool.Capacity{}, fmt.Errorf("pool %q: storage host %s has %v: %w", want, s.host, names, volume.ErrInvalid)
		}
		names = []string{want}
	}
	best, most, bestRoom, last := "", pool.Capacity{}, int64(math.MinInt64), error(nil)
	for _, name := range names {
		c, room, err := s.roomOf(ctx, name)
		if err != nil {
			last = err
			continue
		}
		if room > bestRoom {
			best, most, bestRoom = name, c, room
		}
	}
	if best == "" {
		return "", pool.Capacity{}, last
	}
	return best, most, nil
}

func (s *Service) roomOf(ctx context.Context, name string) (c pool.Capacity, room int64, err error) {
	p, _, err := s.serving(name)
	if err != nil {
		return c, 0, err
	}
	if c, err = p.capacity(ctx); err != nil {
		return c, 0, fmt.Errorf("pool %s: %w: %w", name, volume.ErrUnavailable, err)
	}
	room, err = s.available(name, c)
	return c, room, err
}

// finishCreate makes the bytes of a volume on record. If there is no room for
// them after all, the promise is taken back.
func (s *Service) finishCreate(ctx context.Context, rec *store.Volume, backing pool.Pool) error {
	if err := backing.Create(ctx, rec.UUID, rec.SizeBytes); err != nil {
		if !errors.Is(err, volume.ErrNoSpace) || backing.Delete(ctx, rec.UUID) != nil {
			return uncertain(err)
		}
		if left := s.db.Update(func(tx *store.Tx) error { return tx.DeleteVolume(rec.UUID) }); left != nil {
			return uncertain(errors.Join(err, left))
		}
		return err
	}
	return s.db.Update(func(tx *store.Tx) (err error) {
		if *rec, err = tx.Volume(rec.UUID); err != nil {
			return err
		}
		rec.State = stateReady
		return tx.PutVolume(*rec)
	})
}

// chooseSize rounds up to the granularity and checks the limit.
func chooseSize(required, limit int64) (int64, error) {
	switch {
	case required < 0 || limit < 0:
		return 0, fmt.Errorf("size %d, limit %d: must not be negative: %w", required, limit, volume.ErrInvalid)
	case required > maxSize:
		return 0, fmt.Errorf("size %d: at most %d bytes: %w", required, int64(maxSize), volume.ErrOutOfRange)
	case limit > 0 && limit < required:
		return 0, fmt.Errorf("limit %d is below the required size %d: %w", limit, required, volume.ErrInvalid)
	}
	if required == 0 {
		required = defaultSize
		if limit > 0 {
			required = min(required, limit-limit%granularity)
		}
	}
	size := (required + granularity - 1) / granularity * granularity
	if limit > 0 && size > limit || size == 0 {
		return 0, fmt.Errorf("limit %d: sizes are multiples of %d and the smallest that fits is %d: %w", limit, granularity, max(size, granularity), volume.ErrOutOfRange)
	}
	return size, nil
}

// fits says whether an existing volume is what the request asks for.
func fits(rec store.Volume, req volume.CreateRequest) error {
	switch {
	case rec.SizeBytes < req.RequiredBytes:
		return fmt.Errorf("volume %q has %d bytes and %d are asked for: %w", rec.Name, rec.SizeBytes, req.RequiredBytes, volume.ErrExists)
	case req.LimitBytes > 0 && rec.SizeBytes > req.LimitBytes:
		return fmt.Errorf("volume %q has %d bytes and the limit is %d: %w", rec.Name, rec.SizeBytes, req.LimitBytes, volume.ErrExists)
	case req.Pool != "" && rec.Pool != req.Pool:
		return fmt.Errorf("volume %q is in pool %s and %s is asked for: %w", rec.Name, rec.Pool, req.Pool, volume.ErrExists)
	}
	return nil
}

func validateVolumeName(name string) error {
	printable := utf8.ValidString(name)
	for _, r := range name {
		printable = printable && unicode.IsPrint(r)
	}
	if name == "" || len(name) > maxNameLen || !printable {
		return fmt.Errorf("volume name %q: want 1 to %d bytes of printable text: %w", name, maxNameLen, volume.ErrInvalid)
	}
	return nil
}

// Get returns a volume that is whole.
func (s *Service) Get(_ context.Context, id uuid.UUID) (volume.Volume, error) {
	rec, err := s.ready(id)
	return toVolume(rec), err
}

// ready returns the record of a volume that is whole; one that is half-made or
// half-deleted is not there yet, or no longer.
func (s *Service) ready(id uuid.UUID) (rec store.Volume, err error) {
	err = s.db.View(func(tx *store.Tx) (err error) {
		rec, err = tx.Volume(id)
		return err
	})
	if err == nil && rec.State != stateReady {
		err = fmt.Errorf("volume %s is in state %s: %w", id, rec.State, volume.ErrNotFound)
	}
	return rec, err
}

// FindByName returns the volume of that name in whatever state: also one that
// is half-made holds its name.
func (s *Service) FindByName(_ context.Context, name string) (v volume.Volume, err error) {
	err = s.db.View(func(tx *store.Tx) error {
		rec, err := tx.VolumeByName(name)
		v = toVolume(rec)
		return err
	})
	return v, err
}

// List returns the whole volumes after the given UUID, ordered by UUID.
func (s *Service) List(_ context.Context, after uuid.UUID, limit int) ([]volume.Volume, error) {
	var out []volume.Volume
	err := s.db.View(func(tx *store.Tx) error {
		recs, err := tx.Volumes(after, 0)
		for _, r := range recs {
			if r.State == stateReady && (limit <= 0 || len(out) < limit) {
				out = append(out, toVolume(r))
			}
		}
		return err
	})
	return out, err
}

// Delete removes a volume that is published to nobody.
func (s *Service) Delete(ctx context.Context, id uuid.UUID) error {
	release, err := s.objects.Lock("volume "+id.String(), "delete")
	if err != nil {
		return err
	}
	defer release()
	var rec store.Volume
	err = s.db.Update(func(tx *store.Tx) (err error) {
		if rec, err = tx.Volume(id); err != nil {
			return err
		}
		pubs, err := tx.PublicationsOf(id)
		if err != nil {
			return err
		}
		if len(pubs) > 0 {
			return fmt.Errorf("volume %s is published to node %s (state %s): unpublish it first: %w", id, pubs[0].Node, pubs[0].State, volume.ErrInUse)
		}
		rec.State = stateDeleting
		return tx.PutVolume(rec)
	})
	if err != nil {
		return err
	}
	_, backing, err := s.serving(rec.Pool)
	if err != nil {
		return err
	}
	if err := backing.Delete(ctx, id); err != nil {
		return fmt.Errorf("volume %s: %w", id, uncertain(err))
	}
	return s.db.Update(func(tx *store.Tx) error { return tx.DeleteVolume(id) })
}

func toVolume(r store.Volume) volume.Volume {
	return volume.Volume{UUID: r.UUID, Name: r.Name, Pool: r.Pool, SizeBytes: r.SizeBytes, BlockSize: r.BlockSize, Created: r.Created, Formatting: r.Formatting}
}
