package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/test/cluster"
	"github.com/holdfast-csi/holdfast/test/report"
)

// way is what else happens in a move.
type way string

const (
	alone way = "alone" // the session goes with the volume
	// beside: another volume of the session stays on the node and must see
	// nothing of it, so the session cannot be ended for the fenced one.
	beside way = "beside"
	// early: the volume is given back to the old node while the old pod is there.
	early way = "early"
	// split is beside with the agent in reach all the time and the data's way dead
	// until the old pod has ended. The loss comes while the plugin is away, so
	// that nobody keeps I/O from the disk, where it waits.
	split way = "split"
)

// move is one round.
type move struct {
	*mover
	number    int
	way       way
	cable     string // which direction is cut
	from, to  *cluster.Node
	s         *subject // with its latest writer
	old       subject  // with the writer of the fenced node
	neighbour *subject // nil but in way beside
	stuck     <-chan error
	fenced    []byte   // the volume when the fence had answered
	writers   []uint64 // that may have written since then
	began     time.Time
	injected  time.Time
	fencedAt  time.Time
	healed    time.Time
	noticed   bool // the old node's kernel knew of the cut when it was healed
}

// moveBlocks is what a writer of a move uses: reading it back is most of a round.
const moveBlocks = 256

// draw makes round i: 48 of them have every combination of way, kind, direction
// and cut. Every fifth session is slow to notice, so that the cable is healed
// before: then TCP brings what the fenced node had sent.
func (m *mover) draw(i int) *move {
	keepAlive := "2"
	if i%5 == 4 {
		keepAlive = "10"
	}
	v := &cluster.Volume{Name: fmt.Sprintf("moved-%d", i), SizeBytes: 16 << 20, Parameters: map[string]string{"guard": "dm", "keepAliveTmo": keepAlive}}
	if (i/4+i)%2 == 0 {
		v.FSType = "ext4"
	}
	from := (i/8 + i) % 2
	return &move{
		mover: m, number: i, from: m.c.Nodes[from], to: m.c.Nodes[1-from], s: &subject{Volume: v, guard: "dm", area: moveBlocks},
		way: []way{alone, split, early, beside}[i%4], cable: []string{"both", "from", "to"}[i%3],
	}
}

func (v *move) String() string {
	return fmt.Sprintf("%s %s, %s -> %s, cable cut %s", v.s.kind(), v.way, v.from.Name(), v.to.Name(), v.cable)
}

func (v *move) play(ctx context.Context) error {
	v.began = time.Now()
	slow := time.Duration(0)
	slowest := ""
	for _, step := range v.steps() {
		began := time.Now()
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if d := time.Since(began); d > slow {
			slow, slowest = d, step.name
		}
	}
	v.note(figDuration, time.Since(v.began))
	v.report.Outages = append(v.report.Outages, report.Outage{Kind: "moved-" + string(v.way), Guard: "dm", OK: true, InjectedS: v.injected.Sub(v.mover.began).Seconds(), HealedS: v.healed.Sub(v.mover.began).Seconds()})
	v.print(slow, slowest)
	return nil
}

func (v *move) print(slow time.Duration, slowest string) {
	seen := "unnoticed"
	if v.noticed {
		seen = "noticed"
	}
	figure, _ := v.untilError()
	fmt.Printf("%4d %6.1f s  %-5s %-6s %s -> %s, cut %-4s %-9s: fenced in %.1f s; %s %.1f s, pod ended %.1f s after SIGTERM, released in %.1f s, back in %.1f s; %.0f s, of these %.0f s for %s\n",
		v.number+1, time.Since(v.mover.began).Seconds(), v.s.kind(), v.way, v.from.Name(), v.to.Name(), v.cable, seen, v.last(figFence), figure, v.last(figure),
		v.last(figEnd), v.last(figRelease), v.last(figBack), v.last(figDuration), slow.Seconds(), slowest)
}

type moveStep struct {
	name string
	do   func(context.Context) error
}

// steps are those of the move's way, in their order.
func (v *move) steps() []moveStep {
	begin := []moveStep{{"use", v.use}, {"cut", v.cut}, {"fence", v.fence}, {"give", v.give}}
	heal, endOld, release := moveStep{"heal", v.heal}, moveStep{"end of the old pod", v.endOld}, moveStep{"release", v.release}
	take, back := moveStep{"take", v.take}, moveStep{"back", v.back}
	var middle []moveStep
	switch v.way {
	case split:
		middle = []moveStep{endOld, heal, release, take, back}
	case early:
		middle = []moveStep{take, heal, {"back early", v.backEarly}}
	default:
		middle = []moveStep{heal, endOld, release, take, back}
	}
	return slices.Concat(begin, middle, []moveStep{{"visit", v.visit}, {"check", v.check}, {"clean", v.clean}})
}

// write starts the volume's next writer and waits for its first acknowledgements.
func (v *move) write(ctx context.Context, n *cluster.Node, s *subject, acked int) error {
	v.writer++
	s.start(ctx, n, v.writer)
	return await(15*time.Second, fmt.Sprintf("%d writes on %s", acked, n.Name()), func() bool { return s.log.Acked() >= acked })
}

func (v *move) use(ctx context.Context) error {
	if v.way == beside || v.way == split {
		v.neighbour = &subject{guard: "dm", area: moveBlocks, Volume: &cluster.Volume{Name: fmt.Sprintf("beside-%d", v.number), SizeBytes: 8 << 20, Parameters: v.s.Parameters}}
		if err := v.c.Use(ctx, v.neighbour.Volume, v.from); err != nil {
			return err
		}
		if err := v.write(ctx, v.from, v.neighbour, 1); err != nil {
			return err
		}
	}
	if err := v.c.Use(ctx, v.s.Volume, v.from); err != nil {
		return err
	}
	return v.write(ctx, v.from, v.s, 5)
}

// stale marks what a second process of the pod writes once the node is cut off:
// none of it was ever synced, so none of it may be found anywhere later.
const stale = "stale write of a fenced node"

// cut loses the node, and leaves one writer that syncs each block, a process
// that waits in fsync, and dirty pages that nobody waits for.
func (v *move) cut(ctx context.Context) error {
	v.old, v.injected = *v.s, time.Now()
	if err := v.lose(ctx); err != nil {
		return err
	}
	dirty, synced := v.s.Target()+"/dirty", v.s.Target()+"/synced"
	if v.s.FSType == "" {
		dirty, synced = v.s.Target()+" seek=32", v.s.Target()+" seek=48" // of 256 KiB: behind the writer's area
	}
	script := fmt.Sprintf("yes '%s' | dd bs=256k count=4 iflag=fullblock conv=notrunc status=none of=", stale)
	done := make(chan error, 1)
	cmd := v.from.Command(ctx, "bash", "-c", script+synced+" conv=fsync & "+script+dirty+"; ! wait $!")
	v.stuck = done
	go func() { done <- cmd.Run() }()
	time.Sleep(time.Second) // let writes get stuck on their way
	if v.way == split {
		return v.from.StartPlugin(ctx)
	}
	return nil
}

// lose cuts the cable, or for a split what the data takes of it.
func (v *move) lose(ctx context.Context) error {
	if v.way == split {
		if err := v.from.KillPlugin(ctx); err != nil {
			return err
		}
		_, err := v.from.Shell(ctx, splitScript)
		return err
	}
	switch nic := v.from.NIC(0); v.cable {
	case "from":
		nic.DropFrom()
	case "to":
		nic.DropTo()
	default:
		nic.Drop()
	}
	return nil
}

// splitScript resets the connection, for good, at a moment when no I/O is under
// way: it would get an error from the kernel, and the table would learn of it.
const splitScript = `pids=$(for p in /proc/[0-9]*; do read -r name <$p/comm || continue; if [ $name = ackio ]; then echo ${p#/proc/}; fi; done 2>/dev/null)
kill -STOP $pids; sleep 0.5
nft 'table ip split { chain o { type filter hook output priority 0; tcp dport 4420 drop; }; chain i { type filter hook input priority 0; tcp sport 4420 drop; }; }'
ss -K dport = 4420 >/dev/null; sleep 0.3
kill -CONT $pids`

// fence takes the volume from a node that cannot be asked, as the attach-detach
// controller does when it forces.
func (v *move) fence(ctx context.Context) (err error) {
	began := time.Now()
	for {
		err := v.c.Detach(ctx, v.s.Volume, v.from)
		if err == nil {
			break
		}
		if time.Since(began) > time.Minute || ctx.Err() != nil {
			return err
		}
	}
	v.note(figFence, time.Since(began))
	v.fencedAt = time.Now()
	v.fenced, err = v.image(ctx)
	return err
}

// give is what the force was for: the volume serves on the other node.
func (v *move) give(ctx context.Context) error {
	if err := attach(ctx, v.c, v.s.Volume, v.to); err != nil {
		return err
	}
	if err := v.intact(ctx, &v.old, v.to); err != nil {
		return fmt.Errorf("what the old pod was told is on disk: %w", err)
	}
	err := v.write(ctx, v.to, v.s, 10)
	v.writers = append(v.writers, v.s.id)
	return err
}

func (v *move) heal(ctx context.Context) error {
	state, err := v.from.Shell(ctx, "cat /sys/class/nvme/nvme*/state || true")
	if err != nil {
		return err
	}
	v.noticed = state != "live"
	v.healed = time.Now()
	if v.way == split {
		_, err := v.from.Shell(ctx, "nft delete table ip split")
		return err
	}
	return v.from.NIC(0).Heal()
}

// How long the old pod may take: to an error, which comes after the loss was
// noticed, the storage host asked, and the grace; and to end once it may. If the
// cut was not noticed, TCP may wait for a retransmission until it brings the
// refusal of what was under way.
const (
	errorTime = grace + 15*time.Second
	endTime   = 10 * time.Second
)

// endOld ends the old pod as its kubelet does, once its I/O fails.
func (v *move) endOld(ctx context.Context) error {
	if err := await(errorTime, "an error for the pod of the fenced node", func() bool { return len(v.old.log.Errors()) > 0 }); err != nil {
		return err
	}
	v.note(v.untilError())
	began := time.Now()
	if err := v.old.stop(ctx, v.from); err != nil {
		return err
	}
	if err := ended(v.old.done, endTime, "the pod of the fenced node"); err != nil {
		return err
	}
	if err := ended(v.stuck, endTime, "a program in fsync on the fenced node"); err != nil {
		return err
	}
	v.note(figEnd, time.Since(began))
	return nil
}

// untilError is how long the old pod waited for its error. In a split that comes
// before healing.
func (v *move) untilError() (figure string, d time.Duration) {
	if v.way == split {
		return figDead, v.old.log.FirstError().Sub(v.fencedAt)
	}
	return figError, v.old.log.FirstError().Sub(v.healed)
}

// release takes the volume off the fenced node, as its kubelet does once its pod
// has ended.
func (v *move) release(ctx context.Context) error {
	began := time.Now()
	for end := began.Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		call, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := v.from.UnpublishVolume(call, v.s.Volume)
		if err == nil {
			err = v.from.UnstageVolume(call, v.s.Volume)
		}
		cancel()
		// That what was never synced is lost on a fenced node is no surprise.
		if err == nil || status.Code(errors.Unwrap(err)) == codes.DataLoss {
			break
		}
		if time.Now().After(end) {
			return fmt.Errorf("the fenced node does not let go: %w", err)
		}
	}
	v.note(figRelease, time.Since(began))
	if v.neighbour != nil {
		return nil // it goes on in the session
	}
	return v.empty(ctx)
}

// empty waits until the old node has nothing more. A session is left beside the
// unstage of its last volume.
func (v *move) empty(ctx context.Context) error {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		held, err := v.from.Holds(ctx)
		if err == nil && len(held) == 0 {
			return nil
		}
		if err != nil || time.Now().After(end) {
			return fmt.Errorf("the fenced node still has: %v %w", held, err)
		}
	}
}

// take ends the pod of the new node, as a pod ends, and frees the volume.
func (v *move) take(ctx context.Context) error {
	if err := v.s.stop(ctx, v.to); err != nil {
		return err
	}
	if err := ended(v.s.done, endTime, "the writer on the new node"); err != nil {
		return err
	}
	return v.c.Drop(ctx, v.s.Volume, v.to)
}

// back gives the volume to the node that it was taken from.
func (v *move) back(ctx context.Context) error {
	began := time.Now()
	err := attach(ctx, v.c, v.s.Volume, v.from)
	v.note(figBack, time.Since(began))
	return err
}

// backEarly gives it back while the old pod still has it: the kubelet, to which
// it is staged, calls publish alone, and again until it succeeds.
func (v *move) backEarly(ctx context.Context) error {
	if err := v.c.Attach(ctx, v.s.Volume, v.from); err != nil {
		return err
	}
	staged := make(chan error, 1)
	began := time.Now()
	go func() {
		for end := time.Now().Add(errorTime + 20*time.Second); ; time.Sleep(200 * time.Millisecond) {
			call, cancel := context.WithTimeout(ctx, 10*time.Second)
			err := v.from.PublishVolume(call, v.s.Volume, false)
			cancel()
			if err == nil || time.Now().After(end) {
				staged <- err
				return
			}
		}
	}()
	if err := v.endOld(ctx); err != nil {
		return err
	}
	ended := time.Now()
	v.note(figRelease, 0)
	err := <-staged
	v.note(figBack, time.Since(ended))
	if err != nil {
		return fmt.Errorf("not published anew within %s: %w", time.Since(began), err)
	}
	return nil
}
