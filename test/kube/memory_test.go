//go:build linux && k8s

package kube_test

import "strings"

// rss prints, for each process of Holdfast on a node, its resident memory in KiB and
// what it runs.
const rss = `for p in /proc/[0-9]*; do
  [ "$(readlink $p/exe)" = /usr/local/bin/holdfast ] || continue
  echo "$(sed -n 's/^VmRSS:[[:space:]]*\([0-9]*\) kB/\1/p' $p/status) KiB holdfast $(tr '\0' ' ' <$p/cmdline | cut -d' ' -f2), $(ls /run/holdfast/node/boot-*/ 2>/dev/null | grep -c json) volumes on the node"
done`

// memory logs what Holdfast's processes hold on the nodes.
func (b *bench) memory() {
	b.Helper()
	for _, n := range cluster.Nodes {
		out, err := n.Shell(b.ctx, rss)
		b.must(err)
		for line := range strings.Lines(out) {
			b.Logf("%s: %s", n.Name(), strings.TrimSpace(line))
		}
	}
}
