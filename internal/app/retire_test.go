package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/internal/kube"
	"github.com/holdfast-csi/holdfast/internal/retirement"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// registry is an API server and a storage host that write down what they are told.
type registry struct {
	data  map[string]string
	log   []string
	fails string // the beginning of what fails
}

var errRegistry = errors.New("the API server is away")

func (r *registry) note(format string, args ...any) error {
	line := fmt.Sprintf(format, args...)
	r.log = append(r.log, line)
	if r.fails != "" && strings.HasPrefix(line, r.fails) {
		return errRegistry
	}
	return nil
}

func (r *registry) ConfigMap(_ context.Context, name string) (map[string]string, error) {
	return r.data, r.note("get %s", name)
}

func (r *registry) PatchConfigMap(_ context.Context, _ string, data kube.Patch) error {
	for k, v := range data {
		if v == nil {
			delete(r.data, k)
			return r.note("take %s", k)
		}
		r.data[k] = *v
		return r.note("put %s", k)
	}
	return nil
}

func (r *registry) PersistentVolumes(context.Context, string) ([]kube.PersistentVolume, error) {
	return []kube.PersistentVolume{
		{Name: "pvc-1", Handle: "box2:" + testUUID, Claim: "a/one", Size: "1Gi", Phase: "Bound"},
		{Name: "pvc-2", Handle: "box1:" + testUUID}, {Name: "static", Handle: "box2"}, {Name: "pvc-3", Handle: "box2:" + testUUID},
	}, r.note("list")
}

func (r *registry) Annotate(_ context.Context, pv string, a kube.Patch) error {
	for _, v := range a {
		if v == nil {
			return r.note("unmark %s", pv)
		}
		return r.note("mark %s %s", pv, *v)
	}
	return nil
}

func (r *registry) Retire(context.Context, time.Time) error { return r.note("tell") }
func (r *registry) Admit(context.Context, time.Time) error  { return r.note("admit") }

const testUUID = "5f3c9a52-6a0e-4a63-9b53-0d6a6c1a7a11"

func newRegistrar(r *registry) (registrar, *bytes.Buffer) {
	var out bytes.Buffer
	return registrar{host: "box2", address: "10.0.0.3:9700", agent: r, cluster: r, configMap: "cm", out: &out}, &out
}

func TestRetireHost(t *testing.T) {
	t.Parallel()
	r := &registry{data: map[string]string{}}
	g, out := newRegistrar(r)
	list, err := g.volumes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g.show(list)
	if err := g.retire(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	want := []string{"list", "get cm", "put box2", "mark pvc-1 box2:" + testUUID, "mark pvc-3 box2:" + testUUID}
	if diff := cmp.Diff(want, r.log); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, text := range []string{"2 PersistentVolumes", "a/one", "is lost", "delete the pods"} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("it does not say %q:\n%s", text, out)
		}
	}
	// Again, after half of it failed: the declaration keeps its time.
	first := r.data["box2"]
	r.fails = "mark pvc-3"
	if err := g.retire(t.Context(), list); !errors.Is(err, errRegistry) || !strings.Contains(err.Error(), "run it again") {
		t.Errorf("got %v", err)
	}
	if r.data["box2"] != first {
		t.Errorf("declared at %s, then %s", first, r.data["box2"])
	}
	// What somebody wrote by hand and says nothing is replaced.
	r.fails, r.data["box2"] = "", "yes"
	if err := g.retire(t.Context(), nil); err != nil || r.data["box2"] == "yes" {
		t.Errorf("%v: %v", err, r.data)
	}
	// And nothing is marked if the declaration is not on record.
	r.log, r.fails, r.data = nil, "put", map[string]string{}
	if err := g.retire(t.Context(), list); !errors.Is(err, errRegistry) || len(r.log) != 2 {
		t.Errorf("%v: %v", err, r.log)
	}
}

func TestAdmitHost(t *testing.T) {
	t.Parallel()
	at := retirement.Format(time.Now())
	for name, c := range map[string]struct {
		fails string
		want  []string
		left  bool // the declaration
	}{
		"all well":            {want: []string{"get cm", "tell", "take box2", "admit", "list", "unmark pvc-1", "unmark pvc-3"}},
		"the host is not":     {fails: "tell", want: []string{"get cm", "tell"}, left: true},
		"nothing can be said": {fails: "get", want: []string{"get cm"}, left: true},
		"it dies meanwhile":   {fails: "admit", want: []string{"get cm", "tell", "take box2", "admit", "put box2"}, left: true},
		"marks stay":          {fails: "unmark pvc-1", want: []string{"get cm", "tell", "take box2", "admit", "list", "unmark pvc-1", "unmark pvc-3"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &registry{data: map[string]string{"box2": at}, fails: c.fails}
			g, _ := newRegistrar(r)
			if err := g.admit(t.Context()); (err != nil) != (c.fails != "") {
				t.Errorf("got %v", err)
			}
			if diff := cmp.Diff(c.want, r.log); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if (r.data["box2"] == at) != c.left {
				t.Errorf("left: %v", r.data)
			}
		})
	}
	r := &registry{}
	g, out := newRegistrar(r)
	if err := g.admit(t.Context()); err != nil || !strings.Contains(out.String(), "not declared") || slices.Contains(r.log, "admit") {
		t.Errorf("not declared: %v, %v, %s", err, r.log, out)
	}
}

// A host is silent only if it is so for the whole time.
func TestSilent(t *testing.T) {
	dns := fmt.Errorf("x: %w", volume.ErrUnavailable)
	for name, c := range map[string]struct {
		answers []error // the last one goes on
		want    error
		tries   int
	}{
		"silent":             {answers: []error{errSilent}, tries: 5},
		"there":              {answers: []error{nil}, want: volume.ErrPrecondition, tries: 1},
		"there after a boot": {answers: []error{errSilent, errSilent, nil}, want: volume.ErrPrecondition, tries: 3},
		"nobody can say":     {answers: []error{errSilent, dns}, want: volume.ErrUnavailable, tries: 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tries := 0
				g, _ := newRegistrar(&registry{})
				g.reach = func(context.Context, string) error {
					tries++
					return c.answers[min(tries, len(c.answers))-1]
				}
				err := g.silent(t.Context(), 10*time.Second)
				if !errors.Is(err, c.want) || tries != c.tries {
					t.Errorf("%v after %d tries", err, tries)
				}
			})
		})
	}
}

func TestReach(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := reach(t.Context(), address); err != nil {
		t.Errorf("one that listens: %v", err)
	}
	_ = l.Close()
	if err := reach(t.Context(), address); err != nil {
		t.Errorf("one that refuses: %v", err)
	}
	if err := reach(t.Context(), "name.invalid:1"); !errors.Is(err, volume.ErrUnavailable) || errors.Is(err, errSilent) {
		t.Errorf("a name that is none: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := reach(ctx, address); !errors.Is(err, context.Canceled) || errors.Is(err, errSilent) {
		t.Errorf("whoever stops it has learned nothing: %v", err)
	}
}
