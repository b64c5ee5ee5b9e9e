//go:build linux && vm

package vm_test

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/vm"
)

// modules loads everything that tests may use, and looks for what only works with the right kernel.
func (b *bench) modules(t *testing.T) {
	b.shell(t, b.node, `for m in nvme-tcp nvme-fabrics nvmet nvmet-tcp ext4 xfs btrfs loop configfs null_blk veth bridge nf_tables \
		nft_reject_inet nft_ct nft_limit sch_netem dm-multipath dm-round-robin dm-service-time dm-queue-length dm-thin-pool \
		dm-flakey dm-delay dm-crypt tls; do modprobe $m; done`)
	if got := b.shell(t, b.node, "cat /sys/module/nvme_core/parameters/multipath"); got != "Y" {
		t.Errorf("native multipath is %s", got)
	}
	if out, err := b.node.Shell(t.Context(), "grep -v nodev /proc/filesystems | tr -d '\\t\\n '"); err != nil ||
		!strings.Contains(out, "btrfs") || !strings.Contains(out, "xfs") || !strings.Contains(out, "ext4") {
		t.Errorf("file systems %s, %v", out, err)
	}
	b.shell(t, b.node, `for fs in ext4 xfs btrfs; do
		truncate -s 300M /tmp/img; d=$(losetup -f --show /tmp/img); mkfs.$fs -q $d; mkdir -p /mnt/$fs; mount $d /mnt/$fs
		echo x > /mnt/$fs/f; umount /mnt/$fs; losetup -d $d; rm /tmp/img
	done
	unshare -m sh -c 'mkdir /tmp/root && mount -t tmpfs t /tmp/root && mkdir /tmp/root/old && mount --make-rprivate / && pivot_root /tmp/root /tmp/root/old'
	findmnt -no PROPAGATION / | grep -qx shared`)
}

func (b *bench) faults(t *testing.T) {
	nic := b.storage.NIC(0)
	quick, ok := b.pings(t)
	if !ok {
		t.Fatal("no ping without a fault")
	}
	for _, fault := range []struct {
		name string
		set  func()
	}{{"drop", nic.Drop}, {"drop from", nic.DropFrom}, {"drop to", nic.DropTo}, {"loss of all", func() { nic.Loss(1, 7) }}} {
		fault.set()
		if _, ok := b.pings(t); ok {
			t.Errorf("%s: a ping was answered", fault.name)
		}
		if carrier := b.shell(t, b.storage, "cat /sys/class/net/lan0/carrier"); carrier != "1" {
			t.Errorf("%s: carrier %s", fault.name, carrier)
		}
		b.heal(t, nic)
	}
	// One way only: what storage sends still arrives. It is asked to send by the control channel.
	nic.DropTo()
	const received = "cat /sys/class/net/lan0/statistics/rx_packets"
	before := b.shell(t, b.node, received)
	b.shell(t, b.storage, "for i in 1 2 3; do echo x > /dev/udp/10.77.0.11/9; sleep 0.1; done")
	if after := b.shell(t, b.node, received); after == before {
		t.Error("nothing arrived from a machine that only does not hear")
	}
	b.heal(t, nic)

	const delay = 150 * time.Millisecond
	nic.Delay(delay, 10*time.Millisecond)
	if slow, ok := b.pings(t); !ok || slow < 2*(delay-10*time.Millisecond) {
		t.Errorf("round trip %s, %v with %s of delay; %s without", slow, ok, delay, quick)
	}
	b.heal(t, nic)
	if again, ok := b.pings(t); !ok || again > delay {
		t.Errorf("round trip %s, %v after healing", again, ok)
	}

	if err := nic.Unplug(); err != nil {
		t.Fatal(err)
	}
	b.shell(t, b.storage, "for i in $(seq 50); do [ $(cat /sys/class/net/lan0/carrier) = 0 ] && exit 0; sleep 0.1; done; exit 1")
	if _, ok := b.pings(t); ok {
		t.Error("a ping was answered without a cable")
	}
	b.heal(t, nic)
	b.shell(t, b.storage, "for i in $(seq 50); do [ $(cat /sys/class/net/lan0/carrier) = 1 ] && exit 0; sleep 0.1; done; exit 1")
	if _, ok := b.pings(t); !ok {
		t.Error("no ping after the cable was put back")
	}
}

func (b *bench) heal(t *testing.T, nic *vm.NIC) {
	t.Helper()
	if err := nic.Heal(); err != nil {
		t.Fatal(err)
	}
}

// refuse checks what a TCP client on the node sees, new and connected.
func (b *bench) refuse(t *testing.T) {
	p, err := b.storage.Start(t.Context(), "web", "busybox", "httpd", "-f", "-p", "8080", "-h", "/etc")
	if err != nil {
		t.Fatal(err)
	}
	b.shell(t, b.storage, "until ss -Hltn sport = :8080 | grep -q .; do sleep 0.1; done")
	const fetch = "(exec 3<>/dev/tcp/storage/8080; printf 'GET /hostname HTTP/1.0\\r\\n\\r\\n' >&3; grep -x storage <&3) 2>&1"
	b.shell(t, b.node, fetch)
	waiting, err := b.node.Start(t.Context(), "waiting", "bash", "-c", "exec 3<>/dev/tcp/storage/8080; cat <&3; echo cut")
	if err != nil {
		t.Fatal(err)
	}
	b.shell(t, b.node, "until ss -Htn state established dport = :8080 | grep -q .; do sleep 0.1; done")
	for range 2 { // a second time changes nothing
		if err := b.storage.Refuse(t.Context(), 8080); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := b.node.Shell(t.Context(), fetch); err == nil || !strings.Contains(out, "refused") {
		t.Errorf("refused port: %q, %v", out, err)
	}
	if _, err := b.storage.Dial(t.Context(), "tcp", b.storage.Addr().String()+":8080"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("refused port, dialled: %v", err)
	}
	if _, err := waiting.Wait(t.Context()); err != nil {
		t.Errorf("the connection that existed was not cut: %v", err)
	}
	for range 2 {
		if err := b.storage.Unrefuse(t.Context(), 8080); err != nil {
			t.Fatal(err)
		}
	}
	b.shell(t, b.node, fetch)
	if err := p.Kill(t.Context()); err != nil {
		t.Error(err)
	}
}

const nvmetScript = `cd /sys/kernel/config/nvmet
truncate -s 256M /data/vol; s=subsystems/nqn.2026-11.test:a; mkdir $s; echo 1 > $s/attr_allow_any_host
mkdir $s/namespaces/1; echo -n /data/vol > $s/namespaces/1/device_path; echo 1 > $s/namespaces/1/enable
p=ports/1; mkdir $p; echo tcp > $p/addr_trtype; echo ipv4 > $p/addr_adrfam; echo 10.77.0.10 > $p/addr_traddr; echo 4420 > $p/addr_trsvcid
ln -s $PWD/$s $p/subsystems/`

const nvmetStop = `cd /sys/kernel/config/nvmet; rm ports/1/subsystems/*; rmdir ports/1 subsystems/*/namespaces/1 subsystems/*; rm /data/vol`

// nvme exports a file and uses it from the other machine: with nvme-cli, then as the product does it.
func (b *bench) nvme(t *testing.T) {
	b.shell(t, b.storage, nvmetScript)
	const use = `for i in $(seq 50); do [ -b /dev/nvme0n1 ] && [ "$(cat /sys/block/nvme0n1/size)" = 524288 ] && break; sleep 0.1; done
		mkfs.ext4 -q /dev/nvme0n1; mount /dev/nvme0n1 /mnt; echo hello > /mnt/f; umount /mnt; mount /dev/nvme0n1 /mnt; cat /mnt/f; umount /mnt
		nvme disconnect -n nqn.2026-11.test:a >/dev/null`
	const host = "nqn.2014-08.org.nvmexpress:uuid:99999999-0000-0000-0000-000000000001"
	const hostID = "99999999-0000-0000-0000-000000000001"
	if out := b.shell(t, b.node, "nvme connect -t tcp -a 10.77.0.10 -s 4420 -n nqn.2026-11.test:a -q "+host+" -I "+hostID+" >/dev/null; "+use); out != "hello" {
		t.Errorf("read %q", out)
	}
	start := time.Now()
	if out := b.shell(t, b.node, "echo transport=tcp,traddr=10.77.0.10,trsvcid=4420,nqn=nqn.2026-11.test:a,hostnqn="+host+",hostid="+hostID+
		" > /dev/nvme-fabrics; "+use); out != "hello" {
		t.Errorf("read %q", out)
	}
	t.Logf("connect, mkfs, mount, disconnect: %.1f s", time.Since(start).Seconds())
	b.shell(t, b.storage, nvmetStop)
}

// powerCut proves that what was flushed stays and that what was not does not, on a disk with a volatile cache.
func (b *bench) powerCut(t *testing.T) {
	forward, addr := b.storage.ForwardAddr(8080), b.storage.Addr()
	id := b.shell(t, b.storage, "cat /etc/machine-id")
	b.shell(t, b.storage, "echo kept > /data/kept; sync; dd if=/dev/urandom of=/data/lost bs=1M count=16 2>/dev/null")
	before := b.shell(t, b.storage, "sha256sum < /data/lost; echo 1000000 > /proc/sys/vm/dirty_writeback_centisecs")
	p, err := b.storage.Start(t.Context(), "sleep", "sleep", "1000")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.storage.PowerCut(); err != nil {
		t.Fatal(err)
	}
	if b.storage.Running() {
		t.Error("still running")
	}
	if _, err := b.storage.Shell(t.Context(), "true"); err == nil {
		t.Error("a machine without power answered")
	}
	if err := b.storage.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Running(t.Context()); err == nil {
		t.Error("a process outlived the power cut")
	}
	if got := b.shell(t, b.storage, "cat /data/kept"); got != "kept" {
		t.Errorf("flushed data: %q", got)
	}
	if got := b.shell(t, b.storage, "sha256sum < /data/lost || true"); got == before {
		t.Error("data that was never flushed is whole after a power cut")
	}
	if got := b.shell(t, b.storage, "cat /etc/machine-id"); got != id {
		t.Errorf("machine ID %s, was %s", got, id)
	}
	if b.storage.ForwardAddr(8080) != forward || b.storage.Addr() != addr {
		t.Errorf("addresses changed: %s %s", b.storage.ForwardAddr(8080), b.storage.Addr())
	}
	if _, ok := b.pings(t); !ok {
		t.Error("no ping after the power cut")
	}
}

func (b *bench) shutdown(t *testing.T) {
	b.shell(t, b.storage, "dd if=/dev/urandom of=/data/file bs=1M count=4 2>/dev/null")
	before := b.shell(t, b.storage, "sha256sum < /data/file")
	if err := b.storage.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.storage.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := b.shell(t, b.storage, "sha256sum < /data/file"); got != before {
		t.Error("data is lost after an orderly shutdown")
	}
}
