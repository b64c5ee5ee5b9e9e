package ownership

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type rig struct {
	*testing.T
	*Registry
	root string
	said *strings.Builder
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{T: t, root: t.TempDir(), said: &strings.Builder{}}
	r.Registry = New(filepath.Join(r.root, "run", "nvme", "registry"), filepath.Join(r.root, "sys"), slog.New(slog.NewTextHandler(r.said, nil)))
	r.event("41")
	return r
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// event is a uevent: the kernel's number is n.
func (r *rig) event(n string) {
	r.must(os.MkdirAll(filepath.Dir(r.seqnum), 0o755))
	r.must(os.WriteFile(r.seqnum, []byte(n+"\n"), 0o600))
}

// entry is one that somebody else writes.
func (r *rig) entry(controller string, files map[string]string) {
	dir := filepath.Join(r.dir, controller)
	r.must(os.MkdirAll(dir, 0o755))
	for name, text := range files {
		r.must(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
}

// want compares the whole tree, hidden names included: "MODE TEXT" by path.
func (r *rig) want(want map[string]string) {
	r.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		if !d.IsDir() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += " " + string(b)
		}
		rel, err := filepath.Rel(r.dir, path)
		if rel != "." {
			got[rel] = text
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		r.Errorf("registry (-want +got):\n%s", diff)
	}
}

func ours(controllers ...string) func() (map[string]bool, error) {
	m := map[string]bool{"nvme90": false}
	for _, c := range controllers {
		m[c] = true
	}
	return func() (map[string]bool, error) { return m, nil }
}

// whole is what libnvme writes for an owner of this name.
func whole(into map[string]string, controller, seqnum string) map[string]string {
	into[controller] = "drwxr-xr-x"
	into[controller+"/owner"] = "-rw-r--r-- holdfast\n"
	into[controller+"/seqnum"] = "-rw-r--r-- " + seqnum + "\n"
	return into
}

func TestClaim(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	r := newRig(t)
	r.want(map[string]string{})
	r.Claim("nvme3")
	r.want(whole(map[string]string{}, "nvme3", "41"))
	r.event("57")
	r.Claim("nvme3") // the number was free, and is ours again
	r.want(whole(map[string]string{}, "nvme3", "57"))
}

// What was there of an earlier controller of that name is gone whole.
func TestClaimReplacesWhatIsStale(t *testing.T) {
	r := newRig(t)
	r.entry("nvme3", map[string]string{"owner": "stas\n", "note": "private\n"})
	r.Claim("nvme3")
	r.want(whole(map[string]string{}, "nvme3", "41"))
}

func TestClaimWithoutNumber(t *testing.T) {
	r := newRig(t)
	r.must(os.Remove(r.seqnum))
	r.Claim("nvme3")
	r.want(map[string]string{"nvme3": "drwxr-xr-x", "nvme3/owner": "-rw-r--r-- holdfast\n"})
}

func TestKeep(t *testing.T) {
	r := newRig(t)
	for _, gone := range []string{"nvme1", "nvme90"} { // nvme90 is another's controller by now
		r.Claim(gone)
	}
	r.Claim("nvme2")
	r.entry("nvme4", map[string]string{"owner": "nbft"})
	r.entry("nvme5", map[string]string{"owner": "stas\n"}) // of ours, and somebody's wish
	r.entry("nvme6", map[string]string{"note": "no owner\n"})
	r.entry(".holdfast-nvme1-123", map[string]string{"owner": "hold"})
	r.entry(".nvme7.tmp.abc", map[string]string{"owner": "stas\n"})
	r.event("99")
	want := map[string]string{
		"nvme4": "drwxr-xr-x", "nvme4/owner": "-rw-r--r-- nbft",
		"nvme5": "drwxr-xr-x", "nvme5/owner": "-rw-r--r-- stas\n",
		"nvme6": "drwxr-xr-x", "nvme6/note": "-rw-r--r-- no owner\n",
		".nvme7.tmp.abc": "drwxr-xr-x", ".nvme7.tmp.abc/owner": "-rw-r--r-- stas\n",
	}
	whole(want, "nvme2", "41")
	whole(want, "nvme8", "99")
	for range 2 {
		r.Keep(ours("nvme2", "nvme5", "nvme8"))
		r.want(want)
	}
}

// Nothing of ours: not even the directory is made.
func TestKeepNothing(t *testing.T) {
	r := newRig(t)
	r.Keep(ours())
	if _, err := os.Stat(filepath.Join(r.root, "run")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// Who cannot see the controllers removes nothing.
func TestKeepBlind(t *testing.T) {
	r := newRig(t)
	r.Claim("nvme3")
	r.Keep(func() (map[string]bool, error) { return nil, errors.New("no sysfs") })
	r.want(whole(map[string]string{}, "nvme3", "41"))
}

func TestNames(t *testing.T) {
	r := newRig(t)
	for _, name := range []string{"", "nvme", "nvme1n1", "../nvme1", "nvme1/x", ".nvme1"} {
		r.Claim(name)
	}
	r.want(map[string]string{})
}

// A registry that cannot be written is said once, and once more after it could be.
func TestSaidOnce(t *testing.T) {
	r := newRig(t)
	file := filepath.Join(r.root, "run")
	r.must(os.WriteFile(file, nil, 0o600)) // where a directory has to be
	said := func(want int) {
		t.Helper()
		if n := strings.Count(r.said.String(), "\n"); n != want {
			t.Errorf("said %d times, want %d: %s", n, want, r.said)
		}
	}
	for range 3 {
		r.Claim("nvme3")
		r.Keep(ours("nvme3"))
	}
	said(1)
	r.must(os.Remove(file))
	r.Claim("nvme3")
	said(1)
	r.must(os.RemoveAll(file))
	r.must(os.WriteFile(file, nil, 0o600))
	r.Claim("nvme3")
	said(2)
}

// An entry that is replaced is whole at every moment: the rule of libnvme takes
// one without a number for one that may go.
func TestReplacedInOneStep(t *testing.T) {
	r := newRig(t)
	r.Claim("nvme3")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 300 {
			r.Claim("nvme3")
		}
	}()
	for {
		if _, err := os.ReadFile(filepath.Join(r.dir, "nvme3", seqnumFile)); err != nil {
			t.Fatal(err)
		}
		select {
		case <-done:
			r.want(whole(map[string]string{}, "nvme3", "41"))
			return
		default:
		}
	}
}
