package file

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestBlank(t *testing.T) {
	const size = 8 * mib
	punch := func(off, n int64) func(*os.File) error {
		return func(f *os.File) error {
			return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
		}
	}
	write := func(off int64, n int) func(*os.File) error {
		return func(f *os.File) error {
			_, err := f.WriteAt(make([]byte, n), off) // zeros are data too
			return err
		}
	}
	allocate := func(mode uint32, off, n int64) func(*os.File) error {
		return func(f *os.File) error { return unix.Fallocate(int(f.Fd()), mode, off, n) }
	}
	for _, c := range []struct {
		name  string
		want  bool
		steps []func(*os.File) error
	}{
		{"new", true, nil},
		{"only read", true, []func(*os.File) error{func(f *os.File) error { _, err := f.ReadAt(make([]byte, mib), 0); return err }}},
		{"first byte", false, []func(*os.File) error{write(0, 1)}},
		{"middle byte", false, []func(*os.File) error{write(size/2+1, 1)}},
		{"last byte", false, []func(*os.File) error{write(size-1, 1)}},
		{"fallocate", false, []func(*os.File) error{allocate(0, mib, 4096)}},
		{"fallocate beyond the end", false, []func(*os.File) error{allocate(unix.FALLOC_FL_KEEP_SIZE, size, mib)}},
		{"write and punch a part", false, []func(*os.File) error{write(0, 2*mib), punch(mib, mib)}},
		{"write and punch all", false, []func(*os.File) error{write(mib, 4096), (*os.File).Sync, punch(0, size)}},
		{"fallocate and punch all", false, []func(*os.File) error{allocate(0, mib, 4096), punch(0, size)}},
		{"truncate and grow", false, []func(*os.File) error{write(0, 1), func(f *os.File) error {
			return errors.Join(f.Truncate(0), f.Truncate(size))
		}}},
		{"empty", false, []func(*os.File) error{func(f *os.File) error { return f.Truncate(0) }}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPool(t)
			id := create(t, p, size)
			for _, step := range c.steps {
				change(t, p.Path(id), step)
			}
			got, err := p.Blank(t.Context(), id)
			if err != nil || got != c.want {
				t.Errorf("blank %v, %v; want %v", got, err, c.want)
			}
		})
	}
}

// Every one of the three signs is enough to deny; here the time alone is right.
func TestBlankDoesNotTrustTheTimeAlone(t *testing.T) {
	p := newPool(t)
	id := create(t, p, mib)
	writeAt(t, p.Path(id), 5000, []byte{1})
	if err := os.Chtimes(p.Path(id), time.Time{}, untouched); err != nil {
		t.Fatal(err)
	}
	if got, err := p.Blank(t.Context(), id); got || err != nil {
		t.Errorf("blank %v, %v", got, err)
	}
	other := create(t, p, mib)
	change(t, p.Path(other), func(f *os.File) error { return unix.Fallocate(int(f.Fd()), 0, 0, mib) })
	if err := os.Chtimes(p.Path(other), time.Time{}, untouched); err != nil {
		t.Fatal(err)
	}
	if got, err := p.Blank(t.Context(), other); got || err != nil {
		t.Errorf("preallocated: blank %v, %v", got, err)
	}
}

func TestBlankSurvivesReopenAndCreate(t *testing.T) {
	o := initPool(t)
	p := openPool(t, o)
	id := create(t, p, mib)
	if err := p.Create(t.Context(), id, mib); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := openPool(t, o).Blank(t.Context(), id); !got || err != nil {
		t.Errorf("blank %v, %v", got, err)
	}
}
