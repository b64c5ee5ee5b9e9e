//go:build vm

package e2e

import (
	"strconv"
	"strings"
	"testing"
	"time"
)

// badSector is the first of ten that scsi_debug cannot read (its parameters
// medium_error_start and medium_error_count).
const badSector = 320000

// TestBadBlock: the storage host's disk has a bad block, and says so. The pod gets
// the error for that block and for no other, at once, under guard dm as well; the
// path stays in use. The namespace is the disk itself, and a file on it.
func TestBadBlock(t *testing.T) {
	anyKernel(t)
	b := newBench(t, 4*time.Minute)
	disk := strings.TrimSpace(b.on("modprobe sd_mod; modprobe scsi_debug dev_size_mb=400 opts=0 medium_error_start=%d medium_error_count=8 >&2; for i in $(seq 100); do d=$(echo /sys/bus/pseudo/drivers/scsi_debug/adapter0/host*/target*/*/block/*); [ -d $d ] && break; sleep 0.1; done; echo /dev/${d##*/}", badSector))
	f := b.target("bad", 4442)
	b.run("a disk", func(b *bench) {
		f.namespace(1, disk)
		b.readsBad(f, 1, badSector/8)
		b.on("cd /sys/kernel/config/nvmet/subsystems/%s/namespaces; echo 0 >1/enable; rmdir 1", f.nqn)
	})
	b.run("a file", func(b *bench) {
		b.on("mkfs.xfs -q -f %s; mkdir -p /run/bad; mount %[1]s /run/bad; fallocate -l 200M /run/bad/img; dd if=/dev/zero of=/run/bad/img bs=1M count=190 conv=notrunc,fsync status=none", disk)
		// Each extent is "0: 0.. 25589: 25610.. 51199: 25590:", in blocks of 4 KiB.
		block := b.on("filefrag -v /run/bad/img | awk -v bad=%d '/^ *[0-9]+:/ {gsub(/[^0-9 ]/, \" \"); if ($4 <= bad && bad <= $5) print $2 + bad - $4}'", badSector/8)
		f.namespace(2, "/run/bad/img")
		b.readsBad(f, 2, b.number(block))
		b.on("cd /sys/kernel/config/nvmet/subsystems/%s/namespaces; echo 0 >2/enable; rmdir 2; umount /run/bad", f.nqn)
	})
	f.remove()
	b.on("echo 0 >/sys/bus/pseudo/drivers/scsi_debug/opts; rmmod scsi_debug")
}

func (b *bench) readsBad(f *foreign, nsid int, block int) {
	v := f.static("", 100, "nsid", strconv.Itoa(nsid), "guard", "dm")
	b.must(b.node.StageVolume(b.ctx, v))
	b.must(b.node.PublishVolume(b.ctx, v, false))
	b.on("echo 2 >/sys/bus/pseudo/drivers/scsi_debug/opts")
	began := time.Now()
	said := b.sh("dd if=%s of=/dev/null bs=4096 count=1 skip=%d iflag=direct 2>&1 || true", v.Target(), block)
	took := time.Since(began)
	if !strings.Contains(said, "Input/output error") && !strings.Contains(said, "No data available") {
		b.Errorf("the bad block read as: %s", said)
	}
	b.Logf("the bad block failed after %s: %s", seconds(took), strings.Split(said, "\n")[0])
	if took > 5*time.Second {
		b.Error("that is no answer at once")
	}
	for _, good := range []int{0, block - 100, block + 100} {
		b.sh("dd if=%s of=/dev/null bs=4096 count=1 skip=%d iflag=direct status=none", v.Target(), good)
	}
	b.wantHealth(v, "")
	b.on("echo 0 >/sys/bus/pseudo/drivers/scsi_debug/opts")
	b.must(b.node.UnpublishVolume(b.ctx, v))
	b.must(b.node.UnstageVolume(b.ctx, v))
}

func (b *bench) number(text string) int {
	b.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(text))
	b.must(err)
	return n
}
