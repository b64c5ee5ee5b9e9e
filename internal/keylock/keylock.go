// Package keylock is a set of locks by name that never wait. CSI asks a driver
// to answer Aborted while another call on the same volume is under way, rather
// than to queue; and one hung volume must not hold up any other.
//
// It is not a mutex: a holder that never releases is seen, not waited for.
package keylock

import (
	"fmt"
	"sync"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Set is a set of held names. The zero value is empty and ready.
type Set struct {
	mu   sync.Mutex
	held map[string]string // name to what holds it; guarded by mu
}

// Lock takes name for the operation called what and returns its release. If it
// is held already the error wraps volume.ErrBusy and names the holder.
func (s *Set) Lock(name, what string) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if by, ok := s.held[name]; ok {
		return nil, fmt.Errorf("%s %s: %s is under way: %w", what, name, by, volume.ErrBusy)
	}
	if s.held == nil {
		s.held = map[string]string{}
	}
	s.held[name] = what
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.held, name)
	}), nil
}
