// Package backend is the set of storage hosts as one place to ask: it finds the
// host of a volume, places new volumes, and makes sure that no name ever gets a
// second volume on another host.
//
// It keeps no state and opens no connections; each host is a volume.Backend
// that it was given.
package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Hosts is a fixed set of storage hosts by name.
type Hosts struct {
	byName map[string]volume.Backend
	names  []string // sorted
}

// New returns the set.
func New(byName map[string]volume.Backend) *Hosts {
	h := &Hosts{byName: byName}
	for name := range byName {
		h.names = append(h.names, name)
	}
	slices.Sort(h.names)
	return h
}

// Names returns the names of the hosts, sorted.
func (h *Hosts) Names() []string { return slices.Clone(h.names) }

// Host returns the backend of one host; volume.ErrUnavailable if the
// configuration has none of that name, because it may have had: a volume of a
// host that is not listed is not a volume that does not exist.
func (h *Hosts) Host(name string) (volume.Backend, error) {
	b, ok := h.byName[name]
	if !ok {
		return nil, fmt.Errorf("storage host %q is not in the hosts file (it has %v): %w", name, h.names, volume.ErrUnavailable)
	}
	return b, nil
}

// Placement is where a new volume may go.
type Placement struct {
	Host string // "" = any
	Pool string // "" = any
	// Tiers are the hosts on which the volume may be, by name, those of the first
	// choice before the others; nil is any.
	Tiers [][]string
}

func (p Placement) allows(host string) bool {
	return p.Tiers == nil || slices.ContainsFunc(p.Tiers, func(t []string) bool { return slices.Contains(t, host) })
}

// Create makes the volume, or returns the one that has the name. Unless the
// placement pins a host, every host is asked first, and none may stay silent:
// the one that does not answer may hold the name.
func (h *Hosts) Create(ctx context.Context, req volume.CreateRequest, where Placement) (volume.ID, volume.Volume, error) {
	req.Pool = where.Pool
	host, err := h.place(ctx, req, where)
	if err != nil {
		return volume.ID{}, volume.Volume{}, fmt.Errorf("volume %q: %w", req.Name, err)
	}
	v, err := h.byName[host].Create(ctx, req)
	if err != nil {
		return volume.ID{}, volume.Volume{}, fmt.Errorf("storage host %s: %w", host, err)
	}
	return volume.ID{Host: host, UUID: v.UUID}, v, nil
}

func (h *Hosts) place(ctx context.Context, req volume.CreateRequest, where Placement) (string, error) {
	if where.Host == "" {
		return h.choose(ctx, req, where)
	}
	if _, ok := h.byName[where.Host]; !ok {
		return "", fmt.Errorf("host %q: the hosts file has %v: %w", where.Host, h.names, volume.ErrInvalid)
	}
	if !where.allows(where.Host) {
		return "", fmt.Errorf("host %q: it cannot be reached from where the volume is wanted: %w", where.Host, volume.ErrNoSpace)
	}
	return where.Host, nil
}

// choose returns the host that has the name already, or else the one with the
// most room.
func (h *Hosts) choose(ctx context.Context, req volume.CreateRequest, where Placement) (string, error) {
	found, err := each(h, func(b volume.Backend) (bool, error) {
		_, err := b.FindByName(ctx, req.Name)
		if errors.Is(err, volume.ErrNotFound) {
			return false, nil
		}
		return err == nil, err
	})
	for _, name := range h.names { // in their order: one name, one answer
		switch {
		case found[name] && !where.allows(name):
			return "", fmt.Errorf("storage host %s has a volume of this name, and cannot be reached from where it is wanted now: %w", name, volume.ErrExists)
		case found[name]:
			return name, nil
		}
	}
	if err != nil {
		return "", fmt.Errorf("a host that may hold a volume of this name does not answer (pin a host with the class parameter \"host\" to go on without it): %w: %v", volume.ErrUnavailable, err)
	}
	infos, err := each(h, func(b volume.Backend) (volume.HostInfo, error) { return b.Info(ctx) })
	if err != nil && len(infos) == 0 {
		return "", fmt.Errorf("%w: %v", volume.ErrUnavailable, err)
	}
	return firstWithRoom(h.names, infos, req, where.Tiers)
}

// firstWithRoom picks the roomiest host of the first tier that has one. That there is
// none is no room, so that the volume may be wanted elsewhere, unless a host that may
// have room does not answer.
func firstWithRoom(names []string, infos map[string]volume.HostInfo, req volume.CreateRequest, tiers [][]string) (string, error) {
	if tiers == nil {
		return roomiest(names, infos, req)
	}
	var why []error
	for _, tier := range tiers {
		host, err := roomiest(tier, infos, req)
		if err == nil {
			return host, nil
		}
		why = append(why, err)
	}
	cause := volume.ErrNoSpace
	for _, name := range slices.Concat(tiers...) {
		if _, answered := infos[name]; !answered {
			cause = volume.ErrUnavailable
		}
	}
	return "", fmt.Errorf("%w: %v", cause, errors.Join(why...)) // the causes of single tiers are not the answer
}

// roomiest picks, by name order among equals, the host whose pool has the most
// room for req.
func roomiest(names []string, infos map[string]volume.HostInfo, req volume.CreateRequest) (string, error) {
	best, room, poolSeen, retired := "", int64(-1), false, ""
	for _, name := range names {
		if !infos[name].Retired.IsZero() {
			retired = fmt.Sprintf(" (%s was declared gone for good)", name)
		}
		for _, p := range infos[name].Pools {
			if req.Pool != "" && p.Name != req.Pool {
				continue
			}
			poolSeen = true
			if p.Problem == "" && p.AvailableBytes > room {
				best, room = name, p.AvailableBytes
			}
		}
	}
	switch {
	case !poolSeen && req.Pool != "" && retired == "":
		return "", fmt.Errorf("pool %q: no storage host has it: %w", req.Pool, volume.ErrInvalid)
	case best == "":
		return "", fmt.Errorf("no pool of any storage host serves at the moment%s: %w", retired, volume.ErrUnavailable)
	case room < req.RequiredBytes:
		return "", fmt.Errorf("%d bytes asked for, the roomiest pool (host %s) has %d: %w", req.RequiredBytes, best, room, volume.ErrNoSpace)
	}
	return best, nil
}

// Available is the room for new volumes; the largest single one second. Only the
// host that is named is asked, if one is.
func (h *Hosts) Available(ctx context.Context, where Placement) (total, largest int64, err error) {
	if _, known := h.byName[where.Host]; where.Host != "" && !known {
		return 0, 0, fmt.Errorf("host %q: the hosts file has %v: %w", where.Host, h.names, volume.ErrInvalid)
	}
	asked := h.only(func(host string) bool { return where.allows(host) && (where.Host == "" || where.Host == host) })
	infos, err := each(asked, func(b volume.Backend) (volume.HostInfo, error) { return b.Info(ctx) })
	if err != nil {
		return 0, 0, fmt.Errorf("capacity: %w: %v", volume.ErrUnavailable, err)
	}
	for _, info := range infos {
		for _, p := range info.Pools {
			if p.Problem == "" && (where.Pool == "" || where.Pool == p.Name) {
				total += p.AvailableBytes
				largest = max(largest, p.AvailableBytes)
			}
		}
	}
	return total, largest, nil
}

func (h *Hosts) only(wanted func(host string) bool) *Hosts {
	m := map[string]volume.Backend{}
	for name, b := range h.byName {
		if wanted(name) {
			m[name] = b
		}
	}
	return New(m)
}

// Entry is a volume with the host it lives on.
type Entry struct {
	ID     volume.ID
	Volume volume.Volume
}

// List returns every volume of every host, ordered by host and UUID, those
// after the given one, at most limit (0 = all). A host that does not answer
// makes the whole listing fail: left out silently, its volumes would seem
// deleted.
func (h *Hosts) List(ctx context.Context, after volume.ID, limit int) ([]Entry, error) {
	var out []Entry
	for _, name := range h.names {
		if name < after.Host {
			continue
		}
		lister, ok := h.byName[name].(volume.Lister)
		if !ok {
			return nil, fmt.Errorf("storage host %s cannot list: %w", name, volume.ErrUnsupported)
		}
		from := uuid.Nil
		if name == after.Host {
			from = after.UUID
		}
		rest := 0
		if limit > 0 {
			rest = limit - len(out)
		}
		vs, err := lister.List(ctx, from, rest)
		if err != nil {
			return nil, fmt.Errorf("storage host %s: %w", name, err)
		}
		for _, v := range vs {
			out = append(out, Entry{volume.ID{Host: name, UUID: v.UUID}, v})
		}
		if limit > 0 && len(out) >= limit {
			break
		}
	}
	return out, nil
}

// each asks all hosts at once. The error joins those of the hosts that failed,
// each with its name; the map has the answers of the others.
func each[T any](h *Hosts, ask func(volume.Backend) (T, error)) (map[string]T, error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	out, errs := map[string]T{}, []error{}
	for name, b := range h.byName {
		wg.Go(func() {
			v, err := ask(b)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("storage host %s: %w", name, err))
				return
			}
			out[name] = v
		})
	}
	wg.Wait()
	return out, errors.Join(errs...)
}
