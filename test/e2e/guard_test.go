//go:build vm

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// fault is one way to take a device away that the kernel alone does not survive.
type fault struct {
	name         string
	lasts        time.Duration
	inject, heal func(b *bench, v *cluster.Volume)
	// state is what the driver says of the volume meanwhile; "" if it may be over
	// before anybody asks.
	state string
}

// swapBound is from the device being there again to I/O going on: a look at
// sysfs, a table, and the writer's own pace, under emulation.
const swapBound = refusedDelay + slack

const refusedDelay = time.Second

// port is where the subsystem of v is linked.
func portOf(v *cluster.Volume) string {
	return fmt.Sprintf(`cd /sys/kernel/config/nvmet; P=$(ls -d ports/*/subsystems/%s); P=${P%%/*};`, v.Publish["nqn"])
}

func (b *bench) unlink(v *cluster.Volume) { b.on("%s rm $P/%s", portOf(v), v.Publish["nqn"]) }

func (b *bench) relink(v *cluster.Volume) {
	b.on("cd /sys/kernel/config/nvmet; ln -s $PWD/subsystems/%s $(cat /run/port)/", v.Publish["nqn"])
}

func (b *bench) namespaceFile(v *cluster.Volume, file, value string) {
	b.on("echo %s >/sys/kernel/config/nvmet/subsystems/%s/namespaces/%s/%s", value, v.Publish["nqn"], v.Publish["nsid"], file)
}

// listening keeps the port of v open whatever happens to the subsystem of v,
// and keeps the agent from mending what a test breaks.
func (b *bench) listening(v *cluster.Volume) (end func()) {
	b.must(b.storage.KillAgent(b.ctx))
	b.on(`%s echo $P >/run/port; mkdir subsystems/nqn.keep; echo 1 >subsystems/nqn.keep/attr_allow_any_host; ln -s $PWD/subsystems/nqn.keep $P/`, portOf(v))
	return func() {
		b.on(`cd /sys/kernel/config/nvmet; rm $(cat /run/port)/nqn.keep; rmdir subsystems/nqn.keep`)
		b.must(b.storage.StartAgent(b.ctx))
	}
}

func gone(b *bench, v *cluster.Volume) { b.unlink(v) }
func back(b *bench, v *cluster.Volume) { b.relink(v) }
func nothing(*bench, *cluster.Volume)  {}

var deletions = []fault{
	{"subsystem gone for 3 s behind a listening port", 3 * time.Second, gone, back, ""},
	{"subsystem gone for 15 s behind a listening port", 15 * time.Second, gone, back, "Reconnecting"},
	{"nvme disconnect", 0, func(b *bench, v *cluster.Volume) { b.sh("nvme disconnect -n %s", v.Publish["nqn"]) }, nothing, ""},
	{"nvme disconnect-all", 0, func(b *bench, _ *cluster.Volume) { b.sh("nvme disconnect-all") }, nothing, ""},
	{
		"namespace off for 3 s", 3 * time.Second,
		func(b *bench, v *cluster.Volume) { b.namespaceFile(v, "enable", "0") },
		func(b *bench, v *cluster.Volume) { b.namespaceFile(v, "enable", "1") }, "Reconnecting",
	},
	{
		"host not allowed for 4 s", 4 * time.Second,
		func(b *bench, v *cluster.Volume) {
			b.on(`%s H=$(ls subsystems/%s/allowed_hosts); echo $H >/run/host; rm subsystems/%[2]s/allowed_hosts/$H; rm $P/%[2]s; ln -s $PWD/subsystems/%[2]s $P/`, portOf(v), v.Publish["nqn"])
		},
		func(b *bench, v *cluster.Volume) {
			b.on(`cd /sys/kernel/config/nvmet; ln -s $PWD/hosts/$(cat /run/host) subsystems/%s/allowed_hosts/`, v.Publish["nqn"])
		}, "",
	},
	{
		"another UUID for 4 s", 4 * time.Second,
		func(b *bench, v *cluster.Volume) {
			b.namespaceFile(v, "enable", "0")
			b.namespaceFile(v, "device_uuid", "99999999-2222-4333-8444-555555555555")
			b.namespaceFile(v, "enable", "1")
		},
		func(b *bench, v *cluster.Volume) {
			b.namespaceFile(v, "enable", "0")
			b.namespaceFile(v, "device_uuid", v.UUID())
			b.namespaceFile(v, "enable", "1")
		}, "Refused",
	},
	{
		"another UUID while away", 6 * time.Second,
		func(b *bench, v *cluster.Volume) {
			b.must(b.storage.Refuse(b.ctx, 4420))
			time.Sleep(2 * time.Second)
			b.namespaceFile(v, "enable", "0")
			b.namespaceFile(v, "device_uuid", "99999999-2222-4333-8444-555555555555")
			b.namespaceFile(v, "enable", "1")
			b.must(b.storage.Unrefuse(b.ctx, 4420))
		},
		func(b *bench, v *cluster.Volume) {
			b.namespaceFile(v, "enable", "0")
			b.namespaceFile(v, "device_uuid", v.UUID())
			b.namespaceFile(v, "enable", "1")
		}, "Refused",
	},
	{
		"the plugin is killed, the session disconnected, the plugin started", 3 * time.Second,
		func(b *bench, v *cluster.Volume) {
			b.must(b.node.KillPlugin(b.ctx))
			b.sh("nvme disconnect -n %s", v.Publish["nqn"])
		},
		func(b *bench, _ *cluster.Volume) { b.must(b.node.StartPlugin(b.ctx)) }, "",
	},
}

// TestGuard: what makes the kernel delete the device is an outage like any other,
// for every kind of volume at once: they share one session.
func TestGuard(t *testing.T) {
	b := newBench(t, 8*time.Minute)
	vs := []*cluster.Volume{b.volume("ext4", 24, "guard", "dm"), b.volume("xfs", 320, "guard", "dm"), b.volume("", 16, "guard", "dm")}
	b.use(vs...)
	var ws []*writer
	for _, v := range vs {
		ws = append(ws, b.write(v))
	}
	end := b.listening(vs[0])
	for _, f := range deletions {
		b.run(f.name, func(b *bench) { b.endure(f, vs, ws) })
		if t.Failed() {
			return
		}
	}
	end()
	b.endOf(ws, vs...)
}

func (b *bench) endure(f fault, vs []*cluster.Volume, ws []*writer) {
	b.Helper()
	f.inject(b, vs[0])
	if f.name == "namespace off for 3 s" || strings.HasPrefix(f.name, "another UUID") {
		ws, vs = ws[:1], vs[:1] // the others do not notice
	}
	time.Sleep(f.lasts * 3 / 4)
	if f.state != "" {
		for _, v := range vs {
			b.wantHealth(v, f.state)
		}
	}
	time.Sleep(f.lasts / 4)
	before := time.Now()
	f.heal(b, vs[0])
	healed := time.Now()
	for i, w := range ws {
		took := w.acked(time.Minute, before) - healed.Sub(before)
		b.Logf("%s: %s went on %s after healing", f.name, kindOf(vs[i]), seconds(took))
		if took > swapBound {
			b.Errorf("%s went on %s after healing, the bound is %s", kindOf(vs[i]), seconds(took), seconds(swapBound))
		}
		if e := w.log.Errors(); len(e) > 0 {
			b.Errorf("%s saw errors: %v", kindOf(vs[i]), e)
		}
	}
	time.Sleep(time.Second)
	for _, v := range vs {
		b.wantHealth(v, "")
	}
}

// wantHealth asks for the one reason that the driver gives for a volume's
// health; "" if it is well.
func (b *bench) wantHealth(v *cluster.Volume, want string) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, time.Second)
	defer cancel()
	resp, err := b.node.CSI.NodeGetVolumeHealth(ctx, &csi.NodeGetVolumeHealthRequest{VolumeId: v.ID})
	b.must(err)
	got := ""
	for _, s := range resp.GetVolumeHealth().GetHealthStatuses() {
		got += s.GetReason()
	}
	if got != want {
		b.Errorf("health of %s: %q, want %q", v.Name, got, want)
	}
}
