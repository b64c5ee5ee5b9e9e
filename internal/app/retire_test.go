package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/internal/giveup"
	"github.com/holdfast-csi/holdfast/internal/kube"
	"github.com/holdfast-csi/holdfast/internal/retirement"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// registry is an API server and a storage host that write down what they are told.
type registry struct {
	data    map[string]string
	log     []string
	fails   string // the beginning of what fails
	marked  bool   // pvc-1 was marked before
	retired time.Time
	missing string // a PersistentVolume that was deleted meanwhile
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
	for _, k := range slices.Sorted(maps.Keys(data)) {
		what := "put"
		if data[k] == nil {
			what = "take"
		}
		if err := r.note("%s %s", what, k); err != nil {
			return err
		}
		if delete(r.data, k); data[k] != nil {
			r.data[k] = *data[k]
		}
	}
	return nil
}

func (r *registry) PersistentVolumes(context.Context, string) ([]kube.PersistentVolume, error) {
	all := []kube.PersistentVolume{
		{Name: "pvc-1", Handle: "box2:" + testUUID, Claim: "a/one", Size: "1Gi"},
		{Name: "pvc-2", Handle: "box1:" + testUUID}, {Name: "static", Handle: "box2"}, {Name: "pvc-3", Handle: "box2:" + testUUID},
	}
	if r.marked {
		all[0].Annotations = map[string]string{giveup.Annotation: all[0].Handle}
	}
	return all, r.note("list")
}

func (r *registry) Attachments(context.Context, string) ([]kube.Attachment, error) {
	return []kube.Attachment{
		{PersistentVolume: "pvc-1", Node: "node7", Metadata: map[string]string{"portals": "10.1.0.3:4420,10.2.0.3:4420"}},
		{PersistentVolume: "pvc-2", Node: "node8", Metadata: map[string]string{"portals": "10.1.0.2:4420"}},
		{PersistentVolume: "pvc-3", Node: "node8", Metadata: map[string]string{"portals": "10.1.0.3:4420"}},
	}, nil
}

func (r *registry) Annotate(_ context.Context, pv string, a kube.Patch) error {
	what := "unmark " + pv
	if v := a[giveup.Annotation]; v != nil {
		what = "mark " + pv + " " + *v
	}
	if err := r.note("%s", what); err != nil || pv != r.missing {
		return err
	}
	return volume.ErrNotFound
}

func (r *registry) Info(context.Context) (volume.HostInfo, error) {
	return volume.HostInfo{Retired: r.retired}, r.note("info")
}

func (r *registry) Retire(_ context.Context, at time.Time) error {
	r.retired = at
	return r.note("tell")
}

func (r *registry) Admit(context.Context, time.Time) error {
	if err := r.note("admit"); err != nil {
		return err
	}
	r.retired = time.Time{}
	return nil
}

const testUUID = "5f3c9a52-6a0e-4a63-9b53-0d6a6c1a7a11"

func newRegistrar(r *registry) (registrar, *bytes.Buffer) {
	var out bytes.Buffer
	return registrar{host: "box2", address: "10.0.0.3:9700", agent: r, cluster: r, configMap: "cm", out: &out}, &out
}

func (g registrar) held(t *testing.T) holding {
	t.Helper()
	h, err := g.holding(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestRetireHost(t *testing.T) {
	t.Parallel()
	r := &registry{data: map[string]string{}, missing: "pvc-3"}
	g, out := newRegistrar(r)
	h := g.held(t)
	g.show(h)
	if err := g.retire(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	want := []string{"list", "get cm", "put box2", "mark pvc-1 box2:" + testUUID, "mark pvc-3 box2:" + testUUID}
	if diff := cmp.Diff(want, r.log); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, text := range []string{"2 PersistentVolumes", "a/one", "node7", "is lost", "delete the pods"} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("it does not say %q:\n%s", text, out)
		}
	}
	// Again, after half of it failed: the declaration keeps its time.
	first := r.data["box2"]
	r.fails = "mark pvc-3"
	if err := g.retire(t.Context(), h); !errors.Is(err, errRegistry) || !strings.Contains(err.Error(), "run it again") {
		t.Errorf("got %v", err)
	}
	if r.data["box2"] != first {
		t.Errorf("declared at %s, then %s", first, r.data["box2"])
	}
	// What somebody wrote by hand and says nothing is replaced.
	r.fails, r.data["box2"] = "", "yes"
	if err := g.retire(t.Context(), holding{}); err != nil || r.data["box2"] == "yes" {
		t.Errorf("%v: %v", err, r.data)
	}
	// And nothing is marked if the declaration is not on record.
	r.log, r.fails, r.data = nil, "put", map[string]string{}
	if err := g.retire(t.Context(), h); !errors.Is(err, errRegistry) || len(r.log) != 2 {
		t.Errorf("%v: %v", err, r.log)
	}
}

// A declaration is later than what was taken back, whatever clock it was made by.
func TestRetireAfterAdmission(t *testing.T) {
	t.Parallel()
	ahead := time.Now().Add(time.Hour)
	r := &registry{data: map[string]string{"box2.admitted": retirement.Format(ahead)}}
	g, _ := newRegistrar(r)
	if err := g.retire(t.Context(), holding{}); err != nil {
		t.Fatal(err)
	}
	if at, err := retirement.Parse("box2", r.data["box2"]); err != nil || !at.After(ahead) {
		t.Errorf("declared at %s, %v; taken back before: %s", at, err, ahead)
	}
}

// Nodes heed only marks that were made during the outage that they see.
func TestRetireMarksAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &registry{data: map[string]string{}, marked: true}
		g, _ := newRegistrar(r)
		h, began := g.held(t), time.Now()
		if err := g.mark(t.Context(), h.volumes); err != nil {
			t.Fatal(err)
		}
		want := []string{"list", "unmark pvc-1", "mark pvc-1 box2:" + testUUID, "mark pvc-3 box2:" + testUUID}
		if diff := cmp.Diff(want, r.log); diff != "" || time.Since(began) != markPause {
			t.Errorf("after %s, -want +got:\n%s", time.Since(began), diff)
		}
	})
}

func TestAdmitHost(t *testing.T) {
	t.Parallel()
	all := []string{"get cm", "info", "tell", "admit", "list", "unmark pvc-1", "unmark pvc-3", "take box2", "put box2.admitted"}
	for name, c := range map[string]struct {
		fails string
		want  []string
		left  bool // the declaration
	}{
		"all well":            {want: all},
		"the host is not":     {fails: "info", want: all[:2], left: true},
		"nothing can be said": {fails: "get", want: all[:1], left: true},
		"it dies meanwhile":   {fails: "admit", want: all[:4], left: true},
		"marks stay":          {fails: "unmark pvc-1", want: all[:7], left: true},
		"the word stays":      {fails: "take", want: all[:8], left: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := retirement.Format(time.Now())
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
			// Said again when all is well it ends as if nothing had happened.
			r.fails = ""
			if err := g.admit(t.Context()); err != nil || !r.retired.IsZero() || r.data["box2"] != "" || r.data["box2.admitted"] != at {
				t.Errorf("again: %v, %v, %v", err, r.retired, r.data)
			}
		})
	}
	r := &registry{}
	g, out := newRegistrar(r)
	if err := g.admit(t.Context()); err != nil || !strings.Contains(out.String(), "not declared") || slices.Contains(r.log, "admit") {
		t.Errorf("not declared: %v, %v, %s", err, r.log, out)
	}
	// The word is lost, and the host has it.
	r = &registry{data: map[string]string{}, retired: time.Now()}
	g, _ = newRegistrar(r)
	if err := g.admit(t.Context()); err != nil || !r.retired.IsZero() {
		t.Errorf("the word is lost: %v, %v", err, r.log)
	}
}

// A host is silent only if it is so for the whole time, at every address.
func TestSilent(t *testing.T) {
	unknown := fmt.Errorf("x: %w", volume.ErrUnavailable)
	agent, portal := "10.0.0.3:9700", "10.2.0.3:4420"
	for name, c := range map[string]struct {
		answers map[string][]error // the last one goes on
		want    error
		tries   int
	}{
		"silent":                   {tries: 15},
		"there":                    {answers: map[string][]error{agent: {nil}}, want: volume.ErrPrecondition, tries: 1},
		"there after a boot":       {answers: map[string][]error{agent: {errSilent, errSilent, nil}}, want: volume.ErrPrecondition, tries: 7},
		"nobody can say":           {answers: map[string][]error{agent: {errSilent, unknown}}, want: volume.ErrUnavailable, tries: 4},
		"only the agent is silent": {answers: map[string][]error{portal: {nil}}, want: volume.ErrPrecondition, tries: 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tries, asked := 0, map[string]int{}
				g, _ := newRegistrar(&registry{})
				g.reach = func(_ context.Context, at string) error {
					tries++
					asked[at]++
					if list := c.answers[at]; len(list) > 0 {
						return list[min(asked[at], len(list))-1]
					}
					return errSilent
				}
				err := g.silent(t.Context(), g.held(t), 10*time.Second)
				if !errors.Is(err, c.want) || tries != c.tries {
					t.Errorf("%v after %d tries of %v", err, tries, asked)
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
	_, late := (&net.Dialer{Timeout: 1}).DialContext(t.Context(), "tcp", address)
	for err, silent := range map[error]bool{
		late: true, syscall.ETIMEDOUT: true, syscall.EHOSTUNREACH: true,
		syscall.ENETUNREACH: false, syscall.EACCES: false, syscall.EMFILE: false,
	} {
		var op *net.OpError
		if !errors.As(err, &op) {
			op = &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", err)}
		}
		if got := judge(op); errors.Is(got, errSilent) != silent || !silent && !errors.Is(got, volume.ErrUnavailable) {
			t.Errorf("%v: %v", err, got)
		}
	}
	if got := judge(&net.OpError{Op: "dial", Err: &net.DNSError{Err: "i/o timeout", IsTimeout: true}}); errors.Is(got, errSilent) {
		t.Errorf("a name server that is silent: %v", got)
	}
}
