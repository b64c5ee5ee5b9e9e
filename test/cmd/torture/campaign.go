package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/test/cluster"
	"github.com/holdfast-csi/holdfast/test/report"
)

// campaign is one run.
type campaign struct {
	options
	c        *cluster.Cluster
	kinds    []fault
	random   *rand.Rand
	began    time.Time
	subjects []*subject
	report   report.Report
	resumes  map[string]*resumes // by kind; overlapping ones under "overlap"
	injected int
	drawn    int      // portal of this round
	victim   *subject // of this round, where a fault hits one volume alone
	extra    *cluster.Volume
	writers  uint64
	restaged int // volumes under guard kernel that were lost, as announced
	erred    int // those whose device was gone for a moment only
	unkept   int // their writes whose fsync had returned, and that were missing then
	// staticBytes is how large the static namespace is by now.
	staticBytes int64
}

func newCampaign(c *cluster.Cluster, o options, kinds []fault) *campaign {
	return &campaign{options: o, c: c, kinds: kinds, random: rand.New(rand.NewPCG(o.seed, 1)), began: time.Now(), resumes: map[string]*resumes{}}
}

func (t *campaign) node() *cluster.Node       { return t.c.Nodes[0] }
func (t *campaign) storage() *cluster.Storage { return t.c.Storages[0] }

func (t *campaign) play(ctx context.Context) error {
	t.report.Kernel, t.report.Accel = t.c.Lab.KernelVersion(), t.c.Lab.Accel()
	if err := t.provision(ctx); err != nil {
		return err
	}
	for t.injected < t.faults {
		if err := t.round(ctx, t.draw()); err != nil {
			return err
		}
	}
	return t.end(ctx)
}

// The static target with two portals, on ports of its own.
const (
	staticNQN   = "nqn.2020-01.com.example:torture"
	staticUUID  = "11111111-2222-4333-8444-000000000001"
	staticImage = "/data/static.img"
)

var staticPorts = []int{4430, 4431}

func (t *campaign) provision(ctx context.Context) error {
	t.staticBytes = 16 << 20
	if _, err := t.storage().Shell(ctx, fmt.Sprintf("truncate -s %d %s", t.staticBytes, staticImage)); err != nil {
		return err
	}
	if err := t.staticTarget(ctx); err != nil {
		return err
	}
	for _, v := range []*cluster.Volume{
		{Name: "ext4", FSType: "ext4", SizeBytes: 32 << 20, Parameters: map[string]string{"guard": "dm"}},
		{Name: "xfs", FSType: "xfs", SizeBytes: 320 << 20, Parameters: map[string]string{"guard": "dm"}},
		{Name: "block", SizeBytes: 16 << 20, Parameters: map[string]string{"guard": "dm"}},
		{Name: "ext4-kernel", FSType: "ext4", SizeBytes: 32 << 20, Parameters: map[string]string{"guard": "kernel"}},
		{Name: "block-kernel", SizeBytes: 16 << 20, Parameters: map[string]string{"guard": "kernel"}},
	} {
		if err := t.c.Use(ctx, v, t.node()); err != nil {
			return err
		}
		s := &subject{Volume: v, guard: v.Parameters["guard"]}
		if s.guard == "kernel" {
			s.area = mortalBlocks
		}
		t.subjects = append(t.subjects, s)
	}
	static := &cluster.Volume{Name: "static", ID: "static-volume", SizeBytes: 16 << 20, Context: map[string]string{
		"nqn": staticNQN, "uuid": staticUUID, "guard": "dm", "addresses": fmt.Sprintf("%s:%d,%[1]s:%d", t.storage().Addr(), staticPorts[0], staticPorts[1]),
	}}
	if err := t.node().StageVolume(ctx, static); err != nil {
		return err
	}
	if err := t.node().PublishVolume(ctx, static, false); err != nil {
		return err
	}
	t.subjects = append(t.subjects, &subject{Volume: static, guard: "dm"})
	for _, s := range t.subjects {
		t.writers++
		s.start(ctx, t.node(), t.writers)
	}
	t.report.Volumes = len(t.subjects)
	t.victim = t.subjects[0]
	if err := t.notePort(ctx); err != nil {
		return err
	}
	return t.resumed(ctx, time.Now(), nil)
}

// staticTarget makes the target that nobody of ours manages, complete before it
// is linked.
func (t *campaign) staticTarget(ctx context.Context) error {
	script := fmt.Sprintf(`cd /sys/kernel/config/nvmet; S=subsystems/%s; mkdir $S; echo 1 >$S/attr_allow_any_host
mkdir $S/namespaces/1; cd $S/namespaces/1; echo %s >device_path; echo %s >device_uuid; echo 1 >enable; cd /sys/kernel/config/nvmet
for p in %d %d; do mkdir ports/$p; (cd ports/$p; echo tcp >addr_trtype; echo ipv4 >addr_adrfam; echo %s >addr_traddr; echo $p >addr_trsvcid); ln -s $PWD/$S ports/$p/subsystems/; done`,
		staticNQN, staticImage, staticUUID, staticPorts[0], staticPorts[1], t.storage().Addr())
	_, err := t.storage().Shell(ctx, script)
	return err
}

// portal is the one of the two that the round draws.
func (t *campaign) portal() int { return staticPorts[t.drawn] }

// static is the volume of the target that nobody of ours manages.
func (t *campaign) static() *subject { return t.subjects[len(t.subjects)-1] }

// draw picks one fault, or two that have nothing to do with each other, and whom
// they hit.
func (t *campaign) draw() []fault {
	t.drawn = t.random.IntN(len(staticPorts))
	t.victim = t.subjects[t.random.IntN(len(t.subjects)-1)]
	first := t.kinds[t.random.IntN(len(t.kinds))]
	if t.faults-t.injected < 2 || t.random.IntN(10) < 6 {
		return []fault{first}
	}
	for range 20 {
		second := t.kinds[t.random.IntN(len(t.kinds))]
		if second.scope&first.scope == 0 {
			return []fault{first, second}
		}
	}
	return []fault{first}
}

// round lets faults happen, overlapping if there are two, and waits until every
// volume serves again.
func (t *campaign) round(ctx context.Context, faults []fault) error {
	var kinds []string
	for _, f := range faults {
		kinds = append(kinds, f.kind)
	}
	kind := strings.Join(kinds, "+")
	injected, plans := time.Now(), t.plan(faults)
	if err := t.happen(ctx, plans); err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	healed := time.Now()
	t.injected += len(faults)
	if err := t.resumed(ctx, healed, faults); err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	for _, f := range faults {
		if f.after != nil {
			if err := f.after(ctx, t); err != nil {
				return fmt.Errorf("after %s: %w", f.kind, err)
			}
		}
	}
	t.note(ctx, kind, plans, injected, healed)
	time.Sleep(time.Duration(200+t.random.IntN(600)) * time.Millisecond)
	return t.unhurt(nil)
}

// note reports a round that every volume survived as it had to.
func (t *campaign) note(ctx context.Context, kind string, plans []plan, injected, healed time.Time) {
	var faults []fault
	var bound time.Duration
	for _, p := range plans {
		faults, bound = append(faults, p.fault), max(bound, p.bound(t.kernel, healed.Sub(injected)))
	}
	o, last := t.measure(kind, faults, injected, healed)
	t.report.Outages = append(t.report.Outages, o)
	name := kind
	if len(faults) > 1 {
		name = "overlap"
	}
	if t.resumes[name] == nil {
		t.resumes[name] = &resumes{}
	}
	late := ""
	if t.resumes[name].add(time.Duration(o.ResumedAfterHealS*float64(time.Second)), bound) {
		late = fmt.Sprintf(", late (the bound is %.1f s): %s", bound.Seconds(), last)
	}
	fmt.Printf("%4d/%d %6.1f s  %-32s lasted %5.1f s, I/O waited %5.1f s, back %4.2f s after healing%s\n",
		t.injected, t.faults, time.Since(t.began).Seconds(), kind, o.HealedS-o.InjectedS, o.WaitedS, o.ResumedAfterHealS, late)
	if late != "" {
		fmt.Println(since(t.node().PluginLog(ctx), injected))
	}
}

// plan is a fault and when it happens, from the beginning of its round.
type plan struct {
	fault
	at, until time.Duration
}

// plan lets the second of two begin and end at its own time.
func (t *campaign) plan(faults []fault) (plans []plan) {
	for _, f := range faults {
		at := time.Duration(0)
		if len(plans) > 0 {
			at = time.Duration(t.random.Int64N(int64(3 * time.Second)))
		}
		plans = append(plans, plan{f, at, at + f.lasts(t.random)})
	}
	return plans
}

// happen injects and heals.
func (t *campaign) happen(ctx context.Context, plans []plan) error {
	done := make(chan error, len(plans))
	for _, p := range plans {
		go func() {
			time.Sleep(p.at)
			if err := p.inject(ctx, t); err != nil {
				done <- fmt.Errorf("inject %s: %w", p.kind, err)
				return
			}
			time.Sleep(p.until - p.at)
			if err := p.heal(ctx, t); err != nil {
				done <- fmt.Errorf("heal %s: %w", p.kind, err)
				return
			}
			done <- nil
		}()
	}
	for range plans {
		if err := <-done; err != nil {
			return err
		}
	}
	return nil
}

// resumeTime is when a volume that does not come back is called lost: a connect
// that was cut in its middle keeps the kernel, and every other connect of the node,
// for the 60 s of its admin timeout. Such a round is late, and is printed as that.
const resumeTime = 75 * time.Second

// resumed waits until every volume has a write acknowledged after t and is well.
// Those that the faults may cost their device are let be until the others are.
func (t *campaign) resumed(ctx context.Context, since time.Time, faults []fault) error {
	var mortal []*subject
	for _, s := range t.subjects {
		if t.mayLose(s, faults) {
			mortal = append(mortal, s)
			continue
		}
		if err := t.serves(ctx, s, since, faults); err != nil {
			return err
		}
	}
	for _, s := range t.subjects {
		if t.mayLose(s, faults) {
			continue
		}
		if err := t.well(ctx, s); err != nil {
			return err
		}
	}
	for _, s := range mortal {
		if err := t.settled(ctx, s, since); err != nil {
			return err
		}
	}
	return nil
}

func (t *campaign) serves(ctx context.Context, s *subject, since time.Time, faults []fault) error {
	for end := time.Now().Add(resumeTime); ; time.Sleep(10 * time.Millisecond) {
		if _, ok := s.log.FirstAfter(since); ok {
			return nil
		}
		if err := errors.Join(t.unhurt(faults), s.writing()); err != nil {
			return err
		}
		if time.Now().After(end) {
			h, err := s.health(ctx, t.node())
			return fmt.Errorf("volume %s does not go on within %s; its health: %q %v", s.Name, resumeTime, h, err)
		}
	}
}

func (t *campaign) well(ctx context.Context, s *subject) error {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		h, err := s.health(ctx, t.node())
		if err == nil && h == "" {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("volume %s serves, and its health is still %q %v", s.Name, h, err)
		}
	}
}

// unhurt fails if a writer has seen an error that the faults do not excuse.
func (t *campaign) unhurt(faults []fault) error {
	for _, s := range t.subjects {
		if e := s.log.Errors(); len(e) > 0 && !t.mayLose(s, faults) {
			return fmt.Errorf("the writer of %s saw %d errors: %v", s.Name, len(e), e[:min(3, len(e))])
		}
	}
	return nil
}

// measure counts the volumes that had to live, and names the one that was back last.
func (t *campaign) measure(kind string, faults []fault, injected, healed time.Time) (o report.Outage, last string) {
	o = report.Outage{Kind: kind, Guard: "dm", OK: true, InjectedS: injected.Sub(t.began).Seconds(), HealedS: healed.Sub(t.began).Seconds()}
	for i, s := range t.subjects {
		if t.mayLose(s, faults) {
			continue
		}
		first, _ := s.log.FirstAfter(healed)
		if s := first.Sub(healed).Seconds(); s > o.ResumedAfterHealS {
			o.ResumedAfterHealS, last = s, t.subjects[i].Name
		}
		o.WaitedS = max(o.WaitedS, s.log.Stall(injected, first).Seconds())
	}
	return o, last
}

// powerOn boots the storage host and waits until its port takes connections.
func (t *campaign) powerOn(ctx context.Context) error {
	if err := t.storage().PowerOn(ctx); err != nil {
		return err
	}
	if err := t.staticTarget(ctx); err != nil {
		return err
	}
	address := net.JoinHostPort(t.storage().Addr().String(), fmt.Sprint(nvmePort))
	for {
		try, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		c, err := t.storage().Dial(try, "tcp", address)
		cancel()
		if err == nil {
			return errors.Join(c.Close(), t.notePort(ctx))
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the storage host does not listen: %w", err)
		}
	}
}

// notePort writes down which port of the target the managed volumes are on.
func (t *campaign) notePort(ctx context.Context) error {
	_, err := t.storage().Shell(ctx, fmt.Sprintf("cd /sys/kernel/config/nvmet/ports; for p in *; do if [ -e $p/subsystems/%s ]; then echo $p >/run/port; fi; done; test -s /run/port", t.subjects[0].Publish["nqn"]))
	return err
}
