//go:build kernel

package agent_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/agent/agenttest"
	"github.com/holdfast-csi/holdfast/internal/gate"
	"github.com/holdfast-csi/holdfast/internal/gate/gatetest"
	"github.com/holdfast-csi/holdfast/internal/nvmet"
	"github.com/holdfast-csi/holdfast/internal/store"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// In the machine only what needs it runs: the rest has been tested outside, ten
// times as fast.
func TestMain(m *testing.M) {
	flag.Parse()
	if run := flag.Lookup("test.run"); os.Getenv("HOLDFAST_VM") != "" && run.Value.String() == "" {
		_ = run.Value.Set("^TestKernel")
	}
	os.Exit(m.Run())
}

func TestKernelBackend(t *testing.T) {
	agenttest.TestBackend(t, func(t *testing.T) agenttest.Subject {
		return agenttest.NewReal(t, "fast").StartServing(t)
	})
}

func createSized(t *testing.T, a *agenttest.Agent, name string, bytes int64) volume.Volume {
	t.Helper()
	v, err := a.Create(t.Context(), volume.CreateRequest{Name: name, RequiredBytes: bytes})
	return agenttest.Must(t, v, err)
}

// What the host sees of a publication is what the agent said.
func TestKernelIdentity(t *testing.T) {
	e := agenttest.NewReal(t, "fast")
	a := e.StartServing(t)
	v := createSized(t, a, "v", 16<<20)
	p := publishTo(t, a, v, 1)
	s := agenttest.Connect(t, agenttest.Request(v.UUID, 1), p)
	dir := "/sys/class/block/" + filepath.Base(s.Device(p))
	for file, want := range map[string]string{
		"uuid": v.UUID.String(), "nguid": p.NGUID.String(), "nsid": "1", "queue/logical_block_size": strconv.Itoa(p.BlockSize),
		"size": strconv.FormatInt(p.SizeBytes/512, 10), "device/model": "Holdfast",
	} {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if got := strings.TrimSpace(string(b)); err != nil || got != want {
			t.Errorf("%s: %q, want %q (%v)", file, got, want, err)
		}
	}
}

// A volume that was written through the export is not blank any more.
func TestKernelFormat(t *testing.T) {
	e := agenttest.NewReal(t, "fast")
	a := e.StartServing(t)
	v := createSized(t, a, "v", 16<<20)
	p := publishTo(t, a, v, 1)
	dev := agenttest.Connect(t, agenttest.Request(v.UUID, 1), p).Device(p)
	if st, err := a.Status(t.Context(), agenttest.Ref(p)); err != nil || !st.Blank {
		t.Fatalf("new: %+v %v", st, err)
	}
	agenttest.Shell(t, "dd if=/dev/urandom of="+dev+" bs=4096 count=1 seek=2000 oflag=direct 2>&1")
	if st, err := a.Status(t.Context(), agenttest.Ref(p)); err != nil || st.Blank {
		t.Errorf("written: %+v %v", st, err)
	}
	agenttest.WantErr(t, a.BeginFormat(t.Context(), agenttest.Ref(p)), volume.ErrNotBlank)
	agenttest.Shell(t, "blkdiscard "+dev+" 2>/dev/null || dd if=/dev/zero of="+dev+" bs=1M oflag=direct 2>/dev/null || true")
	if st, err := a.Status(t.Context(), agenttest.Ref(p)); err != nil || st.Blank {
		t.Errorf("discarded: %+v %v", st, err)
	}
}

// Twenty publications of one node are one connection.
func TestKernelOneSession(t *testing.T) {
	e := agenttest.NewReal(t, "fast")
	a := e.StartServing(t)
	first := publishTo(t, a, createSized(t, a, "first", 1<<20), 1)
	s := agenttest.Connect(t, agenttest.Request(first.Volume, 1), first)
	s.Device(first)
	before := connections(t)
	for i := range 20 {
		p := publishTo(t, a, createSized(t, a, fmt.Sprint(i), 1<<20), 1)
		s.Device(p)
	}
	if after := connections(t); before != after {
		t.Errorf("connections before\n%s\nand after\n%s", before, after)
	}
}

// Restarting the agent disturbs no connected host.
func TestKernelRestart(t *testing.T) {
	e := agenttest.NewReal(t, "fast")
	a := e.StartServing(t)
	p := publishTo(t, a, createSized(t, a, "v", 16<<20), 1)
	s := agenttest.Connect(t, agenttest.Request(p.Volume, 1), p)
	w := startWriter(t, s.Device(p))
	before := connections(t)
	a.Kill()
	b := e.StartServing(t)
	publishTo(t, b, createSized(t, b, "other", 1<<20), 1)
	if after := connections(t); before != after || before == "" {
		t.Errorf("connections before\n%s\nand after\n%s", before, after)
	}
	w.stop(t)
}

// A target that loses its power comes back behind the gate: every host keeps
// its controller and its disk, and no write is lost, however slowly the many
// subsystems appear. Without the gate hosts give up from Linux 6.10 on.
func TestKernelRestore(t *testing.T) {
	for _, gated := range []bool{true, false} {
		t.Run(fmt.Sprintf("gate %v", gated), func(t *testing.T) { kernelRestore(t, gated) })
	}
}

func kernelRestore(t *testing.T, gated bool) {
	e := agenttest.NewReal(t, "fast")
	a := e.StartServing(t)
	var sessions []*agenttest.Session
	var writers []*writer
	for i := 1; i <= 4; i++ {
		p := publishTo(t, a, createSized(t, a, fmt.Sprint(i), 16<<20), i)
		q := publishTo(t, a, createSized(t, a, fmt.Sprint(i, "b"), 1<<20), i)
		s := agenttest.Connect(t, agenttest.Request(p.Volume, i), p)
		s.Device(q)
		sessions, writers = append(sessions, s), append(writers, startWriter(t, s.Device(p)))
	}
	a.Kill()
	powerCut(t)
	time.Sleep(3 * time.Second) // hosts are reconnecting, once a second
	if !gated {
		e.Locks = gatetest.NewFake()
	}
	faults := &agenttest.Faults{}
	faults.OnChange = func() {
		done := faults.Changes()
		if strings.HasPrefix(done[len(done)-1], "link ports/") {
			time.Sleep(1500 * time.Millisecond) // longer than the hosts wait between attempts
		}
	}
	e.Start(t, faults)
	if !gated {
		lost := 0
		time.Sleep(15 * time.Second)
		for _, s := range sessions {
			if !s.Live() {
				lost++
			}
		}
		t.Logf("without the gate %d of %d hosts gave up (kernel %s)", lost, len(sessions), os.Getenv("HOLDFAST_KERNEL"))
		if (lost > 0) != (os.Getenv("HOLDFAST_KERNEL") != "6.1") {
			t.Errorf("kernel-facts say that hosts give up from 6.10 on")
		}
		return
	}
	for i, s := range sessions {
		s.WaitLive(40 * time.Second)
		time.Sleep(time.Second)
		writers[i].stop(t)
	}
}

// A fence ends the writing at once, and nothing of it lands later.
func TestKernelFence(t *testing.T) {
	e := agenttest.NewReal(t, "fast")
	a := e.StartServing(t)
	p := publishTo(t, a, createSized(t, a, "v", 16<<20), 1)
	q := publishTo(t, a, createSized(t, a, "w", 16<<20), 1)
	s := agenttest.Connect(t, agenttest.Request(p.Volume, 1), p)
	w, other := startWriter(t, s.Device(p)), startWriter(t, s.Device(q))
	time.Sleep(500 * time.Millisecond)
	began := time.Now()
	must(t, a.Unpublish(t.Context(), p.Volume, p.Node))
	t.Logf("fenced in %s", time.Since(began).Round(time.Millisecond))
	before, err := os.ReadFile(imageOf(e, p.Volume))
	must(t, err)
	if err := <-w.failed; err == nil {
		t.Error("the writer did not fail")
	}
	time.Sleep(time.Second)
	after, err := os.ReadFile(imageOf(e, p.Volume))
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Error("a write landed after the fence")
	}
	agenttest.Wait(t, 5*time.Second, func() string { return agenttest.Find(p) })
	other.stop(t)
}

func imageOf(e *agenttest.Env, id uuid.UUID) string {
	return filepath.Join(e.Pools[0].Dir, "volumes", id.String()+".img")
}

// A write whose data never comes would hold the fence until the target's
// keep-alive ends the session; the kick ends it before, and the session's other
// volumes only wait.
func TestKernelFenceKick(t *testing.T) {
	e := agenttest.NewReal(t, "fast")
	e.KickAfter = 2 * time.Second
	a := e.StartServing(t)
	p := publishTo(t, a, createSized(t, a, "v", 16<<20), 1)
	q := publishTo(t, a, createSized(t, a, "w", 16<<20), 1)
	s := agenttest.Connect(t, agenttest.Request(p.Volume, 1), p)
	dev := s.Device(p)
	otherDev := s.Device(q)
	// Commands pass and data does not: the target waits for what it asked for.
	// Nothing else may be on the connection before, or it would be what is stuck.
	agenttest.Shell(t, `nft add table inet cut; nft add chain inet cut i '{ type filter hook input priority -100; }'; nft add rule inet cut i tcp dport 4420 meta length gt 1000 drop`)
	heal := sync.OnceFunc(func() { agenttest.Shell(t, "nft delete table inet cut") })
	t.Cleanup(heal)
	stuck := make(chan error, 1)
	go func() {
		f, err := os.OpenFile(dev, os.O_WRONLY|unix.O_DIRECT, 0)
		if err == nil {
			buf, _ := unix.Mmap(-1, 0, 256<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
			_, err = f.Write(buf)
			_ = f.Close()
		}
		stuck <- err
	}()
	time.Sleep(500 * time.Millisecond)
	other := startWriter(t, otherDev)
	time.Sleep(500 * time.Millisecond)
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	agenttest.WantErr(t, a.Unpublish(ctx, p.Volume, p.Node), volume.ErrPending)
	cancel()
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		err := a.Unpublish(ctx, p.Volume, p.Node)
		cancel()
		if err == nil {
			break
		}
		if time.Since(began) > 20*time.Second {
			t.Fatalf("after %s: %v", time.Since(began), err)
		}
	}
	t.Logf("fenced in %s", time.Since(began).Round(time.Millisecond))
	heal()
	if err := <-stuck; err == nil {
		t.Error("the stuck write was acknowledged")
	}
	s.WaitLive(20 * time.Second)
	time.Sleep(time.Second)
	other.stop(t)
}

// NSIDs go beyond the 1,024 that nvmet reports, and end before a host suffers
// from the gaps.
func TestKernelNSID(t *testing.T) {
	e := agenttest.NewReal(t, "fast")
	a := e.StartServing(t)
	p := publishTo(t, a, createSized(t, a, "first", 1<<20), 1)
	s := agenttest.Connect(t, agenttest.Request(p.Volume, 1), p)
	for _, nsid := range []uint32{1024, 1025, 5000, 1 << 20} {
		a.Kill()
		db := e.OpenDB(t)
		must(t, db.Update(func(tx *store.Tx) error {
			session, err := tx.Session(p.SubsystemNQN)
			if err != nil {
				return err
			}
			session.NextNSID = nsid
			return tx.PutSession(session)
		}))
		must(t, db.Close())
		a = e.StartServing(t)
		q := publishTo(t, a, createSized(t, a, fmt.Sprint(nsid), 1<<20), 1)
		if q.NSID != nsid || q.SubsystemNQN != p.SubsystemNQN {
			t.Fatalf("NSID %d of %s", q.NSID, q.SubsystemNQN)
		}
		s.Device(q)
	}
	if q := publishTo(t, a, createSized(t, a, "beyond", 1<<20), 1); q.SubsystemNQN == p.SubsystemNQN {
		t.Errorf("NSID %d in the same session", q.NSID)
	}
}

func TestKernelMissingFile(t *testing.T) {
	e := agenttest.NewReal(t, "fast")
	e.RetryAfter = 100 * time.Millisecond
	a := e.StartServing(t)
	bad := publishTo(t, a, createSized(t, a, "bad", 1<<20), 1)
	good := publishTo(t, a, createSized(t, a, "good", 1<<20), 1)
	a.Kill()
	powerCut(t)
	must(t, os.Rename(imageOf(e, bad.Volume), imageOf(e, bad.Volume)+".away"))
	e.StartServing(t)
	s := agenttest.Connect(t, agenttest.Request(good.Volume, 1), good)
	s.Device(good)
	if dev := agenttest.Find(bad); dev != "" {
		t.Errorf("a disk without a file: %s", dev)
	}
	must(t, os.Rename(imageOf(e, bad.Volume)+".away", imageOf(e, bad.Volume)))
	s.Device(bad)
}

func TestKernelPortInUse(t *testing.T) {
	e := agenttest.NewReal(t, "used", "absent")
	e.RetryAfter = 100 * time.Millisecond
	e.Pools[1].Portal = netip.MustParseAddrPort("192.0.2.7:4421")
	a := e.StartServing(t) // nothing is published, nothing listens
	l, err := net.Listen("tcp", "127.0.0.1:4420")
	must(t, err)
	for pool, want := range map[string]string{"used": "listen on 127.0.0.1:4420 for pool used: the address is already in use", "absent": "does not have the address"} {
		v, err := a.Create(t.Context(), volume.CreateRequest{Name: pool, RequiredBytes: 1 << 20, Pool: pool})
		must(t, err)
		_, err = a.Publish(t.Context(), agenttest.Request(v.UUID, 1))
		agenttest.WantErr(t, err, volume.ErrUnavailable, want)
	}
	a.Kill()
	b := e.Start(t, nil)
	eventually(t, "both problems are told", func() bool {
		return strings.Contains(poolOf(t, b, "used").Problem, "in use") && strings.Contains(poolOf(t, b, "absent").Problem, "address")
	})
	must(t, l.Close())
	agenttest.Shell(t, "ip addr add 192.0.2.7/32 dev lo")
	t.Cleanup(func() { agenttest.Shell(t, "ip addr del 192.0.2.7/32 dev lo") })
	b.WaitServing()
}

// The gate holds hosts of the kernel back, and lets go.
func TestKernelGateHoldsHosts(t *testing.T) {
	e := agenttest.NewReal(t, "fast")
	a := e.StartServing(t)
	p := publishTo(t, a, createSized(t, a, "v", 16<<20), 1)
	s := agenttest.Connect(t, agenttest.Request(p.Volume, 1), p)
	w := startWriter(t, s.Device(p))
	g, err := gate.New()
	must(t, err)
	must(t, g.Close(4420))
	must(t, nvmet.Relink(e.Tree, p.SubsystemNQN, 4420))
	time.Sleep(4 * time.Second)
	if s.Live() {
		t.Error("reconnected through a closed gate")
	}
	must(t, g.Open(4420))
	s.WaitLive(20 * time.Second)
	time.Sleep(time.Second)
	w.stop(t)
}

// Publishing and unpublishing from many sides at once, on the real target.
func TestKernelManyCallers(t *testing.T) {
	e := agenttest.NewReal(t, "fast")
	a := e.StartServing(t)
	var wg sync.WaitGroup
	for node := 1; node <= 4; node++ {
		v := createSized(t, a, fmt.Sprint(node), 1<<20)
		wg.Go(func() {
			for range 15 {
				p, err := a.Publish(t.Context(), agenttest.Request(v.UUID, node))
				if err != nil {
					t.Error(err)
					return
				}
				if err := a.Unpublish(t.Context(), v.UUID, p.Node); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, dir := range []string{"subsystems", "hosts"} {
		if left, err := e.Tree.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v %v", dir, left, err)
		}
	}
}
