package attached

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-csi/holdfast/internal/kube"
	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/internal/watch"
)

const id, here, there = "lun0", "node1", "node2"

// api is an API server.
type api struct {
	mu    sync.Mutex                 // guards all of it
	all   map[string]kube.Attachment // by name
	err   error
	asked int
}

func (a *api) Attachment(_ context.Context, name string) (kube.Attachment, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	found, ok := a.all[name]
	if a.err == nil && !ok {
		return kube.Attachment{}, volume.ErrNotFound
	}
	return found, a.err
}

func (a *api) Attachments(context.Context, string) (out []kube.Attachment, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, v := range a.all {
		out = append(out, v)
	}
	return out, a.err
}

// attach replaces what is at a node.
func (a *api) attach(node, uid string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all[Name(id, node)] = kube.Attachment{Name: Name(id, node), Node: node, UID: uid, Attached: true}
}

// bench is a node with a volume that serves.
type bench struct {
	*testing.T
	book   *Book
	api    *api
	dir    string
	mu     sync.Mutex
	volume Volume // guarded by mu
	stop   func()
}

// start begins a process of the node plugin.
func (b *bench) start() {
	b.Helper()
	book, err := New(Options{b.api, here, b.dir, slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	b.book, b.stop = book, func() { cancel(); synctest.Wait() }
	go book.Run(ctx, func() []Volume {
		b.mu.Lock()
		defer b.mu.Unlock()
		return []Volume{b.volume}
	})
	synctest.Wait()
}

func inBubble(t *testing.T, test func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a := &api{all: map[string]kube.Attachment{}}
		a.attach(here, "1")
		b := &bench{T: t, api: a, dir: t.TempDir(), volume: Volume{id, time.Now(), true}}
		b.start()
		test(b)
		b.stop()
	})
}

// is says how the volume is now.
func (b *bench) is(v Volume) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.volume = v
}

// pass lets time pass, and then everything come to rest.
func (b *bench) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (b *bench) expect(want watch.Owner) {
	b.Helper()
	got, err := b.book.Owners(b.Context(), []string{id})
	if got[id] != want || (err == nil) != (want != "") {
		b.Errorf("%q, %v; want %q", got, err, want)
	}
}

func TestOwner(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		then func(a *api)
		want watch.Owner
	}{
		"as it was":      {func(*api) {}, watch.Ours},
		"deleted":        {func(a *api) { delete(a.all, Name(id, here)) }, watch.Nobodys},
		"moved":          {func(a *api) { delete(a.all, Name(id, here)); a.attach(there, "2") }, watch.Anothers},
		"moved and back": {func(a *api) { a.attach(here, "3") }, watch.Anothers},
		"another volume's": {func(a *api) {
			delete(a.all, Name(id, here))
			a.all["csi-1"] = kube.Attachment{Name: "csi-1", Node: there}
		}, watch.Nobodys},
		"the API server is away": {func(a *api) { a.err = errors.New("no route to host") }, ""},
		"being detached": {func(a *api) {
			v := a.all[Name(id, here)]
			v.Deleted = true
			a.all[v.Name] = v
		}, watch.Nobodys},
		"not attached yet": {func(a *api) {
			v := a.all[Name(id, here)]
			v.Attached = false
			a.all[v.Name] = v
		}, watch.Nobodys},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(b *bench) {
				synctest.Wait()
				c.then(b.api)
				b.expect(c.want)
			})
		})
	}
}

// An attachment is asked for once for each stage and then seldom, and not during an
// outage.
func TestLearn(t *testing.T) {
	t.Parallel()
	inBubble(t, func(b *bench) {
		b.pass(fresh - time.Second)
		if b.api.asked != 1 {
			b.Errorf("asked %d times", b.api.asked)
		}
		b.api.attach(here, "2") // without an outage: it has not moved
		b.pass(every)
		b.expect(watch.Ours)
		b.api.attach(here, "3")
		b.is(Volume{id, time.Now(), true}) // unstaged, and staged again
		b.expect(watch.Ours)               // what is remembered is of another stage
		b.pass(every)
		b.api.attach(here, "4")
		b.is(Volume{id, b.volume.Staged, false})
		b.pass(time.Hour)
		b.expect(watch.Anothers)
	})
}

// A plugin that is started in the middle of an outage knows what the one before knew.
func TestRestart(t *testing.T) {
	t.Parallel()
	inBubble(t, func(b *bench) {
		b.stop()
		b.volume.Sure = false
		b.api.attach(here, "2")
		b.start()
		b.expect(watch.Anothers)
		b.api.attach(here, "1")
		b.expect(watch.Ours)
	})
}

// Of several volumes one is said to be whose it is also if another cannot be asked
// about, and all attachments are listed once.
func TestSeveral(t *testing.T) {
	t.Parallel()
	inBubble(t, func(b *bench) {
		got, err := b.book.Owners(b.Context(), []string{id, "unknown"})
		if err == nil || got[id] != watch.Ours || len(got) != 1 {
			b.Errorf("%v, %v", got, err)
		}
	})
}

// printf lun0csi.holdfast.ionode1 | sha256sum
func TestName(t *testing.T) {
	t.Parallel()
	if got := Name(id, here); got != "csi-1b627840551e5db53c44c9b6a0216b6d5d8960fdeefaf1ea0f43ad7bcad666cb" {
		t.Error(got)
	}
}
