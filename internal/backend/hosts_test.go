package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// fake is a storage host with volumes by name. One that hangs answers when its
// caller's time is over.
type fake struct {
	volume.Backend
	pools   []volume.Pool
	volumes map[string]volume.Volume
	err     error
	hangs   bool
	retired time.Time
}

func (f *fake) answer(ctx context.Context) error {
	if f.hangs {
		<-ctx.Done()
		return fmt.Errorf("no answer: %w: %w", volume.ErrPending, ctx.Err())
	}
	return f.err
}

func (f *fake) Info(ctx context.Context) (volume.HostInfo, error) {
	return volume.HostInfo{Installation: "x", Pools: f.pools, Retired: f.retired}, f.answer(ctx)
}

func (f *fake) FindByName(ctx context.Context, name string) (volume.Volume, error) {
	if err := f.answer(ctx); err != nil {
		return volume.Volume{}, err
	}
	v, ok := f.volumes[name]
	if !ok {
		return v, volume.ErrNotFound
	}
	return v, nil
}

func (f *fake) Create(ctx context.Context, req volume.CreateRequest) (volume.Volume, error) {
	if err := f.answer(ctx); err != nil {
		return volume.Volume{}, err
	}
	v, ok := f.volumes[req.Name]
	if !ok {
		v = volume.Volume{UUID: uuid.New(), Name: req.Name, Pool: req.Pool}
		if f.volumes == nil {
			f.volumes = map[string]volume.Volume{}
		}
		f.volumes[req.Name] = v
	}
	return v, nil
}

func (f *fake) List(ctx context.Context, after uuid.UUID, limit int) ([]volume.Volume, error) {
	var out []volume.Volume
	for _, v := range f.volumes {
		if strings.Compare(v.UUID.String(), after.String()) > 0 {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b volume.Volume) int { return strings.Compare(a.UUID.String(), b.UUID.String()) })
	if limit > 0 && len(out) > limit {
		out = out[:limit]
	}
	return out, f.answer(ctx)
}

func (f *fake) Publications(context.Context) ([]volume.Publication, error) { return nil, nil }

func roomy(bytes int64) *fake {
	return &fake{pools: []volume.Pool{{Name: "fast", AvailableBytes: bytes}}}
}

func hosts(m map[string]*fake) *Hosts {
	all := map[string]volume.Backend{}
	for name, f := range m {
		all[name] = f
	}
	return New(all)
}

func TestCreatePlaces(t *testing.T) {
	t.Parallel()
	full := roomy(100)
	full.pools = append(full.pools, volume.Pool{Name: "big", AvailableBytes: 1 << 30, Problem: "not mounted"})
	for name, c := range map[string]struct {
		hosts map[string]*fake
		where Placement
		bytes int64
		want  string // host
		err   error
		says  string
	}{
		"the roomiest":               {hosts: map[string]*fake{"a": roomy(100), "b": roomy(200)}, want: "b"},
		"the first of equals":        {hosts: map[string]*fake{"b": roomy(100), "a": roomy(100)}, want: "a"},
		"the one that was named":     {hosts: map[string]*fake{"a": roomy(100), "b": roomy(200)}, where: Placement{Host: "a"}, want: "a"},
		"the first choice is full":   {hosts: map[string]*fake{"a": roomy(1), "b": roomy(200), "c": roomy(300)}, where: Placement{Tiers: [][]string{{"a"}, {"b"}}}, bytes: 50, want: "b"},
		"only some may":              {hosts: map[string]*fake{"a": roomy(100), "b": roomy(200)}, where: Placement{Tiers: [][]string{{"a"}}}, want: "a"},
		"none that may has room":     {hosts: map[string]*fake{"a": roomy(1), "b": roomy(200)}, where: Placement{Tiers: [][]string{{"a"}}}, bytes: 50, err: volume.ErrNoSpace, says: "host a"},
		"no pool of it in the tiers": {hosts: map[string]*fake{"a": roomy(1), "b": {pools: []volume.Pool{{Name: "slow"}}}}, where: Placement{Pool: "fast", Tiers: [][]string{{"a"}, {"b"}}}, bytes: 50, err: volume.ErrNoSpace, says: "host a"},
		"the named one may not":      {hosts: map[string]*fake{"a": roomy(100), "b": roomy(200)}, where: Placement{Host: "a", Tiers: [][]string{{"b"}}}, err: volume.ErrNoSpace, says: "cannot be reached"},
		"named, another hangs":       {hosts: map[string]*fake{"a": roomy(100), "b": {hangs: true}}, where: Placement{Host: "a"}, want: "a"},
		"the one that has the pool":  {hosts: map[string]*fake{"a": roomy(100), "b": {pools: []volume.Pool{{Name: "slow", AvailableBytes: 1}}}}, where: Placement{Pool: "slow"}, want: "b"},
		"a pool with a problem":      {hosts: map[string]*fake{"a": full, "b": roomy(200)}, want: "b"},
		"exactly enough":             {hosts: map[string]*fake{"a": roomy(100)}, bytes: 100, want: "a"},
		"not enough":                 {hosts: map[string]*fake{"a": roomy(100), "b": roomy(99)}, bytes: 101, err: volume.ErrNoSpace, says: "host a"},
		"no such pool":               {hosts: map[string]*fake{"a": roomy(1)}, where: Placement{Pool: "slow"}, err: volume.ErrInvalid, says: `"slow"`},
		"no such host":               {hosts: map[string]*fake{"a": roomy(1)}, where: Placement{Host: "b"}, err: volume.ErrInvalid, says: `"b"`},
		"every pool has a problem":   {hosts: map[string]*fake{"a": {pools: []volume.Pool{{Name: "fast", Problem: "x"}}}}, err: volume.ErrUnavailable},
		"one host fails":             {hosts: map[string]*fake{"a": roomy(1), "b": {err: volume.ErrUnavailable}}, err: volume.ErrUnavailable, says: "storage host b"},
		"one host refuses":           {hosts: map[string]*fake{"a": roomy(1), "b": {err: volume.ErrDenied}}, err: volume.ErrUnavailable, says: "storage host b"},
		"the pool is gone":           {hosts: map[string]*fake{"a": roomy(1), "b": {retired: time.Now()}}, where: Placement{Pool: "slow"}, err: volume.ErrUnavailable, says: "b was declared gone"},
		"no host at all":             {hosts: nil, err: volume.ErrUnavailable},
		"the named one fails":        {hosts: map[string]*fake{"a": {err: volume.ErrNoSpace}}, where: Placement{Host: "a"}, err: volume.ErrNoSpace, says: "storage host a"},
		"the name is there, another": {hosts: map[string]*fake{"a": roomy(500), "b": {volumes: map[string]volume.Volume{"new": {UUID: uuid.New()}}}}, want: "b"},
		"the name is there, silence": {hosts: map[string]*fake{"a": {err: volume.ErrUnavailable}, "b": {volumes: map[string]volume.Volume{"new": {UUID: uuid.New()}}}}, want: "b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id, v, err := hosts(c.hosts).Create(t.Context(), volume.CreateRequest{Name: "new", RequiredBytes: c.bytes}, c.where)
			if c.err != nil {
				if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("error %v, want %v that says %q", err, c.err, c.says)
				}
				for name, f := range c.hosts {
					if len(f.volumes) > 0 {
						t.Errorf("host %s has made %v", name, f.volumes)
					}
				}
				return
			}
			if err != nil || id.Host != c.want || id.UUID != v.UUID || v.UUID == uuid.Nil {
				t.Errorf("made %s %+v, %v; want it on %s", id, v, err, c.want)
			}
		})
	}
}

// TestCreateHanging: a host that says nothing costs the caller's time, not more,
// and its silence is never taken for "not there".
func TestCreateHanging(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	a := roomy(100)
	done := make(chan error, 1)
	go func() {
		_, _, err := hosts(map[string]*fake{"a": a, "b": {hangs: true}}).Create(ctx, volume.CreateRequest{Name: "new"}, Placement{})
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, volume.ErrUnavailable) || len(a.volumes) > 0 {
		t.Errorf("%v; a has %v", err, a.volumes)
	}
}

func TestAvailable(t *testing.T) {
	t.Parallel()
	all := map[string]*fake{"a": roomy(100), "b": {pools: []volume.Pool{
		{Name: "fast", AvailableBytes: 30}, {Name: "slow", AvailableBytes: 200}, {Name: "broken", AvailableBytes: 999, Problem: "x"},
	}}}
	for _, c := range []struct {
		where          Placement
		total, largest int64
	}{
		{Placement{}, 330, 200}, {Placement{Host: "b"}, 230, 200}, {Placement{Pool: "fast"}, 130, 100},
		{Placement{Host: "b", Pool: "fast"}, 30, 30}, {Placement{Pool: "broken"}, 0, 0}, {Placement{Pool: "none"}, 0, 0},
	} {
		total, largest, err := hosts(all).Available(t.Context(), c.where)
		if err != nil || total != c.total || largest != c.largest {
			t.Errorf("%+v: %d, %d, %v; want %d, %d", c.where, total, largest, err, c.total, c.largest)
		}
	}
	all["c"] = &fake{hangs: true}
	if total, _, err := hosts(all).Available(t.Context(), Placement{Host: "a"}); err != nil || total != 100 {
		t.Errorf("another host hangs: %d, %v", total, err)
	}
	all["c"] = &fake{err: errors.New("broken")}
	if _, _, err := hosts(all).Available(t.Context(), Placement{}); !errors.Is(err, volume.ErrUnavailable) || !strings.Contains(err.Error(), "storage host c") {
		t.Errorf("one host fails: %v", err)
	}
	if _, _, err := hosts(all).Available(t.Context(), Placement{Host: "d"}); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("no such host: %v", err)
	}
}

func TestHost(t *testing.T) {
	t.Parallel()
	h := hosts(map[string]*fake{"b": {}, "a": {}})
	names := h.Names()
	if !slices.Equal(names, []string{"a", "b"}) {
		t.Errorf("names %v", names)
	}
	names[0] = "changed"
	if _, err := h.Host(h.Names()[0]); err != nil {
		t.Errorf("a name that is listed: %v", err)
	}
	// It may have been listed once, so it is not "not found".
	if _, err := h.Host("c"); !errors.Is(err, volume.ErrUnavailable) || !strings.Contains(err.Error(), "[a b]") {
		t.Errorf("a name that is not: %v", err)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	all := map[string]*fake{"a": {}, "b": {}, "c": {}}
	h := hosts(all)
	var want []string
	for i := range 7 {
		id, _, err := h.Create(t.Context(), volume.CreateRequest{Name: fmt.Sprint(i)}, Placement{Host: []string{"a", "c"}[i%2]})
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, id.String())
	}
	slices.Sort(want)
	list := func(after volume.ID, limit int) []string {
		t.Helper()
		entries, err := h.List(t.Context(), after, limit)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, e := range entries {
			out = append(out, e.ID.String())
		}
		return out
	}
	if diff := cmp.Diff(want, list(volume.ID{}, 0)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for after := range want {
		id, err := volume.ParseID(want[after])
		if err != nil {
			t.Fatal(err)
		}
		for limit := 1; limit < 9; limit++ {
			rest := want[after+1:]
			if got := list(id, limit); !slices.Equal(got, rest[:min(limit, len(rest))]) {
				t.Errorf("%d after %d: %v", limit, after, got)
			}
		}
	}
	all["c"].err = errors.New("broken")
	if got, err := h.List(t.Context(), volume.ID{}, 0); err == nil || got != nil || !strings.Contains(err.Error(), "storage host c") {
		t.Errorf("one host fails: %v, %v", got, err)
	}
	h = New(map[string]volume.Backend{"a": struct{ volume.Backend }{}})
	if _, err := h.List(t.Context(), volume.ID{}, 0); !errors.Is(err, volume.ErrUnsupported) {
		t.Errorf("a host that cannot list: %v", err)
	}
}
