//go:build vm

package e2e

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// content is something that a volume may hold, and what a stage must answer.
type content struct {
	name string
	fs   string // what is asked for; default ext4
	put  string // script on the storage host; $IMG is the volume's file
	want codes.Code
}

// contents of managed volumes. Whatever it is, if it is not a whole file system
// of the kind asked for it must stay as it is, to the byte.
var contents = []content{
	{name: "healthy ext4", put: "mkfs.ext4 -q -F -b 4096 $IMG; " + keepFile, want: codes.OK},
	{name: "ext4, primary superblock zeroed", put: "mkfs.ext4 -q -F -b 4096 $IMG; " + keepFile + "; dd if=/dev/zero of=$IMG bs=1k seek=1 count=1 conv=notrunc status=none", want: codes.FailedPrecondition},
	{name: "64 KiB of random bytes at 64 KiB", put: "dd if=/dev/urandom of=$IMG bs=64k seek=1 count=1 conv=notrunc status=none", want: codes.FailedPrecondition},
	{name: "one byte in the middle", put: `printf '\x01' | dd of=$IMG bs=1 seek=$((8<<20)) conv=notrunc status=none`, want: codes.FailedPrecondition},
	{name: "one byte at the end", put: `printf '\x01' | dd of=$IMG bs=1 seek=$(((16<<20)-1)) conv=notrunc status=none`, want: codes.FailedPrecondition},
	{name: "MBR and ext4 in a partition", put: `printf '\x80\x00\x02\x00\x83\x00\x00\x00\x00\x08\x00\x00\x00\x70\x00\x00' | dd of=$IMG bs=1 seek=446 conv=notrunc status=none
		printf '\x55\xaa' | dd of=$IMG bs=1 seek=510 conv=notrunc status=none; mkfs.ext4 -q -F -b 4096 -E offset=1048576 $IMG 14M`, want: codes.FailedPrecondition},
	{name: "GPT", put: "dd if=/run/gpt of=$IMG conv=notrunc status=none", want: codes.FailedPrecondition},
	{name: "GPT of which only the copy at the end is left", put: "dd if=/run/gpt of=$IMG bs=512 skip=1 count=1 seek=32767 conv=notrunc status=none", want: codes.FailedPrecondition},
	{name: "LUKS1", put: `printf 'LUKS\xba\xbe\x00\x01aes' | dd of=$IMG conv=notrunc status=none; dd if=/dev/urandom of=$IMG bs=64k seek=16 count=4 conv=notrunc status=none`, want: codes.FailedPrecondition},
	{name: "LVM2 label", put: `printf 'LABELONE\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x20\x00\x00\x00LVM2 001' | dd of=$IMG bs=512 seek=1 conv=notrunc status=none`, want: codes.FailedPrecondition},
	{name: "XFS while ext4 is asked for", put: "mkfs.xfs -q -f --unsupported $IMG", want: codes.FailedPrecondition},
	{name: "ext4 while XFS is asked for", fs: "xfs", put: "mkfs.ext4 -q -F -b 4096 $IMG; " + keepFile, want: codes.FailedPrecondition},
	{name: "ext2 while ext4 is asked for", put: "mke2fs -q -F -b 4096 -t ext2 $IMG", want: codes.FailedPrecondition},
	{name: "btrfs", put: "mkfs.btrfs -q -f -M $IMG", want: codes.FailedPrecondition},
	{name: "zeros that were written", put: "dd if=/dev/zero of=$IMG bs=1M count=16 conv=notrunc status=none", want: codes.FailedPrecondition},
	{name: "space that was allocated and never written", put: "fallocate -l 16M $IMG", want: codes.FailedPrecondition},
	{name: "data that was discarded", put: "dd if=/dev/urandom of=$IMG bs=1M count=1 conv=notrunc,fsync status=none; fallocate -p -l 16M $IMG", want: codes.FailedPrecondition},
}

// keepFile puts a file into an ext4 image without mounting it.
const keepFile = "echo kept >/run/kept; debugfs -w -R 'write /run/kept kept' $IMG 2>/dev/null"

// TestFormatManaged stages volumes that hold something.
func TestFormatManaged(t *testing.T) {
	anyKernel(t)
	b := newBench(t, 5*time.Minute)
	b.must(b.storage.PutBytes(b.ctx, gpt(16<<20), "/run/gpt", 0o600))
	// Programs that would lie: what is on a volume is never asked of them.
	b.liars()
	defer b.sh("rm -f /usr/local/bin/blkid /usr/local/bin/lsblk /usr/local/bin/wipefs /usr/local/bin/file")

	var vs []*cluster.Volume
	script := "set -o pipefail\n"
	for _, c := range contents {
		v := b.volume(orText(c.fs, "ext4"), 16)
		vs = append(vs, v)
		b.must(b.c.Provision(b.ctx, v))
		script += fmt.Sprintf("IMG=%s\n%s\n", v.Image(), c.put)
	}
	b.on("%s", script+"sync")
	before := b.shas(vs...)
	b.Run("cases", func(t *testing.T) {
		for i, c := range contents {
			b.with(t).run(c.name, func(b *bench) {
				b.Parallel()
				b.stageContent(vs[i], c)
			})
		}
	})
	// After a final refusal the kubelet forgets the volume and never unstages it.
	b.nodeHoldsNothing()
	for v, got := range b.shas(vs...) {
		i := indexOf(vs, v)
		if contents[i].want != codes.OK && got != before[v] {
			b.Errorf("%s: the volume has changed", contents[i].name)
		}
	}
	if out := b.sh("cat /run/liars 2>/dev/null || true"); out != "" {
		b.Errorf("programs were asked what is on a volume: %s", out)
	}
	for _, v := range vs {
		b.must(b.c.Delete(b.ctx, v))
	}
}

// liars are programs that say that every device is empty, and write down that
// they were asked.
func (b *bench) liars() {
	b.Helper()
	for _, name := range []string{"blkid", "lsblk", "wipefs", "file"} {
		b.must(b.node.PutBytes(b.ctx, []byte("#!/bin/bash\necho $0 $* >>/run/liars\nexit 2\n"), "/usr/local/bin/"+name, 0o755))
	}
}

func (b *bench) stageContent(v *cluster.Volume, c content) {
	b.must(b.c.Attach(b.ctx, v, b.node))
	for range 2 { // the second time, after a refusal, nothing is easier
		began := time.Now()
		err := b.node.StageVolume(b.ctx, v)
		b.Logf("%s in %s: %v", code(err), seconds(time.Since(began)), err)
		b.wantCode(err, c.want)
	}
	if c.want == codes.OK {
		b.must(b.node.PublishVolume(b.ctx, v, false))
		if got := b.sh("cat %s/kept", v.Target()); got != "kept" {
			b.Errorf("the file holds %q", got)
		}
		b.must(b.node.UnpublishVolume(b.ctx, v))
		b.must(b.node.UnstageVolume(b.ctx, v))
	}
	b.must(b.c.Detach(b.ctx, v, b.node))
}

func (b *bench) nodeHoldsNothing() {
	b.Helper()
	left, err := b.node.Holds(b.ctx)
	b.must(err)
	if len(left) > 0 {
		b.Errorf("left on the node:\n%s", strings.Join(left, "\n"))
	}
}

// gpt is the beginning of a disk of size bytes: protective MBR, header, one
// partition. The header is valid.
func gpt(size uint64) []byte {
	const sector = 512
	disk := make([]byte, 34*sector)
	le := binary.LittleEndian
	copy(disk[446:], []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0xff, 0x7f, 0, 0})
	disk[510], disk[511] = 0x55, 0xaa
	entry := disk[2*sector:]
	copy(entry, []byte{0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4, 1})
	le.PutUint64(entry[32:], 2048)
	le.PutUint64(entry[40:], size/sector-2049)
	h := disk[sector : sector+92]
	copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
	le.PutUint64(h[24:], 1)
	le.PutUint64(h[32:], size/sector-1)
	le.PutUint64(h[40:], 34)
	le.PutUint64(h[48:], size/sector-34)
	h[56] = 7 // GUID of the disk
	le.PutUint64(h[72:], 2)
	le.PutUint32(h[80:], 128)
	le.PutUint32(h[84:], 128)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(disk[2*sector:]))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h))
	return disk
}

func orText(s, instead string) string {
	if s == "" {
		return instead
	}
	return s
}

func indexOf(vs []*cluster.Volume, v *cluster.Volume) int {
	for i := range vs {
		if vs[i] == v {
			return i
		}
	}
	return -1
}
