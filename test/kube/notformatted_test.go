//go:build linux && k8s

package kube_test

import (
	"strings"
	"testing"
)

// notFormatted: the beginning of a volume is lost, so that it reads as one that was
// never written. It is not formatted, people are told why, and when what was lost is
// there again, so is the data.
func notFormatted(t *testing.T) {
	b := newBench(t)
	c := claim{name: "hurt"}
	b.claim(c)
	w := b.write(c, "node1")
	w.stop()
	file, box := b.fileOf(c), cluster.Storages[0]
	sum := func() string {
		b.Helper()
		out, err := box.Shell(b.ctx, "sha256sum "+file)
		b.must(err)
		return strings.Fields(out)[0]
	}
	_, err := box.Shell(b.ctx, "dd if="+file+" of=/run/start bs=1M count=1 && dd if=/dev/zero of="+file+" bs=1M count=1 conv=notrunc,fsync")
	b.must(err)
	before := sum()
	b.pod("reader", c, "node2", "sleep 3600")
	b.events("pvc/hurt", "VolumeNotMounted")
	b.drop("reader")
	if after := sum(); after != before {
		t.Error("the volume has been written to")
	}
	_, err = box.Shell(b.ctx, "dd if=/run/start of="+file+" bs=1M conv=notrunc,fsync && rm /run/start")
	b.must(err)
	w.verify("node2")
	b.clean()
}
