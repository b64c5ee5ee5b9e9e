package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/test/vm"
)

// scope is what a fault takes hold of. Faults that overlap share none.
type scope int

const (
	network scope = 1 << iota // the storage host's cable and port
	config                    // what the target exports; the agent is away meanwhile
	agent                     // the agent's process
	plugin                    // the node plugin's process
	session                   // the node's controllers
)

// fault is one entry of the catalogue. heal is idempotent with what the roles
// mend themselves.
type fault struct {
	kind     string
	scope    scope
	min, max time.Duration // how long it lasts
	deletes  deletion
	inject   act
	heal     act
	// after is done once every volume serves again; may be nil.
	after act
}

type act func(context.Context, *campaign) error

func nothing(context.Context, *campaign) error { return nil }

const nvmePort = 4420

var catalogue = []fault{
	{kind: "refuse", scope: network, min: 1 * time.Second, max: 8 * time.Second,
		inject: func(ctx context.Context, t *campaign) error { return t.storage().Refuse(ctx, nvmePort) },
		heal:   func(ctx context.Context, t *campaign) error { return t.storage().Unrefuse(ctx, nvmePort) }},
	{kind: "silent", scope: network, min: 1 * time.Second, max: 12 * time.Second,
		inject: nic(func(n *vm.NIC) { n.Drop() }), heal: healNIC},
	{kind: "one-way-to", scope: network, min: 2 * time.Second, max: 12 * time.Second,
		inject: nic(func(n *vm.NIC) { n.DropTo() }), heal: healNIC},
	{kind: "one-way-from", scope: network, min: 2 * time.Second, max: 12 * time.Second,
		inject: nic(func(n *vm.NIC) { n.DropFrom() }), heal: healNIC},
	{kind: "delay", scope: network, min: 3 * time.Second, max: 6 * time.Second,
		inject: nic(func(n *vm.NIC) { n.Delay(150*time.Millisecond, 100*time.Millisecond) }), heal: healNIC},
	{kind: "loss", scope: network, min: 3 * time.Second, max: 6 * time.Second,
		inject: func(_ context.Context, t *campaign) error {
			t.storage().NIC(0).Loss(0.1, t.random.Uint64())
			return nil
		}, heal: healNIC},
	{kind: "hung", scope: network, min: 2 * time.Second, max: 12 * time.Second, inject: hang, heal: unhang},
	{kind: "power", scope: network | config | agent, min: 1 * time.Second, max: 3 * time.Second,
		inject: func(_ context.Context, t *campaign) error { return t.storage().PowerCut() },
		heal:   func(ctx context.Context, t *campaign) error { return t.powerOn(ctx) }},
	{kind: "agent-kill", scope: agent, max: 3 * time.Second, inject: killAgent, heal: startAgent},
	{kind: "plugin-kill", scope: plugin, max: 5 * time.Second, inject: killPlugin, heal: startPlugin},
	{kind: "plugin-kill-in-stage", scope: network | config | agent | plugin | session, inject: killInStage, heal: startPlugin, after: stageAgain},
	{kind: "subsystem-gone", scope: config | agent, min: 1 * time.Second, max: 8 * time.Second, deletes: refused, inject: withoutAgent(hide), heal: withAgent(show)},
	{kind: "host-denied", scope: config | agent, min: 1 * time.Second, max: 6 * time.Second, deletes: refused, inject: withoutAgent(deny), heal: withAgent(allow)},
	{kind: "port-closed", scope: config | agent, min: 1 * time.Second, max: 6 * time.Second, inject: withoutAgent(closePort), heal: withAgent(openPort)},
	{kind: "namespace-off", scope: config | agent, min: 1 * time.Second, max: 5 * time.Second, deletes: theVictim, inject: withoutAgent(enable("0")), heal: withAgent(enable("1"))},
	{kind: "uuid-changed", scope: config | agent, min: 1 * time.Second, max: 5 * time.Second, deletes: theVictim, inject: withoutAgent(otherUUID), heal: withAgent(ownUUID)},
	// What another fault has taken away already cannot be hit, which is no failure.
	{kind: "controller-deleted", scope: session, deletes: managed,
		inject: onNode(`for c in /sys/class/nvme/nvme*; do read -r n <$c/subsysnqn || continue; [ $n != $NQN ] || echo 1 >$c/delete_controller || true; done`), heal: nothing},
	{kind: "disconnect", scope: session, deletes: managed, inject: onNode("nvme disconnect -n $NQN || true"), heal: nothing},
	{kind: "disconnect-all", scope: session, deletes: managed, inject: onNode("nvme disconnect-all || true"), heal: nothing},
	{kind: "reset", scope: session, inject: onNode(`for c in /sys/class/nvme/nvme*; do echo 1 >$c/reset_controller || true; done`), heal: nothing},
	{kind: "plugin-kill-disconnect", scope: plugin | session, min: 1 * time.Second, max: 6 * time.Second, deletes: managed,
		inject: func(ctx context.Context, t *campaign) error {
			if err := killPlugin(ctx, t); err != nil {
				return err
			}
			return onNode("nvme disconnect-all || true")(ctx, t)
		}, heal: startPlugin},
	{kind: "portal-dead", scope: network, min: 2 * time.Second, max: 8 * time.Second,
		inject: func(ctx context.Context, t *campaign) error { return t.storage().Refuse(ctx, t.portal()) },
		heal:   func(ctx context.Context, t *campaign) error { return t.storage().Unrefuse(ctx, t.portal()) }},
	{kind: "grown", scope: config | agent, inject: grow, heal: nothing, after: grown},
	{kind: "grown-while-away", scope: network | config | agent, min: 2 * time.Second, max: 8 * time.Second, inject: growAway, heal: healNIC, after: grown},
}

func nic(f func(*vm.NIC)) act {
	return func(_ context.Context, t *campaign) error { f(t.storage().NIC(0)); return nil }
}

// choose returns the entries named, or all.
func choose(names string) ([]fault, error) {
	if names == "" {
		return catalogue, nil
	}
	var out []fault
	for name := range strings.SplitSeq(names, ",") {
		at := slices.IndexFunc(catalogue, func(f fault) bool { return f.kind == name })
		if at < 0 {
			return nil, fmt.Errorf("no fault %q in the catalogue", name)
		}
		out = append(out, catalogue[at])
	}
	return out, nil
}

// lasts draws how long a fault lasts this time.
func (f fault) lasts(r *rand.Rand) time.Duration {
	if f.max == f.min {
		return f.min
	}
	return f.min + time.Duration(r.Int64N(int64(f.max-f.min)))
}

func healNIC(_ context.Context, t *campaign) error { return t.storage().NIC(0).Heal() }
