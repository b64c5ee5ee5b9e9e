package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
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
	inject   func(context.Context, *campaign) error
	heal     func(context.Context, *campaign) error
}

func nothing(context.Context, *campaign) error { return nil }

const nvmePort = 4420

var catalogue = []fault{
	{"refuse", network, 1 * time.Second, 15 * time.Second,
		func(ctx context.Context, t *campaign) error { return t.storage().Refuse(ctx, nvmePort) },
		func(ctx context.Context, t *campaign) error { return t.storage().Unrefuse(ctx, nvmePort) }},
	{"silent", network, 1 * time.Second, 20 * time.Second,
		func(_ context.Context, t *campaign) error { t.storage().NIC(0).Drop(); return nil }, healNIC},
	{"one-way-to", network, 2 * time.Second, 15 * time.Second,
		func(_ context.Context, t *campaign) error { t.storage().NIC(0).DropTo(); return nil }, healNIC},
	{"one-way-from", network, 2 * time.Second, 15 * time.Second,
		func(_ context.Context, t *campaign) error { t.storage().NIC(0).DropFrom(); return nil }, healNIC},
	{"delay", network, 3 * time.Second, 8 * time.Second,
		func(_ context.Context, t *campaign) error {
			t.storage().NIC(0).Delay(150*time.Millisecond, 100*time.Millisecond)
			return nil
		}, healNIC},
	{"loss", network, 3 * time.Second, 8 * time.Second,
		func(_ context.Context, t *campaign) error {
			t.storage().NIC(0).Loss(0.1, t.random.Uint64())
			return nil
		}, healNIC},
	{"hung", network, 2 * time.Second, 15 * time.Second, hang, unhang},
	{"power", network | config | agent, 1 * time.Second, 4 * time.Second,
		func(_ context.Context, t *campaign) error { return t.storage().PowerCut() },
		func(ctx context.Context, t *campaign) error { return t.powerOn(ctx) }},
	{"agent-kill", agent, 0, 3 * time.Second, killAgent, startAgent},
	{"plugin-kill", plugin, 0, 8 * time.Second, killPlugin, startPlugin},
	{"subsystem-gone", config | agent, 1 * time.Second, 15 * time.Second, withoutAgent(hide), withAgent(show)},
	{"host-denied", config | agent, 1 * time.Second, 8 * time.Second, withoutAgent(deny), withAgent(allow)},
	{"port-closed", config | agent, 1 * time.Second, 8 * time.Second, withoutAgent(closePort), withAgent(openPort)},
	{"namespace-off", config | agent, 1 * time.Second, 6 * time.Second, withoutAgent(enable("0")), withAgent(enable("1"))},
	{"uuid-changed", config | agent, 1 * time.Second, 6 * time.Second, withoutAgent(otherUUID), withAgent(ownUUID)},
	{"controller-deleted", session, 0, 0, onNode(`for c in /sys/class/nvme/nvme*; do read -r n <$c/subsysnqn; [ $n = $NQN ] && echo 1 >$c/delete_controller; done; true`), nothing},
	{"disconnect", session, 0, 0, onNode("nvme disconnect -n $NQN"), nothing},
	{"disconnect-all", session, 0, 0, onNode("nvme disconnect-all"), nothing},
	{"reset", session, 0, 0, onNode(`for c in /sys/class/nvme/nvme*; do (echo 1 >$c/reset_controller) 2>/dev/null; done; true`), nothing},
	{"plugin-kill-disconnect", plugin | session, 1 * time.Second, 8 * time.Second,
		func(ctx context.Context, t *campaign) error {
			if err := killPlugin(ctx, t); err != nil {
				return err
			}
			return onNode("nvme disconnect-all")(ctx, t)
		}, startPlugin},
	{"portal-dead", network, 2 * time.Second, 12 * time.Second,
		func(ctx context.Context, t *campaign) error { return t.storage().Refuse(ctx, t.portal()) },
		func(ctx context.Context, t *campaign) error { return t.storage().Unrefuse(ctx, t.portal()) }},
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

func killAgent(ctx context.Context, t *campaign) error   { return t.storage().KillAgent(ctx) }
func startAgent(ctx context.Context, t *campaign) error  { return t.storage().StartAgent(ctx) }
func killPlugin(ctx context.Context, t *campaign) error  { return t.node().KillPlugin(ctx) }
func startPlugin(ctx context.Context, t *campaign) error { return t.node().StartPlugin(ctx) }

// withoutAgent kills the agent first: it would mend what is broken.
func withoutAgent(f func(context.Context, *campaign) error) func(context.Context, *campaign) error {
	return func(ctx context.Context, t *campaign) error {
		if err := killAgent(ctx, t); err != nil {
			return err
		}
		return f(ctx, t)
	}
}

func withAgent(f func(context.Context, *campaign) error) func(context.Context, *campaign) error {
	return func(ctx context.Context, t *campaign) error {
		if err := f(ctx, t); err != nil {
			return err
		}
		return startAgent(ctx, t)
	}
}

// onTarget runs a script in the target's configfs directory: $S is the managed
// volumes' subsystem, $P its port, $N the first volume's namespace.
func onTarget(ctx context.Context, t *campaign, format string, args ...any) error {
	v := t.subjects[0]
	script := fmt.Sprintf("cd /sys/kernel/config/nvmet; S=%s; N=subsystems/$S/namespaces/%s; P=ports/$(cat /run/port); ", v.Publish["nqn"], v.Publish["nsid"]) + fmt.Sprintf(format, args...)
	_, err := t.storage().Shell(ctx, script)
	return err
}

// onNode runs a script on the node: $NQN is the managed volumes' subsystem.
func onNode(script string) func(context.Context, *campaign) error {
	return func(ctx context.Context, t *campaign) error {
		_, err := t.node().Shell(ctx, "NQN="+t.subjects[0].Publish["nqn"]+"; "+script)
		return err
	}
}

func hide(ctx context.Context, t *campaign) error {
	return onTarget(ctx, t, "mkdir -p subsystems/nqn.other; echo 1 >subsystems/nqn.other/attr_allow_any_host; ln -sfn $PWD/subsystems/nqn.other $P/subsystems/nqn.other; rm $P/subsystems/$S")
}

func show(ctx context.Context, t *campaign) error {
	return onTarget(ctx, t, "ln -s $PWD/subsystems/$S $P/subsystems/; rm $P/subsystems/nqn.other; rmdir subsystems/nqn.other")
}

func deny(ctx context.Context, t *campaign) error {
	return onTarget(ctx, t, "ls subsystems/$S/allowed_hosts >/run/host; rm subsystems/$S/allowed_hosts/*; rm $P/subsystems/$S; ln -s $PWD/subsystems/$S $P/subsystems/")
}

func allow(ctx context.Context, t *campaign) error {
	return onTarget(ctx, t, "ln -s $PWD/hosts/$(cat /run/host) subsystems/$S/allowed_hosts/")
}

func closePort(ctx context.Context, t *campaign) error {
	return onTarget(ctx, t, "rm $P/subsystems/$S")
}

func openPort(ctx context.Context, t *campaign) error {
	return onTarget(ctx, t, "ln -s $PWD/subsystems/$S $P/subsystems/")
}

func enable(v string) func(context.Context, *campaign) error {
	return func(ctx context.Context, t *campaign) error { return onTarget(ctx, t, "echo %s >$N/enable", v) }
}

func otherUUID(ctx context.Context, t *campaign) error {
	return onTarget(ctx, t, "echo 0 >$N/enable; echo 99999999-2222-4333-8444-555555555555 >$N/device_uuid; echo 1 >$N/enable")
}

func ownUUID(ctx context.Context, t *campaign) error {
	return onTarget(ctx, t, "echo 0 >$N/enable; echo %s >$N/device_uuid; echo 1 >$N/enable", t.subjects[0].UUID())
}

// hang lets connections be made and swallows everything that is said on them: to
// the node the target accepts and is silent.
func hang(ctx context.Context, t *campaign) error {
	_, err := t.storage().Shell(ctx, `nft 'table ip hang { chain i { type filter hook input priority 0; tcp dport 4420 ip length > 100 drop; }; }'`)
	return err
}

func unhang(ctx context.Context, t *campaign) error {
	_, err := t.storage().Shell(ctx, "nft delete table ip hang")
	return err
}
