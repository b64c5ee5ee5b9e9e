package nvmesysfs_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/initiator/initiatortest"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
)

// What the recorder (record_kernel_test.go) sets up, and what must be read from
// the recording.
const (
	sceneNQN     = "nqn.2026-11.io.holdfast:fixture:a"
	sceneOther   = "nqn.2026-11.io.holdfast:fixture:b"
	sceneHostID  = "7a0c2f0e-5a3c-4c8e-9d3e-0c1d2e3f4a5b"
	sceneHostNQN = "nqn.2014-08.org.nvmexpress:uuid:" + sceneHostID
)

var (
	scenePortalA = netip.MustParseAddrPort("127.0.0.1:4431")
	scenePortalB = netip.MustParseAddrPort("127.0.0.1:4432")
	scenePortalC = netip.MustParseAddrPort("127.0.0.1:4433") //nolint:unused // with the build tag kernel: accepts and says nothing

	sceneNS1 = initiatortest.Namespace{
		NSID: 1, SizeBytes: 64 << 20, UUID: uuid.MustParse("11111111-2222-4333-8444-555555555501"),
		NGUID: uuid.MustParse("aaaaaaaa-bbbb-5ccc-8ddd-eeeeeeeeee01"),
	}
	sceneNS5000 = initiatortest.Namespace{
		NSID: 5000, SizeBytes: 16 << 20, UUID: uuid.MustParse("11111111-2222-4333-8444-555555555502"),
		NGUID: uuid.MustParse("aaaaaaaa-bbbb-5ccc-8ddd-eeeeeeeeee02"),
	}
)

// scenes maps a recording's name to what is expected of sceneNQN in it.
var scenes = map[string]struct {
	portals    []netip.AddrPort
	states     []string
	namespaces int // NS1 first, then NS5000
	multipath  bool
}{
	"one-path":      {[]netip.AddrPort{scenePortalA}, []string{"live"}, 2, true},
	"two-paths":     {[]netip.AddrPort{scenePortalA, scenePortalB}, []string{"live", "live"}, 2, true},
	"connecting":    {[]netip.AddrPort{scenePortalA}, []string{"connecting"}, 1, true},
	"no-namespace":  {[]netip.AddrPort{scenePortalA}, []string{"live"}, 0, true},
	"held-open":     {nil, nil, 0, true},
	"being-made":    {nil, nil, 0, true},
	"multipath-off": {[]netip.AddrPort{scenePortalA}, []string{"live"}, 2, false},
}

func TestRecordings(t *testing.T) {
	files, err := filepath.Glob("testdata/sysfs-*.tar.gz")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".tar.gz")
		t.Run(name, func(t *testing.T) {
			archive, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			root := t.TempDir()
			if err := initiatortest.Unpack(archive, root); err != nil {
				t.Fatal(err)
			}
			checkScene(t, nvmesysfs.FS{Sys: root, Dev: filepath.Join(root, "dev")}, name)
		})
	}
}

// sceneOf cuts sysfs-6.12.117-one-path down to one-path.
func sceneOf(t *testing.T, recording string) string {
	t.Helper()
	for scene := range scenes {
		if strings.HasSuffix(recording, "-"+scene) {
			return scene
		}
	}
	t.Fatalf("%s is none of the known scenes", recording)
	return ""
}

func checkScene(t *testing.T, f nvmesysfs.FS, recording string) {
	t.Helper()
	want := scenes[sceneOf(t, recording)]
	s, err := f.Session(sceneNQN)
	if err != nil {
		t.Fatal(err)
	}
	if mp, err := f.MultipathEnabled(); err != nil || mp != want.multipath {
		t.Errorf("multipath %t, %v", mp, err)
	}
	if len(s.Controllers) != len(want.states) {
		t.Fatalf("controllers %+v, want %d", s.Controllers, len(want.states))
	}
	for i, c := range s.Controllers {
		checkController(t, f, c, want.states[i], want.portals[i])
	}
	if len(s.Namespaces) != want.namespaces {
		t.Fatalf("namespaces %+v, want %d", s.Namespaces, want.namespaces)
	}
	for i, ns := range s.Namespaces {
		checkNamespace(t, ns, []initiatortest.Namespace{sceneNS1, sceneNS5000}[i], s.Controllers)
	}
	checkAll(t, f, s)
}

// checkAll: the snapshot of all is that of each subsystem together.
func checkAll(t *testing.T, f nvmesysfs.FS, s nvmesysfs.Snapshot) {
	t.Helper()
	all, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	other, err := f.Session(sceneOther)
	if err != nil {
		t.Fatal(err)
	}
	if len(all.Controllers) != len(s.Controllers)+len(other.Controllers) || len(all.Namespaces) != len(s.Namespaces)+len(other.Namespaces) {
		t.Errorf("all %+v, of the one %+v, of the other %+v", all, s, other)
	}
}

func checkController(t *testing.T, f nvmesysfs.FS, c nvmesysfs.Controller, state string, portal netip.AddrPort) {
	t.Helper()
	if p, ok := c.Portal(); !ok || p != portal {
		t.Errorf("%s: portal %v, want %v", c.Name, p, portal)
	}
	if c.State != state || c.NQN != sceneNQN || c.Transport != "tcp" || c.HostNQN != sceneHostNQN || c.HostID != sceneHostID ||
		c.CtrlLossTmo != 60 || c.ReconnectDelay != 3 || c.KATO != 5 || c.FastIOFailTmo != -1 || c.QueueCount < 1 || c.Subsystem == "" {
		t.Errorf("%+v, want state %s", c, state)
	}
	if got, err := f.State(c.Name); err != nil || got != state {
		t.Errorf("State(%s) = %q, %v", c.Name, got, err)
	}
}

func checkNamespace(t *testing.T, ns nvmesysfs.Namespace, want initiatortest.Namespace, controllers []nvmesysfs.Controller) {
	t.Helper()
	if ns.NSID != want.NSID || ns.UUID != want.UUID || ns.NGUID != want.NGUID || ns.SizeBytes != want.SizeBytes ||
		ns.BlockSize != 4096 || ns.ReadOnly || ns.NQN != sceneNQN || ns.Major == 0 {
		t.Errorf("%+v, want %+v", ns, want)
	}
	for _, c := range controllers {
		if !slices.Contains(ns.Controllers, c.Name) {
			t.Errorf("%s has no path to %s: %v", c.Name, ns.Disk, ns.Controllers)
		}
	}
}
