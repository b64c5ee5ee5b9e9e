package file

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/pool"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

const mib = 1 << 20

// newPool uses HOLDFAST_TEST_POOL_DIR if set, so that the same tests can be run
// on each kind of file system.
func newPool(t *testing.T) *Pool {
	t.Helper()
	return openPool(t, initPool(t))
}

func initPool(t *testing.T) Options {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if base := os.Getenv("HOLDFAST_TEST_POOL_DIR"); base != "" && err == nil {
		dir, err = os.MkdirTemp(base, "pool-*")
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
	}
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Name: "fast", Dir: dir, Installation: "inst-1", AllowAnyFS: true}
	if err := Init(o); err != nil {
		t.Fatal(err)
	}
	return o
}

func openPool(t *testing.T, o Options) *Pool {
	t.Helper()
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func create(t *testing.T, p *Pool, size int64) uuid.UUID {
	t.Helper()
	id := uuid.New()
	if err := p.Create(t.Context(), id, size); err != nil {
		t.Fatal(err)
	}
	return id
}

func wantErr(t *testing.T, err, want error, texts ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not name %q", err, text)
		}
	}
}

func TestCreateInspectDelete(t *testing.T) {
	p, ctx := newPool(t), t.Context()
	id := create(t, p, 64*mib)
	got, err := p.Inspect(ctx, id)
	if err != nil || got != (pool.Info{SizeBytes: 64 * mib}) {
		t.Errorf("%+v, %v", got, err)
	}
	fi, err := os.Lstat(p.Path(id))
	if err != nil || fi.Mode() != 0o600 || fi.Size() != 64*mib {
		t.Errorf("%v, %v", fi, err)
	}
	if err := p.Create(ctx, id, 64*mib); err != nil {
		t.Errorf("again: %v", err)
	}
	wantErr(t, p.Create(ctx, id, 32*mib), volume.ErrExists, id.String(), "fast")
	for range 2 {
		if err := p.Delete(ctx, id); err != nil {
			t.Error(err)
		}
	}
	_, err = p.Inspect(ctx, id)
	wantErr(t, err, volume.ErrNotFound, id.String())
	_, err = p.Blank(ctx, id)
	wantErr(t, err, volume.ErrNotFound, id.String())
}

func TestCreateKeepsData(t *testing.T) {
	p := newPool(t)
	id := create(t, p, mib)
	writeAt(t, p.Path(id), 4096, []byte("data"))
	if err := p.Create(t.Context(), id, mib); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(p.Path(id))
	if err != nil || string(b[4096:4100]) != "data" {
		t.Errorf("the data are gone: %v", err)
	}
}

func TestCreateRefuses(t *testing.T) {
	p, ctx := newPool(t), t.Context()
	for _, size := range []int64{0, -4096, 4097, 100} {
		wantErr(t, p.Create(ctx, uuid.New(), size), volume.ErrInvalid)
	}
	wantErr(t, p.Create(ctx, uuid.Nil, mib), volume.ErrInvalid)
	wantErr(t, p.Create(ctx, uuid.New(), 1<<60), volume.ErrNoSpace, "fast")
	if !errors.Is(spaceError(unix.EFBIG), volume.ErrNoSpace) || !errors.Is(spaceError(unix.ENOSPC), volume.ErrNoSpace) {
		t.Error("errors of the file system are not told as lack of space")
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	wantErr(t, p.Create(cancelled, uuid.New(), mib), context.Canceled)
	if ids, err := p.List(ctx); len(ids) != 0 || err != nil {
		t.Errorf("%v, %v", ids, err)
	}
}

func TestOtherThingsAreNotVolumes(t *testing.T) {
	p, ctx, id := newPool(t), t.Context(), uuid.New()
	if err := os.Mkdir(p.Path(id), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := p.Inspect(ctx, id)
	wantErr(t, err, volume.ErrPrecondition, p.Path(id))
	wantErr(t, p.Create(ctx, id, mib), volume.ErrPrecondition)
	wantErr(t, p.Delete(ctx, id), volume.ErrPrecondition)
	link := uuid.New()
	if err := os.Symlink("/etc/hostname", p.Path(link)); err != nil {
		t.Fatal(err)
	}
	_, err = p.Blank(ctx, link)
	wantErr(t, err, volume.ErrPrecondition, p.Path(link))
}

func TestListIsSortedAndStrict(t *testing.T) {
	p, ctx := newPool(t), t.Context()
	var want []uuid.UUID
	for _, n := range []byte{7, 1, 200} {
		id := uuid.UUID{0: n, 15: 1}
		if err := p.Create(ctx, id, mib); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []byte{1, 7, 200} {
		want = append(want, uuid.UUID{0: n, 15: 1})
	}
	for _, name := range []string{"x.img", uuid.NewString(), strings.ToUpper(uuid.NewString()) + ".img", ".new-" + uuid.NewString()} {
		touch(t, filepath.Join(p.opts.Dir, volumesDir, name))
	}
	got, err := p.List(ctx)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
}

func TestLeftoversAreRemoved(t *testing.T) {
	o := initPool(t)
	p := openPool(t, o)
	id := create(t, p, mib)
	left := filepath.Join(o.Dir, volumesDir, newPrefix+uuid.NewString())
	touch(t, left)
	openPool(t, o)
	if _, err := os.Lstat(left); !os.IsNotExist(err) {
		t.Errorf("leftover: %v", err)
	}
	if _, err := p.Inspect(t.Context(), id); err != nil {
		t.Error(err)
	}
	// One of the same volume does not stand in the way either.
	again := uuid.New()
	touch(t, filepath.Join(o.Dir, volumesDir, newPrefix+again.String()))
	if err := p.Create(t.Context(), again, mib); err != nil {
		t.Error(err)
	}
}

func TestConcurrentCreate(t *testing.T) {
	p, ctx, id := newPool(t), t.Context(), uuid.New()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := p.Create(ctx, id, mib); err != nil && !errors.Is(err, volume.ErrBusy) {
				t.Error(err)
			}
			if _, err := p.Capacity(ctx); err != nil {
				t.Error(err)
			}
			if _, err := p.List(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if info, err := p.Inspect(ctx, id); err != nil || info.SizeBytes != mib {
		t.Errorf("%+v, %v", info, err)
	}
}

// A directory that is no longer the one opened must not make volumes "not
// found", nor deleted.
func TestReplacedDirectoryIsNoticed(t *testing.T) {
	p, ctx := newPool(t), t.Context()
	id := create(t, p, mib)
	dir := filepath.Join(p.opts.Dir, volumesDir)
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		_, e1 := p.Inspect(ctx, id)
		_, e2 := p.Blank(ctx, id)
		_, e3 := p.List(ctx)
		_, e4 := p.Capacity(ctx)
		for _, err := range []error{e1, e2, e3, e4, p.Delete(ctx, id), p.Create(ctx, id, mib)} {
			wantErr(t, err, volume.ErrPrecondition, dir)
			if errors.Is(err, volume.ErrNotFound) {
				t.Errorf("absence claimed: %v", err)
			}
		}
	}
	check()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	check()
}

func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func writeAt(t *testing.T, path string, off int64, b []byte) {
	t.Helper()
	change(t, path, func(f *os.File) error {
		_, err := f.WriteAt(b, off)
		return err
	})
}

func change(t *testing.T, path string, fn func(*os.File) error) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(fn(f), f.Close()); err != nil {
		t.Fatal(err)
	}
}
