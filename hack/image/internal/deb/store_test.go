package deb

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/hack/image/internal/rootfs"
)

// fakeApt has one package, whose .deb is its version. Its lists can be old ones that name what is gone.
type fakeApt struct {
	t       *testing.T
	version string // that can be had
	calls   []string
	stale   bool // until update
	offline bool
}

func (f *fakeApt) run(_ context.Context, dir string, argv ...string) ([]byte, error) {
	if argv[0] == "dpkg-deb" {
		return f.unpack(argv[1], argv[2])
	}
	if argv[1] != "-c" {
		f.t.Errorf("apt with the machine's own state: %q", argv)
	}
	f.calls = append(f.calls, argv[len(argv)-1])
	switch command := argv[len(argv)-1]; {
	case f.offline:
		return nil, errors.New("could not resolve")
	case command == "update":
		f.stale = false
		return nil, nil
	case f.stale:
		return nil, errors.New("404 Not Found")
	case slices.Contains(argv, "-s"):
		return []byte("Inst kmod (" + f.version + " Debian:12/stable [arm64])\n"), nil
	case slices.Contains(argv, "show"):
		return []byte("Package: kmod\nVersion: " + f.version + "\nSHA256: " + digest(f.version) + "\n\n"), nil
	case command == "kmod="+f.version:
		return nil, os.WriteFile(filepath.Join(dir, "kmod_"+f.version+"_arm64.deb"), []byte(f.version), 0o644)
	default:
		return nil, errors.New("E: Version was not found")
	}
}

func (f *fakeApt) unpack(what, file string) ([]byte, error) {
	content, err := os.ReadFile(file)
	if err != nil || what == "--field" {
		return []byte("Package: kmod\n"), err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "./bin/kmod", Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	return b.Bytes(), w.Close()
}

func digest(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

// open makes a store whose lists are young.
func open(t *testing.T, f *fakeApt) *Store {
	t.Helper()
	f.t = t
	a := &Apt{Run: f.run, Dir: t.TempDir(), Arch: "arm64"}
	if err := errors.Join(a.Prepare(), os.WriteFile(a.stamp(), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	return &Store{Run: f.run, Apt: a, Dir: t.TempDir()}
}

// unpack returns what the package's only file has in it.
func unpack(t *testing.T, s *Store, p Package) (string, error) {
	t.Helper()
	tree := &rootfs.Tree{}
	_, err := s.Unpack(t.Context(), p, tree)
	file, _ := tree.Get("/bin/kmod")
	if left, globErr := filepath.Glob(filepath.Join(s.Dir, ".fetch-*")); globErr != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, globErr)
	}
	return string(file.Data), err
}

func kmod(version string) Package {
	return Package{Name: "kmod", Version: version, SHA256: digest(version)}
}

func TestFetch(t *testing.T) {
	f := &fakeApt{version: "1:30"}
	s := open(t, f)
	want := []string{"kmod=1:30"}
	for range 2 { // the second time from the directory
		if got, err := unpack(t, s, kmod("1:30")); got != "1:30" || err != nil || !slices.Equal(f.calls, want) {
			t.Errorf("got %q, %v, calls %q", got, err, f.calls)
		}
	}
	file := filepath.Join(s.Dir, "kmod_1%3a30_arm64.deb")
	if err := os.WriteFile(file, []byte("tampered"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := unpack(t, s, kmod("1:30")); got != "1:30" || err != nil {
		t.Errorf("after tampering: %q, %v", got, err)
	}
	other := kmod("1:30")
	other.SHA256 = digest("another build")
	if _, err := unpack(t, s, other); !errors.Is(err, errSum) {
		t.Errorf("another digest: %v", err)
	}
}

func TestFetchGone(t *testing.T) {
	f := &fakeApt{version: "31"}
	s := open(t, f)
	_, err := unpack(t, s, kmod("30"))
	if err == nil || !strings.Contains(err.Error(), "kmod 30 for arm64, which apt's sources may no longer have") {
		t.Errorf("got %v", err)
	}
	if want := []string{"kmod=30", "update", "kmod=30"}; !slices.Equal(f.calls, want) {
		t.Errorf("calls %q, want %q", f.calls, want)
	}
}

func TestLists(t *testing.T) {
	for name, c := range map[string]struct {
		age     time.Duration
		refresh bool
		fake    fakeApt
		updates int
		fails   bool
	}{
		"young":              {age: time.Hour},
		"old":                {age: 25 * time.Hour, updates: 1},
		"of the future":      {age: -25 * time.Hour, updates: 1},
		"young, refresh":     {refresh: true, updates: 1},
		"young, but useless": {fake: fakeApt{stale: true}, updates: 1},
		"old, no network":    {age: 25 * time.Hour, fake: fakeApt{offline: true}, updates: 1, fails: true},
		"young, no network":  {fake: fakeApt{offline: true}, updates: 1, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			f := c.fake
			f.version = "30"
			s := open(t, &f)
			s.Apt.Refresh = c.refresh
			when := time.Now().Add(-c.age)
			if err := os.Chtimes(s.Apt.stamp(), when, when); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				got, err := s.Resolve(t.Context(), []string{"kmod"})
				if c.fails {
					if err == nil || !strings.Contains(err.Error(), "could not resolve") {
						t.Errorf("got %v, %v", got, err)
					}
					return
				}
				if err != nil || len(got) != 1 || got[0].SHA256 != digest("30") {
					t.Errorf("got %v, %v", got, err)
				}
			}
			updates := 0
			for _, call := range f.calls {
				if call == "update" {
					updates++
				}
			}
			if updates != c.updates {
				t.Errorf("%d updates, want %d: %q", updates, c.updates, f.calls)
			}
		})
	}
}

func TestPrepare(t *testing.T) {
	a := &Apt{Dir: t.TempDir(), Arch: "arm64", Sources: "/etc/release.sources"}
	if err := a.Prepare(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(a.Dir, "apt.conf"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`Dir::State "` + a.Dir + `/state";`, `APT::Architecture "arm64";`, `Dir::Etc::sourcelist "/etc/release.sources";`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	a.Sources = `/etc/x"; APT::Update::Pre-Invoke "date`
	if err := a.Prepare(); err == nil || !strings.Contains(err.Error(), "quote") {
		t.Errorf("a quote in a path: %v", err)
	}
}
