package agenttest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Subject is what TestBackend examines.
type Subject interface {
	volume.Backend
	volume.Lister
	volume.FormatAuthority
}

const mib = 1 << 20

// Request is a publish request of node number n with the default profile.
func Request(id uuid.UUID, n int) volume.PublishRequest {
	node := fmt.Sprintf("node%d-0000000%d", n, n)
	nqn, hostID := volume.HostIdentity("cluster", node)
	return volume.PublishRequest{Volume: id, Node: node, HostNQN: nqn, HostID: hostID, Profile: "ctrlLossTmo=-1"}
}

// Ref is how the node names the publication to the agent.
func Ref(p volume.Publication) volume.PublicationRef {
	return volume.PublicationRef{Volume: p.Volume, Node: p.Node, Generation: p.Generation, Token: p.Token}
}

// TestBackend checks the contract of volume.Backend, volume.Lister and
// volume.FormatAuthority. fresh returns a subject with at least one pool, no
// volumes, and room for 64 MiB.
func TestBackend(t *testing.T, fresh func(t *testing.T) Subject) {
	for name, test := range map[string]func(*testing.T, Subject){
		"create":              testCreate,
		"create bad input":    testCreateBadInput,
		"find and list":       testFindAndList,
		"delete":              testDelete,
		"publish":             testPublish,
		"publish bad input":   testPublishBadInput,
		"publish differently": testPublishDifferently,
		"one node at a time":  testOneNode,
		"generations":         testGenerations,
		"sessions":            testSessions,
		"format":              testFormat,
		"token":               testToken,
	} {
		t.Run(name, func(t *testing.T) { test(t, fresh(t)) })
	}
}

// Must returns v, or ends the test.
func Must[T any](t testing.TB, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// WantErr ends the test unless err wraps want and its text holds each of the texts.
func WantErr(t testing.TB, err, want error, texts ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
}

func create(t *testing.T, s Subject, name string) volume.Volume {
	t.Helper()
	v, err := s.Create(t.Context(), volume.CreateRequest{Name: name, RequiredBytes: mib})
	return Must(t, v, err)
}

func testCreate(t *testing.T, s Subject) {
	ctx := t.Context()
	v, err := s.Create(ctx, volume.CreateRequest{Name: "pvc-1", RequiredBytes: mib + 1, LimitBytes: 4 * mib})
	if err != nil {
		t.Fatal(err)
	}
	if v.UUID == uuid.Nil || v.Name != "pvc-1" || v.SizeBytes < mib+1 || v.SizeBytes > 4*mib || v.Pool == "" || v.Formatting {
		t.Errorf("created %+v", v)
	}
	if v.BlockSize < 512 || v.SizeBytes%int64(v.BlockSize) != 0 || time.Since(v.Created).Abs() > time.Hour {
		t.Errorf("created %+v", v)
	}
	for what, req := range map[string]volume.CreateRequest{
		"the same":        {Name: "pvc-1", RequiredBytes: mib + 1, LimitBytes: 4 * mib},
		"smaller":         {Name: "pvc-1", RequiredBytes: 1},
		"exactly":         {Name: "pvc-1", RequiredBytes: v.SizeBytes, LimitBytes: v.SizeBytes, Pool: v.Pool},
		"the limit alone": {Name: "pvc-1", LimitBytes: 1 << 40},
	} {
		again, err := s.Create(ctx, req)
		if err != nil || cmp.Diff(v, again) != "" {
			t.Errorf("%s: %v %s", what, err, cmp.Diff(v, again))
		}
	}
	for what, req := range map[string]volume.CreateRequest{
		"larger":          {Name: "pvc-1", RequiredBytes: v.SizeBytes + 1},
		"limit too small": {Name: "pvc-1", RequiredBytes: 1, LimitBytes: mib},
	} {
		if _, err := s.Create(ctx, req); !errors.Is(err, volume.ErrExists) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got, err := s.Get(ctx, v.UUID); err != nil || cmp.Diff(v, got) != "" {
		t.Errorf("get: %v %s", err, cmp.Diff(v, got))
	}
	_, err = s.Create(ctx, volume.CreateRequest{Name: "huge", RequiredBytes: 1 << 49})
	WantErr(t, err, volume.ErrNoSpace, "562949953421312")
	_, err = s.FindByName(ctx, "huge")
	WantErr(t, err, volume.ErrNotFound)
}

func testCreateBadInput(t *testing.T, s Subject) {
	for what, req := range map[string]volume.CreateRequest{
		"no name":           {RequiredBytes: mib},
		"control character": {Name: "a\nb", RequiredBytes: mib},
		"NUL":               {Name: "a\x00b", RequiredBytes: mib},
		"huge name":         {Name: strings.Repeat("x", 129), RequiredBytes: mib},
		"negative size":     {Name: "n", RequiredBytes: -1},
		"negative limit":    {Name: "n", RequiredBytes: mib, LimitBytes: -1},
		"limit below":       {Name: "n", RequiredBytes: 2 * mib, LimitBytes: mib},
		"unknown pool":      {Name: "n", RequiredBytes: mib, Pool: "nowhere"},
		"pool with path":    {Name: "n", RequiredBytes: mib, Pool: "../x"},
	} {
		if _, err := s.Create(t.Context(), req); !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, req := range map[string]volume.CreateRequest{
		"limit below min": {Name: "n", LimitBytes: 1},
		"rounding limit":  {Name: "n", RequiredBytes: mib + 1, LimitBytes: mib + 2},
		"overflow":        {Name: "n", RequiredBytes: 1<<63 - 1},
	} {
		if _, err := s.Create(t.Context(), req); !errors.Is(err, volume.ErrOutOfRange) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// A name is a name and never a path.
	for _, name := range []string{"../../etc/passwd", "/", ".", "..", "a b", "ä/ö", strings.Repeat("x", 128)} {
		v, err := s.Create(t.Context(), volume.CreateRequest{Name: name, RequiredBytes: mib})
		if err != nil {
			t.Errorf("name %q: %v", name, err)
			continue
		}
		if err := s.Delete(t.Context(), v.UUID); err != nil {
			t.Errorf("name %q: %v", name, err)
		}
	}
	if vs, err := s.List(t.Context(), uuid.Nil, 0); err != nil || len(vs) > 0 {
		t.Errorf("left behind: %v %v", vs, err)
	}
}

func testFindAndList(t *testing.T, s Subject) {
	ctx := t.Context()
	var all []volume.Volume
	for i := range 5 {
		all = append(all, create(t, s, fmt.Sprintf("v%d", i)))
	}
	if v, err := s.FindByName(ctx, "v3"); err != nil || v.UUID != all[3].UUID {
		t.Errorf("find: %v %v", v, err)
	}
	_, err := s.FindByName(ctx, "v9")
	WantErr(t, err, volume.ErrNotFound)
	_, err = s.Get(ctx, uuid.New())
	WantErr(t, err, volume.ErrNotFound)
	list, err := s.List(ctx, uuid.Nil, 0)
	if err != nil || len(list) != 5 {
		t.Fatalf("list: %v %v", list, err)
	}
	for i := 1; i < len(list); i++ {
		if strings.Compare(list[i-1].UUID.String(), list[i].UUID.String()) >= 0 {
			t.Errorf("not ordered: %v", list)
		}
	}
	page, err := s.List(ctx, list[1].UUID, 2)
	if err != nil || cmp.Diff(list[2:4], page) != "" {
		t.Errorf("page: %v %s", err, cmp.Diff(list[2:4], page))
	}
	info, err := s.Info(ctx)
	if err != nil || info.Installation == "" || len(info.Pools) == 0 {
		t.Fatalf("info: %+v %v", info, err)
	}
	p := info.Pools[0]
	if p.Problem != "" || p.TotalBytes <= 0 || p.AvailableBytes <= 0 || p.AvailableBytes > p.TotalBytes || p.BlockSize < 512 || len(p.Portals) != 1 {
		t.Errorf("pool: %+v", p)
	}
}

func testDelete(t *testing.T, s Subject) {
	ctx := t.Context()
	v := create(t, s, "v")
	before := infoOf(t, s).Pools[0].AvailableBytes
	if err := s.Delete(ctx, v.UUID); err != nil {
		t.Fatal(err)
	}
	if after := infoOf(t, s).Pools[0].AvailableBytes; after <= before {
		t.Errorf("available %d before and %d after the delete", before, after)
	}
	WantErr(t, s.Delete(ctx, v.UUID), volume.ErrNotFound)
	WantErr(t, s.Delete(ctx, uuid.New()), volume.ErrNotFound)
	_, err := s.Get(ctx, v.UUID)
	WantErr(t, err, volume.ErrNotFound)
	again := create(t, s, "v")
	if again.UUID == v.UUID {
		t.Error("a UUID was used again")
	}
	pub := publish(t, s, Request(again.UUID, 1))
	WantErr(t, s.Delete(ctx, again.UUID), volume.ErrInUse, pub.Node)
	if _, err := s.Get(ctx, again.UUID); err != nil {
		t.Errorf("after a refused delete: %v", err)
	}
	unpublish(t, s, again.UUID, pub.Node)
	if err := s.Delete(ctx, again.UUID); err != nil {
		t.Fatal(err)
	}
}

func infoOf(t *testing.T, s Subject) volume.HostInfo {
	t.Helper()
	info, err := s.Info(t.Context())
	return Must(t, info, err)
}

func publish(t *testing.T, s Subject, req volume.PublishRequest) volume.Publication {
	t.Helper()
	p, err := s.Publish(t.Context(), req)
	return Must(t, p, err)
}

func unpublish(t *testing.T, s Subject, id uuid.UUID, node string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := s.Unpublish(ctx, id, node); err != nil {
		t.Fatal(err)
	}
}
