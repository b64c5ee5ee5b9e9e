package agenttest

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

func testPublish(t *testing.T, s Subject) {
	ctx := t.Context()
	v := create(t, s, "v")
	req := Request(v.UUID, 1)
	p := publish(t, s, req)
	if p.Volume != v.UUID || p.Node != req.Node || p.Generation == 0 || p.NSID == 0 || p.NSID >= 1<<31 || p.SizeBytes != v.SizeBytes || p.BlockSize != v.BlockSize || len(p.Portals) != 1 || p.Token == "" {
		t.Errorf("published %+v", p)
	}
	if !strings.HasPrefix(p.SubsystemNQN, volume.NQNPrefix+":") || p.NGUID != volume.NGUID(v.UUID, p.Generation) {
		t.Errorf("published %+v", p)
	}
	if again := publish(t, s, req); cmp.Diff(p, again) != "" {
		t.Errorf("published again: %s", cmp.Diff(p, again))
	}
	listed, err := s.Publications(ctx)
	want := p
	want.Token = ""
	if err != nil || cmp.Diff([]volume.Publication{want}, listed) != "" {
		t.Errorf("listing: %v %s", err, cmp.Diff([]volume.Publication{want}, listed))
	}
	unpublish(t, s, v.UUID, req.Node)
	WantErr(t, s.Unpublish(ctx, v.UUID, req.Node), volume.ErrNotFound)
	WantErr(t, s.Unpublish(ctx, v.UUID, ""), volume.ErrNotFound)
	WantErr(t, s.Unpublish(ctx, uuid.New(), ""), volume.ErrNotFound)
	if listed, err := s.Publications(ctx); err != nil || len(listed) > 0 {
		t.Errorf("listing: %v %v", listed, err)
	}
	publish(t, s, req)
	unpublish(t, s, v.UUID, "") // every node
}

func testPublishBadInput(t *testing.T, s Subject) {
	v := create(t, s, "v")
	good := Request(v.UUID, 1)
	with := func(change func(*volume.PublishRequest)) volume.PublishRequest {
		r := good
		change(&r)
		return r
	}
	for what, req := range map[string]volume.PublishRequest{
		"no volume":             with(func(r *volume.PublishRequest) { r.Volume = uuid.Nil }),
		"no node":               with(func(r *volume.PublishRequest) { r.Node = "" }),
		"node with slash":       with(func(r *volume.PublishRequest) { r.Node = "../x-00000001" }),
		"node without hash":     with(func(r *volume.PublishRequest) { r.Node = "node1" }),
		"huge node":             with(func(r *volume.PublishRequest) { r.Node = strings.Repeat("n", 200) + "-00000001" }),
		"no host NQN":           with(func(r *volume.PublishRequest) { r.HostNQN = "" }),
		"host NQN with comma":   with(func(r *volume.PublishRequest) { r.HostNQN += ",nqn=x" }),
		"host NQN with newline": with(func(r *volume.PublishRequest) { r.HostNQN += "\n" }),
		"host NQN with slash":   with(func(r *volume.PublishRequest) { r.HostNQN = "nqn.2014-08.org.nvmexpress:uuid:../../x" }),
		"huge host NQN":         with(func(r *volume.PublishRequest) { r.HostNQN += strings.Repeat("x", 224) }),
		"no host ID":            with(func(r *volume.PublishRequest) { r.HostID = "" }),
		"host ID no UUID":       with(func(r *volume.PublishRequest) { r.HostID = "x" }),
		"profile with newline":  with(func(r *volume.PublishRequest) { r.Profile = "a\nb" }),
		"profile with NUL":      with(func(r *volume.PublishRequest) { r.Profile = "a\x00b" }),
		"huge profile":          with(func(r *volume.PublishRequest) { r.Profile = strings.Repeat("x", 1<<16) }),
	} {
		if _, err := s.Publish(t.Context(), req); !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := s.Publish(t.Context(), Request(uuid.New(), 1))
	WantErr(t, err, volume.ErrNotFound)
	if listed, err := s.Publications(t.Context()); err != nil || len(listed) > 0 {
		t.Errorf("left behind: %v %v", listed, err)
	}
}

func testPublishDifferently(t *testing.T, s Subject) {
	v := create(t, s, "v")
	req := Request(v.UUID, 1)
	p := publish(t, s, req)
	other := Request(v.UUID, 2)
	for what, change := range map[string]func(*volume.PublishRequest){
		"profile":  func(r *volume.PublishRequest) { r.Profile = "other" },
		"host NQN": func(r *volume.PublishRequest) { r.HostNQN = other.HostNQN },
		"host ID":  func(r *volume.PublishRequest) { r.HostID = other.HostID },
	} {
		r := req
		change(&r)
		if _, err := s.Publish(t.Context(), r); !errors.Is(err, volume.ErrExists) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if again := publish(t, s, req); cmp.Diff(p, again) != "" {
		t.Errorf("after refusals: %s", cmp.Diff(p, again))
	}
}

func testOneNode(t *testing.T, s Subject) {
	v := create(t, s, "v")
	p := publish(t, s, Request(v.UUID, 1))
	_, err := s.Publish(t.Context(), Request(v.UUID, 2))
	WantErr(t, err, volume.ErrPublishedElsewhere, p.Node)
	unpublish(t, s, v.UUID, p.Node)
	q := publish(t, s, Request(v.UUID, 2))
	if q.Generation <= p.Generation || q.SubsystemNQN == p.SubsystemNQN {
		t.Errorf("first %+v, then %+v", p, q)
	}
	WantErr(t, s.Unpublish(t.Context(), v.UUID, p.Node), volume.ErrNotFound)
}

// testGenerations: what came before never comes again.
func testGenerations(t *testing.T, s Subject) {
	v := create(t, s, "v")
	anchor := create(t, s, "anchor")
	publish(t, s, Request(anchor.UUID, 1)) // keeps the session alive half of the time
	type place struct {
		nqn  string
		nsid uint32
	}
	used, last := map[place]bool{}, uint64(0)
	for i := range 8 {
		if i == 4 {
			unpublish(t, s, anchor.UUID, "")
		}
		p := publish(t, s, Request(v.UUID, 1))
		at := place{p.SubsystemNQN, p.NSID}
		if used[at] || p.Generation != last+1 {
			t.Errorf("generation %d after %d at %v (used before: %v)", p.Generation, last, at, used[at])
		}
		used[at], last = true, p.Generation
		unpublish(t, s, v.UUID, p.Node)
	}
}

func testSessions(t *testing.T, s Subject) {
	a, b, c, d := create(t, s, "a"), create(t, s, "b"), create(t, s, "c"), create(t, s, "d")
	first := publish(t, s, Request(a.UUID, 1))
	same := publish(t, s, Request(b.UUID, 1))
	if same.SubsystemNQN != first.SubsystemNQN || same.NSID == first.NSID {
		t.Errorf("one node, two sessions: %+v and %+v", first, same)
	}
	profile := Request(c.UUID, 1)
	profile.Profile = "other"
	node := publish(t, s, Request(d.UUID, 2))
	if p := publish(t, s, profile); p.SubsystemNQN == first.SubsystemNQN || node.SubsystemNQN == first.SubsystemNQN || p.SubsystemNQN == node.SubsystemNQN {
		t.Errorf("sessions are shared that must not be: %+v, %+v, %+v", first, p, node)
	}
}

func testFormat(t *testing.T, s Subject) {
	ctx := t.Context()
	v := create(t, s, "v")
	p := publish(t, s, Request(v.UUID, 1))
	status := func(p volume.Publication) volume.PublicationStatus {
		t.Helper()
		st, err := s.Status(ctx, Ref(p))
		return Must(t, st, err)
	}
	if st := status(p); !st.Blank || st.Formatting || st.Ended || !slices.Equal(st.Portals, p.Portals) {
		t.Errorf("new, at %v: %+v", p.Portals, st)
	}
	for range 2 {
		if err := s.BeginFormat(ctx, Ref(p)); err != nil {
			t.Fatal(err)
		}
	}
	if st := status(p); !st.Formatting || st.Ended {
		t.Errorf("formatting: %+v", st)
	}
	if v, err := s.Get(ctx, v.UUID); err != nil || !v.Formatting {
		t.Errorf("formatting: %+v %v", v, err)
	}
	// The right to format outlives the publication, not the node.
	unpublish(t, s, v.UUID, p.Node)
	q := publish(t, s, Request(v.UUID, 2))
	WantErr(t, s.EndFormat(ctx, Ref(p)), volume.ErrEnded)
	WantErr(t, s.BeginFormat(ctx, Ref(p)), volume.ErrEnded)
	if st := status(p); !st.Ended {
		t.Errorf("ended: %+v", st)
	}
	if st := status(q); !st.Formatting {
		t.Errorf("second node: %+v", st)
	}
	for range 2 {
		if err := s.EndFormat(ctx, Ref(q)); err != nil {
			t.Fatal(err)
		}
	}
	if st := status(q); st.Formatting || st.Ended {
		t.Errorf("formatted: %+v", st)
	}
	unpublish(t, s, v.UUID, q.Node)
	if st := status(q); !st.Ended {
		t.Errorf("unpublished: %+v", st)
	}
	if err := s.Delete(ctx, v.UUID); err != nil {
		t.Fatal(err)
	}
	if st := status(q); !st.Ended {
		t.Errorf("deleted: %+v", st)
	}
}

func testToken(t *testing.T, s Subject) {
	v, w := create(t, s, "v"), create(t, s, "w")
	p, q := publish(t, s, Request(v.UUID, 1)), publish(t, s, Request(w.UUID, 2))
	for what, change := range map[string]func(*volume.PublicationRef){
		"none":             func(r *volume.PublicationRef) { r.Token = "" },
		"another":          func(r *volume.PublicationRef) { r.Token = q.Token },
		"cut":              func(r *volume.PublicationRef) { r.Token = r.Token[:len(r.Token)-1] },
		"upper case":       func(r *volume.PublicationRef) { r.Token = strings.ToUpper(r.Token) + "x" },
		"another volume":   func(r *volume.PublicationRef) { r.Volume = w.UUID },
		"another node":     func(r *volume.PublicationRef) { r.Node = q.Node },
		"next generation":  func(r *volume.PublicationRef) { r.Generation++ },
		"unknown volume":   func(r *volume.PublicationRef) { r.Volume = uuid.New() },
		"generation zero":  func(r *volume.PublicationRef) { r.Generation = 0 },
		"huge generation":  func(r *volume.PublicationRef) { r.Generation = 1<<64 - 1 },
		"node with a pipe": func(r *volume.PublicationRef) { r.Node += "|1" },
	} {
		ref := Ref(p)
		change(&ref)
		if _, err := s.Status(t.Context(), ref); !errors.Is(err, volume.ErrDenied) {
			t.Errorf("%s: status: %v", what, err)
		}
		if err := s.BeginFormat(t.Context(), ref); !errors.Is(err, volume.ErrDenied) {
			t.Errorf("%s: begin: %v", what, err)
		}
		if err := s.EndFormat(t.Context(), ref); !errors.Is(err, volume.ErrDenied) {
			t.Errorf("%s: end: %v", what, err)
		}
	}
}
