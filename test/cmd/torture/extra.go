package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// grownBy is by how much the static volume grows each time, in bytes.
const grownBy = 1 << 20

// grow makes the static namespace larger while it is used; the target tells its
// hosts, and those that are away find out when they are back.
func grow(ctx context.Context, t *campaign) error {
	t.staticBytes += grownBy
	_, err := t.storage().Shell(ctx, fmt.Sprintf("truncate -s %d %s; echo 1 >/sys/kernel/config/nvmet/subsystems/%s/namespaces/1/revalidate_size", t.staticBytes, staticImage, staticNQN))
	return err
}

func growAway(ctx context.Context, t *campaign) error {
	t.storage().NIC(0).Drop()
	return grow(ctx, t)
}

// grown waits until the pod's device has the new size.
func grown(ctx context.Context, t *campaign) error {
	s := t.static()
	for end := time.Now().Add(resumeTime); ; time.Sleep(200 * time.Millisecond) {
		out, err := t.node().Shell(ctx, "blockdev --getsize64 "+s.Target())
		if err != nil {
			return err
		}
		if n, _ := strconv.ParseInt(strings.TrimSpace(out), 10, 64); n == t.staticBytes {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the grown volume has %s bytes on the node and %d at the target", strings.TrimSpace(out), t.staticBytes)
		}
	}
}

// killInStage kills the plugin at a random moment of the stage of one more volume.
func killInStage(ctx context.Context, t *campaign) error {
	v := &cluster.Volume{Name: fmt.Sprintf("extra%d", t.injected), FSType: "ext4", SizeBytes: 16 << 20, Parameters: map[string]string{"guard": "dm"}}
	t.extra = v
	if err := t.c.Provision(ctx, v); err != nil {
		return err
	}
	if err := t.c.Attach(ctx, v, t.node()); err != nil {
		return err
	}
	staged := make(chan error, 1)
	go func() { staged <- t.node().StageVolume(ctx, v) }()
	time.Sleep(time.Duration(t.random.Int64N(int64(600 * time.Millisecond))))
	err := killPlugin(ctx, t)
	<-staged // it failed, or was just in time
	return err
}

// untilDone calls again as the kubelet does, while the answer is that it may.
func untilDone(call func() error) error {
	for end := time.Now().Add(resumeTime); ; time.Sleep(500 * time.Millisecond) {
		err := call()
		again := []codes.Code{codes.Unavailable, codes.Aborted, codes.DeadlineExceeded, codes.DataLoss} // the last is said once
		if !slices.Contains(again, status.Code(err)) || time.Now().After(end) {
			return err
		}
	}
}

// stageAgain is what the kubelet does once the plugin is back, and then the pod
// goes.
func stageAgain(ctx context.Context, t *campaign) error {
	v := t.extra
	for _, step := range []func() error{
		func() error { return untilDone(func() error { return t.node().StageVolume(ctx, v) }) },
		func() error { return t.node().PublishVolume(ctx, v, false) },
		func() error { return t.c.Drop(ctx, v, t.node()) },
		func() error { return t.c.Delete(ctx, v) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
