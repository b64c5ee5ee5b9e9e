package initiator_test

import (
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/initiator/initiatortest"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// owners is a registry in memory.
type owners struct {
	mu      sync.Mutex
	claimed []string
	ours    map[string]bool
}

func (o *owners) Claim(controller string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.claimed = append(o.claimed, controller)
}

func (o *owners) Keep(look func() (map[string]bool, error)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ours, _ = look()
}

func (o *owners) want(t *testing.T, claimed ...string) {
	t.Helper()
	synctest.Wait() // no connect waits for it
	o.mu.Lock()
	defer o.mu.Unlock()
	if diff := cmp.Diff(claimed, o.claimed); diff != "" {
		t.Errorf("claimed (-want +got):\n%s", diff)
	}
}

// Each controller is claimed when it is made, by the time that the connect
// returns; and one that was adopted with all others.
func TestOwners(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testOwners)
}

func testOwners(t *testing.T) {
	f, o := initiatortest.New(t), &owners{}
	options := f.Options()
	options.HostNQN, options.Owners = hostNQN, o
	h := initiator.New(options)
	f.AddSubsystem(testNQN, portalA, portalB)
	f.AddSubsystem(otherNQN, portalA)
	if err := h.EnsureSession(t.Context(), session(testNQN, portalA)); err != nil {
		t.Fatal(err)
	}
	o.want(t, "nvme0")
	if err := h.Restore(t.Context(), session(testNQN, portalA, portalB)); err != nil {
		t.Fatal(err)
	}
	o.want(t, "nvme0", "nvme1")

	const otherID = "99999999-2222-4333-8444-555555555555"
	foreign := session(otherNQN, portalA)
	foreign.HostNQN, foreign.HostID = volume.HostNQNPrefix+otherID, otherID
	if err := f.Host().EnsureSession(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	h.Own()
	if want := map[string]bool{"nvme0": true, "nvme1": true, "nvme2": false}; !maps.Equal(o.ours, want) {
		t.Errorf("ours are %v, want %v", o.ours, want)
	}
	if err := h.Disconnect(t.Context(), testNQN); err != nil {
		t.Fatal(err)
	}
	h.Own()
	if got := slices.Collect(maps.Keys(o.ours)); !slices.Equal(got, []string{"nvme2"}) {
		t.Errorf("after the disconnect: %v", got)
	}
}

// Without a registry, or without knowing who we are, nothing is said.
func TestNoOwners(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testNoOwners)
}

func testNoOwners(t *testing.T) {
	f, o := initiatortest.New(t), &owners{}
	f.Host().Own()
	options := f.Options()
	options.Owners = o
	f.AddSubsystem(testNQN, portalA)
	h := initiator.New(options)
	if err := h.EnsureSession(t.Context(), session(testNQN, portalA)); err != nil {
		t.Fatal(err)
	}
	h.Own()
	o.want(t)
	if o.ours != nil {
		t.Errorf("said %v", o.ours)
	}
}
