package nvmesysfs_test

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/initiator/initiatortest"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

// recording unpacks one recording of the newer kernel.
func recording(t *testing.T, scene string) nvmesysfs.FS {
	t.Helper()
	files, err := filepath.Glob("testdata/sysfs-6.12.*-" + scene + ".tar.gz")
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := initiatortest.Unpack(b, filepath.Join(root, "sys")); err != nil {
		t.Fatal(err)
	}
	return nvmesysfs.FS{Sys: filepath.Join(root, "sys"), Dev: filepath.Join(root, "dev")}
}

func TestNoNVMe(t *testing.T) {
	f := nvmesysfs.FS{Sys: t.TempDir(), Dev: t.TempDir()}
	if s, err := f.Snapshot(); err != nil || len(s.Controllers)+len(s.Namespaces) != 0 {
		t.Errorf("got %+v, %v", s, err)
	}
	if on, err := f.MultipathEnabled(); err != nil || on {
		t.Errorf("multipath %t, %v", on, err)
	}
	if _, err := f.AdminTimeout(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, err := f.State("nvme0"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestAdminTimeout(t *testing.T) {
	f := recording(t, "two-paths")
	dir := filepath.Join(f.Sys, "module", "nvme_core", "parameters")
	if err := os.WriteFile(filepath.Join(dir, "admin_timeout"), []byte("60\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []time.Duration{0, -time.Second, 1500 * time.Millisecond} {
		if err := f.SetAdminTimeout(bad); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
	if d, err := f.AdminTimeout(); err != nil || d != time.Minute {
		t.Errorf("got %v, %v", d, err)
	}
	if err := f.SetAdminTimeout(7 * time.Second); err != nil {
		t.Error(err)
	}
	if d, err := f.AdminTimeout(); err != nil || d != 7*time.Second {
		t.Errorf("got %v, %v", d, err)
	}
}

// Whatever file or directory is gone by the time it is read: no error, and
// nothing half-read.
func TestVanishing(t *testing.T) {
	whole, err := recording(t, "two-paths").Session(sceneNQN)
	if err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{
		"class/nvme-subsystem", "class/nvme-subsystem/*", "class/nvme", "class/nvme/*", "class/nvme-subsystem/*/subsysnqn",
		"class/nvme-subsystem/*/nvme[0-9]", "class/nvme/*/state", "class/nvme/*/subsysnqn", "class/nvme/*/transport",
		"devices/virtual/nvme-fabrics/ctl/nvme*", "class/nvme-subsystem/*/nvme*n*", "class/nvme-subsystem/*/nvme*n*/nsid",
		"class/nvme-subsystem/*/nvme*n*/size", "class/nvme-subsystem/*/nvme*n*/dev", "class/nvme-subsystem/*/nvme*n*/ro",
		"class/nvme-subsystem/*/nvme*n*/queue", "class/nvme-subsystem/*/nvme*n*/wwid",
	} {
		t.Run(gone, func(t *testing.T) {
			f := recording(t, "two-paths")
			victims, err := filepath.Glob(filepath.Join(f.Sys, gone))
			if err != nil || len(victims) == 0 {
				t.Fatalf("%v, %v", victims, err)
			}
			if err := os.RemoveAll(victims[0]); err != nil {
				t.Fatal(err)
			}
			s, err := f.Session(sceneNQN)
			if err != nil {
				t.Fatal(err)
			}
			if len(s.Controllers) == len(whole.Controllers) && len(s.Namespaces) == len(whole.Namespaces) {
				t.Errorf("nothing is missing: %+v", s)
			}
			for _, c := range s.Controllers {
				if c.State != "live" || c.HostNQN != sceneHostNQN || c.Traddr == "" {
					t.Errorf("half of a controller: %+v", c)
				}
			}
			for _, ns := range s.Namespaces {
				if ns.NSID == 0 || ns.SizeBytes == 0 || ns.BlockSize == 0 || ns.Major == 0 || ns.UUID == uuid.Nil {
					t.Errorf("half of a namespace: %+v", ns)
				}
			}
		})
	}
}

// Attributes that not every kernel or namespace has.
func TestOptionalAttributes(t *testing.T) {
	f := recording(t, "one-path")
	for _, gone := range []string{"class/nvme/*/fast_io_fail_tmo", "class/nvme/*/kato", "class/nvme/*/hostid", "class/nvme-subsystem/*/nvme*n*/nguid"} {
		victims, err := filepath.Glob(filepath.Join(f.Sys, gone))
		if err != nil || len(victims) == 0 {
			t.Fatalf("%s: %v, %v", gone, victims, err)
		}
		for _, v := range victims {
			if err := os.Remove(v); err != nil {
				t.Fatal(err)
			}
		}
	}
	s, err := f.Session(sceneNQN)
	if err != nil || len(s.Controllers) != 1 || len(s.Namespaces) != 2 {
		t.Fatalf("got %+v, %v", s, err)
	}
	if c := s.Controllers[0]; c.FastIOFailTmo != -1 || c.KATO != -1 || c.HostID != "" {
		t.Errorf("%+v", c)
	}
	if ns := s.Namespaces[0]; ns.UUID != sceneNS1.UUID || ns.NGUID != uuid.Nil {
		t.Errorf("%+v", ns)
	}
}

// set changes an attribute of the first disk or controller of a recording.
func set(t *testing.T, f nvmesysfs.FS, pattern, value string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(f.Sys, pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v, %v", pattern, files, err)
	}
	if err := os.WriteFile(files[0], []byte(value), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOddValues(t *testing.T) {
	for _, c := range []struct {
		name, file, value string
		check             func(nvmesysfs.Snapshot) bool // nil: an error that names the file
	}{
		{"no UUID, and the attribute uuid shows the NGUID", "class/nvme-subsystem/*/nvme*n1/wwid", "eui.aaaaaaaabbbb5ccc8dddeeeeeeeeee01\n", func(s nvmesysfs.Snapshot) bool {
			return s.Namespaces[0].UUID == uuid.Nil && s.Namespaces[0].NGUID == sceneNS1.NGUID
		}},
		{"NSID above 2^31", "class/nvme-subsystem/*/nvme*n1/nsid", "-294967296\n", func(s nvmesysfs.Snapshot) bool { return s.Namespaces[0].NSID == 4_000_000_000 }},
		{"size still 0", "class/nvme-subsystem/*/nvme*n1/size", "0\n", func(s nvmesysfs.Snapshot) bool { return s.Namespaces[0].SizeBytes == 0 }},
		{"512-byte blocks, the same size", "class/nvme-subsystem/*/nvme*n1/queue/logical_block_size", "512\n", func(s nvmesysfs.Snapshot) bool {
			return s.Namespaces[0].BlockSize == 512 && s.Namespaces[0].SizeBytes == sceneNS1.SizeBytes
		}},
		{"read-only", "class/nvme-subsystem/*/nvme*n1/ro", "1\n", func(s nvmesysfs.Snapshot) bool { return s.Namespaces[0].ReadOnly && !s.Namespaces[1].ReadOnly }},
		{"never gives up", "class/nvme/*/ctrl_loss_tmo", "off\n", func(s nvmesysfs.Snapshot) bool { return s.Controllers[0].CtrlLossTmo == -1 }},
		{"deleting", "class/nvme/*/state", "deleting (no IO)\n", func(s nvmesysfs.Snapshot) bool { return s.Controllers[0].Ending() }},
		{"not on PCIe", "class/nvme/*/transport", "pcie\n", func(s nvmesysfs.Snapshot) bool { return len(s.Controllers) == 0 && len(s.Namespaces) == 0 }},
		{"name passed on", "class/nvme/*/subsysnqn", "nqn.2026-11.io.holdfast:other\n", func(s nvmesysfs.Snapshot) bool { return len(s.Controllers) == 0 }},
		{"NSID is no number", "class/nvme-subsystem/*/nvme*n1/nsid", "one\n", nil},
		{"device number without colon", "class/nvme-subsystem/*/nvme*n1/dev", "259\n", nil},
		{"negative size", "class/nvme-subsystem/*/nvme*n1/size", "-1\n", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := recording(t, "one-path")
			set(t, f, c.file, c.value)
			s, err := f.Session(sceneNQN)
			if c.check == nil {
				if err == nil || !strings.Contains(err.Error(), filepath.Base(c.file)) {
					t.Errorf("got %+v, %v", s, err)
				}
				return
			}
			if err != nil || !c.check(s) {
				t.Errorf("got %+v, %v", s, err)
			}
		})
	}
}

func TestDeviceNode(t *testing.T) {
	f := recording(t, "one-path")
	s, err := f.Session(sceneNQN)
	if err != nil {
		t.Fatal(err)
	}
	ns := s.Namespaces[0]
	path := filepath.Join(f.Dev, ns.Disk)
	notReady := func(f nvmesysfs.FS, cause error) {
		t.Helper()
		got, err := f.DeviceNode(ns)
		var e *nvmesysfs.NotReadyError
		if got != "" || !errors.Is(err, nvmesysfs.ErrNotReady) || !errors.As(err, &e) || !e.Retryable() || !strings.Contains(err.Error(), path) {
			t.Errorf("got %q, %v", got, err)
		}
		if cause != nil && !errors.Is(err, cause) {
			t.Errorf("got %v, want it to wrap %v", err, cause)
		}
	}
	notReady(f, fs.ErrNotExist)
	if err := os.MkdirAll(f.Dev, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	notReady(f, nil) // a regular file, as a redirect makes it
	says := func(block bool, major, minor uint32) nvmesysfs.FS {
		return f.WithStat(func(string) (bool, uint32, uint32, error) { return block, major, minor, nil })
	}
	notReady(says(false, ns.Major, ns.Minor), nil)
	notReady(says(true, ns.Major, ns.Minor+1), nil)
	notReady(says(true, ns.Major+1, ns.Minor), nil)
	if got, err := says(true, ns.Major, ns.Minor).DeviceNode(ns); err != nil || got != path {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestWriteControl(t *testing.T) {
	f := recording(t, "one-path")
	s, err := f.Session(sceneNQN)
	if err != nil {
		t.Fatal(err)
	}
	name := s.Controllers[0].Name
	if err := f.WriteControl(name, nvmesysfs.ReconnectDelay, "1"); err != nil {
		t.Error(err)
	}
	if s, err = f.Session(sceneNQN); err != nil || s.Controllers[0].ReconnectDelay != 1 {
		t.Errorf("got %+v, %v", s, err)
	}
	for _, c := range [][3]string{
		{"nvme0n1", nvmesysfs.RescanController, "1"}, {"../nvme0", nvmesysfs.RescanController, "1"}, {"", nvmesysfs.RescanController, "1"},
		{name, "dhchap_secret", "x"}, {name, "../" + name + "/" + nvmesysfs.RescanController, "1"},
		{name, nvmesysfs.ReconnectDelay, "0"}, {name, nvmesysfs.ReconnectDelay, "-1"}, {name, nvmesysfs.ReconnectDelay, ""},
	} {
		if err := f.WriteControl(c[0], c[1], c[2]); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v", c, err)
		}
	}
	if err := f.WriteControl("nvme77", nvmesysfs.DeleteController, "1"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "nvme77") {
		t.Errorf("got %v", err)
	}
	busy := f.WithControl(func(string, string, string) error { return syscall.EBUSY })
	if err := busy.WriteControl(name, nvmesysfs.DeleteController, "1"); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("got %v", err)
	}
}

// A reader beside a machine that connects, loses and deletes all the time sees
// whole things or nothing.
func TestReadingWhileEverythingChanges(t *testing.T) {
	f := initiatortest.New(t)
	portal := scenePortalA
	f.AddSubsystem(sceneNQN, portal)
	f.AddNamespace(sceneNQN, sceneNS1)
	target := nvme.Target{Transport: "tcp", NQN: sceneNQN, TargetAddress: portal.Addr().String(), TargetPort: int(portal.Port()), HostNQN: sceneHostNQN, HostID: sceneHostID}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := f.Connect(t.Context(), target, nvme.ConnectionConfig{}); err != nil {
				t.Error(err)
			}
			f.SetPortal(portal, initiatortest.Closed)
			f.SetPortal(portal, initiatortest.Up)
			f.DeleteController("nvme0")
		}
	})
	for range 600 {
		s, err := f.FS().Session(sceneNQN)
		if err != nil {
			t.Error(err)
			break
		}
		for _, c := range s.Controllers {
			if p, ok := c.Portal(); !ok || p != portal || c.HostNQN != sceneHostNQN {
				t.Errorf("half of a controller: %+v", c)
			}
		}
		for _, ns := range s.Namespaces {
			if ns.UUID != sceneNS1.UUID || ns.SizeBytes != sceneNS1.SizeBytes {
				t.Errorf("half of a namespace: %+v", ns)
			}
		}
	}
	close(stop)
	wg.Wait()
}

func TestPortal(t *testing.T) {
	for _, c := range []struct {
		traddr, trsvcid, want string
	}{
		{"10.0.0.2", "4420", "10.0.0.2:4420"}, {"fd00::1", "4420", "[fd00::1]:4420"}, {"fe80::1%eth0", "1", "[fe80::1%eth0]:1"},
		{"::ffff:10.0.0.2", "4420", "10.0.0.2:4420"}, {"fd00:0:0::1", "4420", "[fd00::1]:4420"},
		{"nn-0x1:pn-0x2", "none", ""}, {"", "", ""}, {"10.0.0.2", "", ""},
	} {
		got, ok := nvmesysfs.Controller{Traddr: c.traddr, Trsvcid: c.trsvcid}.Portal()
		want := netip.AddrPort{}
		if c.want != "" {
			want = netip.MustParseAddrPort(c.want)
		}
		if got != want || ok != (c.want != "") {
			t.Errorf("%+v: got %v, %t", c, got, ok)
		}
	}
}

func TestParseUevent(t *testing.T) {
	for text, want := range map[string]nvmesysfs.Address{
		"": {},
		"MAJOR=239\nMINOR=0\nDEVNAME=nvme0\nNVME_TRTYPE=tcp\nNVME_TRADDR=10.0.0.2\nNVME_TRSVCID=4420\nNVME_HOST_TRADDR=none\nNVME_HOST_IFACE=none\n": {Traddr: "10.0.0.2", Trsvcid: "4420"},
		"NVME_TRADDR=10.0.0.2\nNVME_TRSVCID=4420":                                 {Traddr: "10.0.0.2", Trsvcid: "4420"},
		"NVME_TRSVCID=1\nNVME_HOST_IFACE=eth0\nNVME_HOST_TRADDR=b\nNVME_TRADDR=a": {Traddr: "a", Trsvcid: "1", HostTraddr: "b", HostIface: "eth0"},
		"NVME_TRADDR=fe80::1%eth0\nNVME_TRSVCID=4420":                             {Traddr: "fe80::1%eth0", Trsvcid: "4420"},
		"NVME_TRADDR=a\nNVME_TRADDR=b\nUNKNOWN=c\nNVME_TRSVCID\n=\n\n==":          {Traddr: "a"},
		"DEVNAME=nvme0\nNVME_TRTYPE=pcie\n":                                       {},
		"NVME_TRADDR=a=b":                                                         {Traddr: "a=b"},
		"NVME_TRADDR=none\nNVME_TRADDR\n":                                         {},
	} {
		if got := nvmesysfs.ParseUevent(text); got != want {
			t.Errorf("%q: got %+v, want %+v", text, got, want)
		}
	}
}

// FuzzParseUevent: what the kernel wrote is found again whatever stands around
// it, and no value runs into the next.
func FuzzParseUevent(f *testing.F) {
	f.Add("NVME_TRADDR=10.0.0.2\nNVME_TRSVCID=4420", "NVME_TRADDR=10.0.0.1")
	f.Add("", "NVME_HOST_IFACE=eth0\n")
	f.Add("NVME_TRADDR=", "=\n=")
	f.Fuzz(func(t *testing.T, before, after string) {
		a := nvmesysfs.ParseUevent(before + "\n" + after)
		for _, v := range []string{a.Traddr, a.Trsvcid, a.HostTraddr, a.HostIface} {
			if strings.Contains(v, "\n") {
				t.Fatalf("%q, %q: %+v", before, after, a)
			}
		}
		if b := nvmesysfs.ParseUevent("NVME_TRSVCID=4420\nNVME_TRADDR=10.0.0.2\n" + after); b.Traddr != "10.0.0.2" || b.Trsvcid != "4420" {
			t.Fatalf("%q: %+v", after, b)
		}
	})
}

// The attribute "address" can panic the kernel that is asked for it: what it says
// makes no difference.
func TestAddressIsNotRead(t *testing.T) {
	f := recording(t, "two-paths")
	before, err := f.Controllers()
	if err != nil {
		t.Fatal(err)
	}
	set(t, f, "class/nvme/*/address", "traddr=192.0.2.1,trsvcid=1")
	if after, err := f.Controllers(); err != nil || !slices.Equal(after, before) {
		t.Errorf("got %+v, %v, want %+v", after, err, before)
	}
}
