package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"go.etcd.io/bbolt"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Tx is one transaction. It is of no use after the function that it was given
// to has returned. Put replaces the record of the same key; what is not there
// is volume.ErrNotFound, for Delete as well.
type Tx struct{ bolt *bbolt.Tx }

func (t *Tx) bucket(name string) *bbolt.Bucket { return t.bolt.Bucket([]byte(name)) }

// Volume returns the volume of that UUID.
func (t *Tx) Volume(id uuid.UUID) (Volume, error) {
	return get[Volume](t.bucket(bucketVolumes), volumeKey(id), fmt.Sprintf("volume %s", id))
}

// VolumeByName returns the volume of that name.
func (t *Tx) VolumeByName(name string) (Volume, error) {
	key := t.bucket(bucketNames).Get([]byte(name))
	if key == nil {
		return Volume{}, fmt.Errorf("volume named %q: %w", name, volume.ErrNotFound)
	}
	v, err := get[Volume](t.bucket(bucketVolumes), key, fmt.Sprintf("volume named %q", name))
	return v, dangling(err)
}

// Volumes returns volumes ordered by UUID, those after the given one (uuid.Nil:
// from the first), at most limit (0 = all).
func (t *Tx) Volumes(after uuid.UUID, limit int) ([]Volume, error) {
	var list []Volume
	c := t.bucket(bucketVolumes).Cursor()
	key, value := c.Seek(volumeKey(after))
	if bytes.Equal(key, volumeKey(after)) {
		key, value = c.Next()
	}
	for ; key != nil && (limit <= 0 || len(list) < limit); key, value = c.Next() {
		v, err := decode[Volume](value, fmt.Sprintf("volume %s", key))
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

// PutVolume keeps v. Another volume of that name is volume.ErrExists.
func (t *Tx) PutVolume(v Volume) error {
	if err := v.validate(); err != nil {
		return err
	}
	names, key := t.bucket(bucketNames), volumeKey(v.UUID)
	if holder := names.Get([]byte(v.Name)); holder != nil && !bytes.Equal(holder, key) {
		return fmt.Errorf("%s: volume %s has that name: %w", v.label(), holder, volume.ErrExists)
	}
	old, err := t.Volume(v.UUID)
	if err == nil && old.Name != v.Name {
		err = names.Delete([]byte(old.Name))
	}
	if err != nil && !errors.Is(err, volume.ErrNotFound) {
		return fmt.Errorf("put %s: %w", v.label(), err)
	}
	if err = t.promise(old, v); err == nil {
		err = names.Put([]byte(v.Name), key)
	}
	if err != nil {
		return fmt.Errorf("put %s: %w", v.label(), err)
	}
	return put(t.bucket(bucketVolumes), key, v, v.label())
}

// DeleteVolume forgets the volume, but not its publications.
func (t *Tx) DeleteVolume(id uuid.UUID) error {
	v, err := t.Volume(id)
	if err == nil {
		err = t.bucket(bucketNames).Delete([]byte(v.Name))
	}
	if err == nil {
		err = t.promise(v, Volume{})
	}
	if err == nil {
		err = t.bucket(bucketVolumes).Delete(volumeKey(id))
	}
	return wrap(err, "delete")
}

func get[T any](b *bbolt.Bucket, key []byte, label string) (v T, err error) {
	value := b.Get(key)
	if value == nil {
		return v, fmt.Errorf("%s: %w", label, volume.ErrNotFound)
	}
	return decode[T](value, label)
}

func decode[T any](value []byte, label string) (v T, err error) {
	if err := json.Unmarshal(value, &v); err != nil {
		return v, fmt.Errorf("%s: record is not readable: %w: %w", label, err, volume.ErrDataLoss)
	}
	return v, nil
}

func put[T any](b *bbolt.Bucket, key []byte, v T, label string) error {
	value, err := json.Marshal(v)
	if err == nil {
		err = b.Put(key, value)
	}
	return wrap(err, "put "+label)
}

// scan returns the records whose key begins with prefix, in the order of keys.
func scan[T any](b *bbolt.Bucket, prefix, what string) ([]T, error) {
	var list []T
	c := b.Cursor()
	for key, value := c.Seek([]byte(prefix)); bytes.HasPrefix(key, []byte(prefix)) && key != nil; key, value = c.Next() {
		v, err := decode[T](value, fmt.Sprintf("%s %q", what, key))
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

// follow returns the records that the entries of an index lead to.
func follow[T any](index, b *bbolt.Bucket, prefix, what string) ([]T, error) {
	var list []T
	c := index.Cursor()
	for key, target := c.Seek([]byte(prefix)); bytes.HasPrefix(key, []byte(prefix)) && key != nil; key, target = c.Next() {
		v, err := get[T](b, target, fmt.Sprintf("%s %q", what, target))
		if err != nil {
			return nil, dangling(err)
		}
		list = append(list, v)
	}
	return list, nil
}

// dangling makes of "not found" behind an index what it is: the index and the
// records are written together, so one without the other is damage. The
// sentinel is not passed on, or a caller would take damage for absence.
func dangling(err error) error {
	if errors.Is(err, volume.ErrNotFound) {
		return fmt.Errorf("the index names a record that is missing (%v): %w", err, volume.ErrDataLoss)
	}
	return err
}

func wrap(err error, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
