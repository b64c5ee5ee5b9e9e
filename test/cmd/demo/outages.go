package main

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/holdfast-csi/holdfast/test/report"
)

// outage is one way to take the storage host away and to bring it back.
type outage struct {
	kind, title, says string
	lasts             time.Duration
	inject, heal      func(context.Context, *demo) error
}

const nvmePort = 4420

var outages = []outage{
	{
		kind: "cable", title: "The storage host's network cable is pulled for 20 s",
		says: "nothing answers and nothing refuses: silence", lasts: 20 * time.Second,
		inject: func(_ context.Context, d *demo) error { return d.storage().NIC(0).Unplug() },
		heal:   func(_ context.Context, d *demo) error { return d.storage().NIC(0).Plug() },
	},
	{
		kind: "refused", title: "The storage host refuses connections for 10 s",
		says: "every packet is answered with a reset", lasts: 10 * time.Second,
		inject: func(ctx context.Context, d *demo) error { return d.storage().Refuse(ctx, nvmePort) },
		heal:   func(ctx context.Context, d *demo) error { return d.storage().Unrefuse(ctx, nvmePort) },
	},
	{
		kind: "dnr", title: "The subsystem is gone for 10 s while the port still listens",
		says: "each connect is answered with Do-Not-Retry: Linux 6.10 to 6.15 deletes the device at once", lasts: 10 * time.Second,
		inject: func(ctx context.Context, d *demo) error { return d.hide(ctx) },
		heal:   func(ctx context.Context, d *demo) error { return d.show(ctx) },
	},
	{
		kind: "admin", title: "An administrator types nvme disconnect-all on the node",
		says: "every connection is taken down by hand, and the devices with them",
		inject: func(ctx context.Context, d *demo) error {
			_, err := d.node().Shell(ctx, "nvme disconnect-all")
			return err
		},
		heal: func(context.Context, *demo) error { return nil },
	},
	{
		kind: "power", title: "The storage host's power is cut under load, and it boots again",
		says: "what its disk had not flushed is gone with the power", lasts: 2 * time.Second,
		inject: func(_ context.Context, d *demo) error { return d.storage().PowerCut() },
		heal:   func(ctx context.Context, d *demo) error { return d.powerOn(ctx) },
	},
}

// resumeTime bounds how long I/O may take to go on after healing before the
// demo calls it a failure.
const resumeTime = 60 * time.Second

func (d *demo) outage(ctx context.Context, o outage) error {
	d.screen.chapter(o.title)
	d.screen.note(o.says)
	injected := time.Now()
	if err := o.inject(ctx, d); err != nil {
		return err
	}
	if err := d.watch(ctx, o.lasts, nil); err != nil {
		return err
	}
	if err := o.heal(ctx, d); err != nil {
		return err
	}
	healed := time.Now()
	d.screen.healed(o.kind)
	if err := d.watch(ctx, resumeTime, func() bool { return d.resumed(healed) }); err != nil {
		return err
	}
	result := d.measure(o.kind, injected, healed)
	d.report.Outages = append(d.report.Outages, result)
	d.screen.outage(result)
	return d.watch(ctx, 3*time.Second, nil)
}

func (d *demo) resumed(healed time.Time) bool {
	for _, v := range d.volumes {
		if _, ok := v.log.FirstAfter(healed); !ok {
			return false
		}
	}
	return true
}

func (d *demo) measure(kind string, injected, healed time.Time) report.Outage {
	out := report.Outage{
		Kind: kind, Guard: d.guard, OK: d.resumed(healed),
		InjectedS: injected.Sub(d.began).Seconds(), HealedS: healed.Sub(d.began).Seconds(),
	}
	for _, v := range d.volumes {
		first, _ := v.log.FirstAfter(healed)
		last, _ := v.log.LastBefore(first)
		out.ResumedAfterHealS = max(out.ResumedAfterHealS, first.Sub(healed).Seconds())
		out.WaitedS = max(out.WaitedS, first.Sub(last).Seconds())
		out.OK = out.OK && len(v.log.Errors()) == 0
	}
	return out
}

// hide unlinks the volumes' subsystem from its port, which another one keeps
// open. The agent is away meanwhile: it would mend that.
func (d *demo) hide(ctx context.Context) error {
	if err := d.storage().KillAgent(ctx); err != nil {
		return err
	}
	_, err := d.storage().Shell(ctx, fmt.Sprintf(`cd /sys/kernel/config/nvmet; P=$(ls -d ports/*/subsystems/%[1]s); P=${P%%/*}; echo $P >/run/port
mkdir subsystems/nqn.other; echo 1 >subsystems/nqn.other/attr_allow_any_host; ln -s $PWD/subsystems/nqn.other $P/; rm $P/%[1]s`, d.volumes[0].Publish["nqn"]))
	return err
}

func (d *demo) show(ctx context.Context) error {
	_, err := d.storage().Shell(ctx, fmt.Sprintf(`cd /sys/kernel/config/nvmet; P=$(cat /run/port); ln -s $PWD/subsystems/%s $P/; rm $P/nqn.other; rmdir subsystems/nqn.other`, d.volumes[0].Publish["nqn"]))
	return err
}

// powerOn boots the storage host and waits until its port takes connections
// again: from then on it is the node that has to come back.
func (d *demo) powerOn(ctx context.Context) error {
	d.screen.note("power is back, the storage host boots …")
	done := make(chan error, 1)
	go func() { done <- d.storage().PowerOn(ctx) }()
	if err := d.watch(ctx, 2*time.Minute, func() bool { return len(done) > 0 }); err != nil {
		return err
	}
	if err := <-done; err != nil {
		return err
	}
	address := net.JoinHostPort(d.storage().Addr().String(), fmt.Sprint(nvmePort))
	for {
		try, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		c, err := d.storage().Dial(try, "tcp", address)
		cancel()
		if err == nil {
			return c.Close()
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the storage host does not listen: %w", err)
		}
	}
}
