//go:build kernel

package nvmesysfs_test

import (
	"context"
	"errors"
	"flag"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/initiator"
	"github.com/holdfast-csi/holdfast/internal/initiator/initiatortest"
	"github.com/holdfast-csi/holdfast/internal/nvmesysfs"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

var record = flag.Bool("record", false, "write recordings of sysfs to standard output (testdata/README.md)")

// kernelVersion is the version proper: 6.12.117.
func kernelVersion(t *testing.T) string {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	version := unix.ByteSliceToString(u.Version[:])
	for _, f := range strings.Fields(version) { // "#1 SMP ... Debian 6.12.117-1~deb12u1 (2026-…)"
		if v, _, ok := strings.Cut(f, "-"); ok && strings.Count(v, ".") == 2 {
			return v
		}
	}
	return unix.ByteSliceToString(u.Release[:])
}

// scene checks what this kernel shows now, and records it if asked to.
func scene(t *testing.T, name string) {
	t.Helper()
	recording := "sysfs-" + kernelVersion(t) + "-" + name
	checkScene(t, nvmesysfs.Default(), recording)
	if !*record {
		return
	}
	b, err := initiatortest.RecordSysfs()
	if err != nil {
		t.Fatal(err)
	}
	initiatortest.Emit(recording+".tar.gz", b)
}

type stage struct {
	*testing.T
	target *initiatortest.Nvmet
	host   *initiator.Host
	ctx    context.Context
}

func newStage(t *testing.T) *stage {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	s := &stage{T: t, target: initiatortest.NewNvmet(t), ctx: ctx}
	s.host = initiator.New(s.target.Options())
	s.target.AddSubsystem(sceneNQN, scenePortalA, scenePortalB)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		for _, nqn := range []string{sceneNQN, sceneOther} {
			if err := s.host.Disconnect(ctx, nqn); err != nil {
				t.Error(err)
			}
		}
	})
	return s
}

func (s *stage) ensure(sess initiator.Session) {
	s.Helper()
	sess.HostNQN, sess.HostID = sceneHostNQN, sceneHostID
	sess.Config = nvme.ConnectionConfig{CtrlLossTmo: 60, ReconnectDelay: 3, KeepAliveTmo: 5, NrIOQueues: 1}
	if err := s.host.EnsureSession(s.ctx, sess); err != nil {
		s.Fatal(err)
	}
}

func (s *stage) add(ns initiatortest.Namespace) string {
	s.Helper()
	s.target.AddNamespace(sceneNQN, ns)
	_, path, err := s.host.WaitNamespace(s.ctx, initiator.Identity{NQN: sceneNQN, NSID: ns.NSID, UUID: ns.UUID, NGUID: ns.NGUID, SizeBytes: ns.SizeBytes, BlockSize: 4096})
	if err != nil {
		s.Fatal(err)
	}
	return path
}

func TestScenes(t *testing.T) {
	needMultipath(t, true)
	one := initiator.Session{NQN: sceneNQN, Portals: []netip.AddrPort{scenePortalA}}
	two := initiator.Session{NQN: sceneNQN, Portals: []netip.AddrPort{scenePortalA, scenePortalB}}
	t.Run("growing", func(t *testing.T) {
		s := newStage(t)
		s.ensure(one)
		scene(t, "no-namespace")
		path := s.add(sceneNS1)
		s.target.SetPortal(scenePortalA, initiatortest.Closed)
		s.until(func(c []nvmesysfs.Controller) bool { return len(c) == 1 && c[0].State == "connecting" })
		scene(t, "connecting")
		s.target.SetPortal(scenePortalA, initiatortest.Up)
		s.until(func(c []nvmesysfs.Controller) bool { return len(c) == 1 && c[0].State == "live" })
		s.add(sceneNS5000)
		scene(t, "one-path")
		s.ensure(two)
		s.until(func([]nvmesysfs.Controller) bool { return s.paths() == 4 })
		scene(t, "two-paths")
		s.holdOpen(path)
	})
	t.Run("being made", func(t *testing.T) { newStage(t).beingMade() })
}

// holdOpen: a disk that is held open keeps its subsystem in sysfs after the
// controllers have gone.
func (s *stage) holdOpen(path string) {
	f, err := os.Open(path)
	if err != nil {
		s.Fatal(err)
	}
	defer f.Close()
	if err := s.host.Disconnect(s.ctx, sceneNQN); err != nil {
		s.Fatal(err)
	}
	scene(s.T, "held-open")
}

// beingMade: a controller that was never identified belongs to no subsystem.
func (s *stage) beingMade() {
	l, err := net.Listen("tcp", scenePortalC.String())
	if err != nil {
		s.Fatal(err)
	}
	defer l.Close()
	sess := initiator.Session{NQN: sceneNQN, Portals: []netip.AddrPort{scenePortalC}, HostNQN: sceneHostNQN, HostID: sceneHostID}
	connector := initiator.NewFabrics(nvmesysfs.Default())
	done := make(chan error, 1)
	connect := func() { done <- connector.Connect(s.ctx, sess.Targets()[0], nvme.ConnectionConfig{}) }
	go connect()
	for names := []string(nil); len(names) == 0; time.Sleep(time.Millisecond) {
		if len(done) > 0 { // the kernel gave up before it was seen: a slow machine
			if err := <-done; err == nil {
				s.Fatal("connected to a listener that says nothing")
			}
			go connect()
		}
		entries, err := os.ReadDir("/sys/class/nvme")
		if err != nil {
			s.Fatal(err)
		}
		for _, e := range entries {
			b, err := os.ReadFile("/sys/class/nvme/" + e.Name() + "/subsysnqn")
			if errors.Is(err, os.ErrNotExist) {
				continue // gone meanwhile
			}
			names = append(names, e.Name())
			if err != nil || strings.TrimSpace(string(b)) != "(efault)" {
				s.Errorf("subsysnqn of %s is %q, %v", e.Name(), b, err)
			}
		}
	}
	scene(s.T, "being-made")
	if err := <-done; err == nil {
		s.Error("connected to a listener that says nothing")
	}
}

func (s *stage) until(ok func([]nvmesysfs.Controller) bool) {
	s.Helper()
	for s.ctx.Err() == nil {
		snap, err := nvmesysfs.Default().Session(sceneNQN)
		if err != nil {
			s.Fatal(err)
		}
		if ok(snap.Controllers) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	s.Fatal("not in time")
}

// paths counts the paths of all namespaces.
func (s *stage) paths() (n int) {
	snap, err := nvmesysfs.Default().Session(sceneNQN)
	if err != nil {
		s.Fatal(err)
	}
	for _, ns := range snap.Namespaces {
		n += len(ns.Controllers)
	}
	return n
}

// TestMultipathOff needs a machine booted without native multipath; TestBootedOff
// (multipath_vm_test.go) boots one and runs it there.
func TestMultipathOff(t *testing.T) {
	needMultipath(t, false)
	s := newStage(t)
	s.ensure(initiator.Session{NQN: sceneNQN, Portals: []netip.AddrPort{scenePortalA}})
	s.add(sceneNS1)
	s.add(sceneNS5000)
	scene(t, "multipath-off")
}

func needMultipath(t *testing.T, want bool) {
	t.Helper()
	if on, err := nvmesysfs.Default().MultipathEnabled(); err != nil || on != want {
		t.Skipf("native multipath is %t (%v): boot with nvme_core.multipath=%t", on, err, want)
	}
}
