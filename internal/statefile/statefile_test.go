package statefile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

type record struct {
	Name string
	List []string
	Next *record
}

func openDir(t *testing.T, path string) Dir[record] {
	t.Helper()
	d, err := Open[record](path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func files(t *testing.T, path string) []string {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestPutGetDelete(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a", "b")
	d := openDir(t, path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory %v, %v", info, err)
	}
	// A key is any text, and never a path.
	keys := []string{"vol-1", "", "../../etc/passwd", "/", ".", "a\x00b", "a\nb", strings.Repeat("x", 10000), "vol-1 "}
	for i, k := range keys {
		want := record{Name: k, List: []string{"x"}, Next: &record{Name: fmt.Sprint(i)}}
		if _, err := d.Get(k); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("%.20q: before: %v", k, err)
		}
		for range 2 {
			if err := d.Put(k, want); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := d.Get(k); err != nil || cmp.Diff(want, got) != "" {
			t.Errorf("%.20q: %v %s", k, err, cmp.Diff(want, got))
		}
	}
	names := files(t, path)
	if len(names) != len(keys) || slices.ContainsFunc(names, func(n string) bool { return len(n) != 32+len(suffix) }) {
		t.Errorf("files %v", names)
	}
	if info, err := os.Stat(filepath.Join(path, names[0])); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file %v, %v: it may hold a token", info, err)
	}
	again := openDir(t, path)
	if all, err := again.All(); err != nil || len(all) != len(keys) {
		t.Errorf("%d records, %v", len(all), err)
	}
	for range 2 {
		for _, k := range keys {
			if err := again.Delete(k); err != nil {
				t.Errorf("%.20q: %v", k, err)
			}
		}
	}
	if all, err := d.All(); err != nil || len(all) > 0 || len(files(t, path)) > 0 {
		t.Errorf("left %v, %v", all, err)
	}
}

// TestCrashLeftovers: a crash leaves half a file beside the old record, under a
// name of its own. It is removed, and what is whole stays.
func TestCrashLeftovers(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"plain", "with [brackets]*?"} {
		path := filepath.Join(t.TempDir(), name)
		d := openDir(t, path)
		if err := d.Put("k", record{Name: "old"}); err != nil {
			t.Fatal(err)
		}
		for _, left := range []string{".new-1", ".new-abc"} {
			if err := os.WriteFile(filepath.Join(path, left), []byte(`{"Name":"ne`), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if all, err := d.All(); err != nil || len(all) != 1 {
			t.Errorf("%s: half a file counts: %v, %v", name, all, err)
		}
		d = openDir(t, path)
		if got := files(t, path); len(got) != 1 {
			t.Errorf("%s: left %v", name, got)
		}
		if got, err := d.Get("k"); err != nil || got.Name != "old" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// TestDamaged: a record that cannot be read is an error, in All too: left out,
// its volume would seem not to be there.
func TestDamaged(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "{", `{"Name":"x"} {}`, `{"Name":1}`, "\x00\x00", "[]"} {
		path := t.TempDir()
		d := openDir(t, path)
		for _, k := range []string{"good", "bad"} {
			if err := d.Put(k, record{Name: k}); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(d.file("bad"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := d.Get("bad"); err == nil || errors.Is(err, volume.ErrNotFound) || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
		if all, err := d.All(); err == nil || all != nil {
			t.Errorf("%q: %v, %v", text, all, err)
		}
		if got, err := d.Get("good"); err != nil || got.Name != "good" {
			t.Errorf("%q: the other one: %+v, %v", text, got, err)
		}
		if err := d.Put("bad", record{Name: "new"}); err != nil {
			t.Errorf("%q: cannot be replaced: %v", text, err)
		}
	}
}

// TestFailures: what cannot be written is said, and nothing is half there.
func TestFailures(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "d")
	d := openDir(t, path)
	if err := d.Put("k", record{Name: "old"}); err != nil {
		t.Fatal(err)
	}
	// A directory in the place of the record: the rename fails.
	if err := os.Mkdir(d.file("other"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.Put("other", record{}); err == nil {
		t.Error("a directory was replaced")
	}
	if got := files(t, path); len(got) != 2 {
		t.Errorf("left %v", got)
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := d.Put("k", record{}); err == nil {
		t.Error("written without a directory")
	}
	if _, err := d.All(); err == nil {
		t.Error("a directory that is gone has no records")
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open[record](path); err == nil {
		t.Error("opened a file")
	}
	bad, err := Open[func()](t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := bad.Put("k", func() {}); err == nil {
		t.Error("what is no JSON was written")
	}
}

// TestConcurrent: readers see whole records only, old or new.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	d := openDir(t, path)
	long := strings.Repeat("x", 10000)
	var writers, readers sync.WaitGroup
	stop := make(chan struct{})
	for i := range 4 {
		key := fmt.Sprint(i % 2)
		writers.Go(func() {
			for n := range 30 {
				if err := d.Put(key, record{Name: long, List: []string{fmt.Sprint(n)}}); err != nil {
					t.Error(err)
				}
				if n%10 == 9 {
					if err := d.Delete(key); err != nil {
						t.Error(err)
					}
				}
			}
		})
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				all, err := d.All()
				if err != nil {
					t.Error(err)
					return
				}
				for _, r := range all {
					if r.Name != long || len(r.List) != 1 {
						t.Error("half a record")
					}
				}
				if _, err := d.Get(key); err != nil && !errors.Is(err, volume.ErrNotFound) {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	for _, f := range files(t, path) {
		if !strings.HasSuffix(f, suffix) {
			t.Errorf("left %s", f)
		}
	}
}

// TestVolatile: without flushes the files are the same, and a crash of the
// process leaves old or new.
func TestVolatile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "run")
	d, err := OpenVolatile[record](path)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"old", "new"} {
		if err := d.Put("k", record{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(path, ".new-1"), []byte(`{"Name":"ne`), 0o600); err != nil {
		t.Fatal(err)
	}
	durable := openDir(t, path)
	if got, err := durable.Get("k"); err != nil || got.Name != "new" {
		t.Errorf("%+v, %v", got, err)
	}
	if err := d.Delete("k"); err != nil {
		t.Error(err)
	}
	if left := files(t, path); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}
