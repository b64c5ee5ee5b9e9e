package main

import (
	"context"
	"fmt"
)

func killAgent(ctx context.Context, t *campaign) error   { return t.storage().KillAgent(ctx) }
func startAgent(ctx context.Context, t *campaign) error  { return t.storage().StartAgent(ctx) }
func killPlugin(ctx context.Context, t *campaign) error  { return t.node().KillPlugin(ctx) }
func startPlugin(ctx context.Context, t *campaign) error { return t.node().StartPlugin(ctx) }

// withoutAgent kills the agent first: it would mend what is broken.
func withoutAgent(f act) act {
	return func(ctx context.Context, t *campaign) error {
		if err := killAgent(ctx, t); err != nil {
			return err
		}
		return f(ctx, t)
	}
}

func withAgent(f act) act {
	return func(ctx context.Context, t *campaign) error {
		if err := f(ctx, t); err != nil {
			return err
		}
		return startAgent(ctx, t)
	}
}

// onTarget runs a script in the target's configfs directory: $S is the managed
// volumes' subsystem, $P its port, $N the victim's namespace.
func onTarget(ctx context.Context, t *campaign, format string, args ...any) error {
	v := t.victim
	script := fmt.Sprintf("cd /sys/kernel/config/nvmet; S=%s; N=subsystems/$S/namespaces/%s; P=ports/$(cat /run/port); ", v.Publish["nqn"], v.Publish["nsid"]) + fmt.Sprintf(format, args...)
	_, err := t.storage().Shell(ctx, script)
	return err
}

// onNode runs a script on the node: $NQN is the managed volumes' subsystem.
func onNode(script string) act {
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

func enable(v string) act {
	return func(ctx context.Context, t *campaign) error { return onTarget(ctx, t, "echo %s >$N/enable", v) }
}

func otherUUID(ctx context.Context, t *campaign) error {
	return onTarget(ctx, t, "echo 0 >$N/enable; echo 99999999-2222-4333-8444-555555555555 >$N/device_uuid; echo 1 >$N/enable")
}

func ownUUID(ctx context.Context, t *campaign) error {
	return onTarget(ctx, t, "echo 0 >$N/enable; echo %s >$N/device_uuid; echo 1 >$N/enable", t.victim.UUID())
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
