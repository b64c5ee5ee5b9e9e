package nvmettest_test

import (
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/nvmet"
	"github.com/holdfast-csi/holdfast/internal/nvmet/nvmettest"
)

// script runs operations and compares their outcome.
type script struct {
	t *testing.T
	k *nvmettest.Kernel
}

func (s script) mkdir(p string, want error)    { s.is("mkdir "+p, s.k.Mkdir(p), want) }
func (s script) rmdir(p string, want error)    { s.is("rmdir "+p, s.k.Rmdir(p), want) }
func (s script) unlink(p string, want error)   { s.is("unlink "+p, s.k.Unlink(p), want) }
func (s script) write(p, v string, want error) { s.is("write "+p+"="+v, s.k.WriteFile(p, v), want) }
func (s script) link(to, p string, want error) { s.is("link "+p, s.k.Symlink(to, p), want) }
func (s script) is(what string, got, want error) {
	s.t.Helper()
	if !errors.Is(got, want) {
		s.t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func (s script) port(id, traddr, trsvcid string) {
	s.mkdir("ports/"+id, nil)
	s.write("ports/"+id+"/addr_trtype", "tcp", nil)
	s.write("ports/"+id+"/addr_adrfam", "ipv4", nil)
	s.write("ports/"+id+"/addr_traddr", traddr, nil)
	s.write("ports/"+id+"/addr_trsvcid", trsvcid, nil)
}

func TestObjects(t *testing.T) {
	s := script{t, nvmettest.New()}
	s.mkdir("hosts/h", nil)
	s.mkdir("hosts/h", syscall.EEXIST)
	s.mkdir("nowhere/h", syscall.ENOENT)
	s.mkdir("other", syscall.EPERM)
	s.mkdir("ports/65536", syscall.EINVAL)
	s.rmdir("hosts", syscall.EPERM)
	s.rmdir("hosts/none", syscall.ENOENT)
	s.mkdir("subsystems/s", nil)
	s.mkdir("subsystems/s/namespaces/0", syscall.EINVAL)
	s.mkdir("subsystems/s/namespaces/1", nil)
	s.rmdir("subsystems/s", syscall.ENOTEMPTY)
	s.rmdir("subsystems/s/namespaces", syscall.EPERM)
	s.unlink("subsystems/s/attr_serial", syscall.EPERM)
	s.link("hosts/none", "subsystems/s/allowed_hosts/none", syscall.ENOENT)
	s.link("subsystems/s", "subsystems/s/allowed_hosts/s", syscall.EINVAL)
	s.link("hosts/h", "subsystems/s/allowed_hosts/h", nil)
	s.link("hosts/h", "subsystems/s/allowed_hosts/h", syscall.EEXIST)
	s.rmdir("hosts/h", syscall.EBUSY)
	s.write("subsystems/s/attr_allow_any_host", "1", syscall.EINVAL)
	s.unlink("subsystems/s/allowed_hosts/h", nil)
	s.write("subsystems/s/attr_allow_any_host", "1", nil)
	s.link("hosts/h", "subsystems/s/allowed_hosts/h", syscall.EINVAL)
	s.write("subsystems/s/attr_serial", "abc", nil)
	if text, _ := s.k.ReadFile("subsystems/s/attr_serial"); text != "abc                 \n" {
		t.Errorf("serial %q", text)
	}
	s.k.Discover("s")
	s.write("subsystems/s/attr_serial", "def", syscall.EINVAL)
	s.write("subsystems/s/attr_none", "1", syscall.ENOENT)
	s.rmdir("subsystems/s/namespaces/1", nil)
	s.rmdir("subsystems/s", nil)
	s.rmdir("hosts/h", nil)
}

func TestNamespace(t *testing.T) {
	s := script{t, nvmettest.New()}
	s.k.DeviceExists = func(p string) bool { return p == "/dev/x" }
	ns := "subsystems/s/namespaces/1"
	s.mkdir("subsystems/s", nil)
	s.mkdir(ns, nil)
	if text, _ := s.k.ReadFile(ns + "/device_path"); text != "(null)\n" {
		t.Errorf("device_path %q", text)
	}
	s.write(ns+"/enable", "1", syscall.ENOENT)
	s.write(ns+"/device_path", "/dev/none", nil)
	s.write(ns+"/enable", "1", syscall.ENOENT)
	s.write(ns+"/device_path", "/dev/x", nil)
	s.write(ns+"/device_uuid", "zzz", syscall.EINVAL)
	id := uuid.New()
	s.write(ns+"/device_uuid", id.String(), nil)
	s.write(ns+"/enable", "1", nil)
	s.write(ns+"/device_uuid", id.String(), syscall.EBUSY)
	s.write(ns+"/device_path", "/dev/x", syscall.EBUSY)
	want := []nvmet.Namespace{{NSID: 1, Path: "/dev/x", UUID: id}}
	if got := s.k.Enabled("s"); !slices.Equal(got, want) {
		t.Errorf("enabled: %v", got)
	}
	if got := s.k.Visible("s", "h"); got != nil {
		t.Errorf("visible without a port: %v", got)
	}
	s.rmdir(ns, nil)
}

// A blocked write to enable stops the whole target, and the way out with it; a
// blocked rmdir stops only those who look into the same directory.
func TestHeldIO(t *testing.T) {
	for _, byWrite := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) { heldIO(t, byWrite) })
	}
}

func heldIO(t *testing.T, byWrite bool) {
	k := nvmettest.New()
	s := script{t, k}
	ns := "subsystems/s/namespaces/1"
	s.mkdir("subsystems/s", nil)
	s.mkdir(ns, nil)
	s.write(ns+"/device_path", "/dev/x", nil)
	s.write(ns+"/enable", "1", nil)
	k.HoldIO("s", 1)
	var removed, listed, kicked atomic.Bool
	go func() {
		if byWrite {
			s.write(ns+"/enable", "0", nil)
		} else {
			s.rmdir(ns, nil)
		}
		removed.Store(true)
	}()
	synctest.Wait()
	go func() {
		if _, err := k.ReadDir("subsystems/s/namespaces"); err != nil {
			t.Error(err)
		}
		listed.Store(true)
	}()
	synctest.Wait()
	if removed.Load() || listed.Load() != byWrite || len(k.Enabled("s")) != 0 {
		t.Errorf("write %v: removed %v, listed %v", byWrite, removed.Load(), listed.Load())
	}
	go func() {
		s.write("subsystems/s/attr_qid_max", "128", nil)
		kicked.Store(true)
	}()
	synctest.Wait()
	if kicked.Load() == byWrite || removed.Load() == byWrite {
		t.Errorf("write %v: kicked %v, removed %v", byWrite, kicked.Load(), removed.Load())
	}
	k.ReleaseIO("s", 1)
	synctest.Wait()
	if !kicked.Load() || !removed.Load() || !listed.Load() || k.Kicks("s") != 1 {
		t.Errorf("write %v: still blocked", byWrite)
	}
}

func TestPorts(t *testing.T) {
	s := script{t, nvmettest.New()}
	s.mkdir("subsystems/s", nil)
	s.mkdir("subsystems/u", nil)
	s.mkdir("ports/1", nil)
	s.link("subsystems/s", "ports/1/subsystems/s", syscall.EINVAL)
	s.rmdir("ports/1", nil)
	s.port("1", "10.0.0.1", "4420")
	s.port("2", "10.0.0.1", "4420")
	s.port("3", "0.0.0.0", "4420")
	s.port("4", "10.0.0.1", "4421")
	taken := netip.MustParseAddrPort("10.0.0.1:4421")
	s.k.SetBindError(taken, syscall.EADDRNOTAVAIL)
	s.link("subsystems/s", "ports/4/subsystems/s", syscall.EADDRNOTAVAIL)
	s.k.SetBindError(taken, nil)
	s.link("subsystems/s", "ports/1/subsystems/s", nil)
	s.link("subsystems/s", "ports/2/subsystems/s", syscall.EADDRINUSE)
	s.link("subsystems/s", "ports/3/subsystems/s", syscall.EADDRINUSE)
	s.link("subsystems/s", "ports/4/subsystems/s", nil)
	s.link("subsystems/u", "ports/1/subsystems/u", nil)
	s.write("ports/1/addr_trsvcid", "1", syscall.EACCES)
	s.rmdir("ports/1", syscall.ENOTEMPTY)
	s.rmdir("subsystems/s", syscall.EBUSY)
	s.unlink("ports/1/subsystems/s", nil)
	s.unlink("ports/1/subsystems/s", syscall.ENOENT)
	if len(s.k.Listening()) != 2 || !s.k.OnPort("u") || s.k.Connectable("u", "h") {
		t.Errorf("listening %v", s.k.Listening())
	}
	s.write("subsystems/u/attr_allow_any_host", "1", nil)
	if !s.k.Connectable("u", "h") {
		t.Error("cannot connect")
	}
	s.unlink("ports/1/subsystems/u", nil)
	s.link("subsystems/s", "ports/2/subsystems/s", nil)
	s.k.Reboot()
	if names, err := s.k.ReadDir("ports"); err != nil || len(names) != 0 || len(s.k.Listening()) != 0 {
		t.Errorf("after a reboot: %v, %v", names, err)
	}
}

func TestHookAndEvents(t *testing.T) {
	k := nvmettest.New()
	broken := errors.New("broken")
	k.SetOnOp(func(op, path string) error {
		if op == string(nvmet.OpMkdir) && path == "hosts/b" {
			return broken
		}
		return nil
	})
	s := script{t, k}
	s.mkdir("hosts/a", nil)
	s.mkdir("hosts/b", broken)
	s.write("hosts/a/dhchap_hash", "x", nil)
	var got []string
	for _, e := range k.Events() {
		got = append(got, e.String())
	}
	want := []string{"mkdir hosts/a", "mkdir hosts/b: mkdir hosts/b: broken", "write hosts/a/dhchap_hash=x"}
	if !slices.Equal(got, want) {
		t.Errorf("events %q", got)
	}
	k.ClearEvents()
	if len(k.Events()) != 0 {
		t.Error("events not cleared")
	}
}
