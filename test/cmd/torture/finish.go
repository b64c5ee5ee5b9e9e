package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// end stops the writers, takes the volumes away, reads everything back, deletes,
// and looks for what is left.
func (t *campaign) end(ctx context.Context) error {
	for _, s := range t.subjects {
		if err := s.finish(ctx, t.node()); err != nil {
			return fmt.Errorf("writer of %s: %w", s.Name, err)
		}
	}
	for _, s := range t.subjects {
		if err := t.drop(ctx, s); err != nil {
			return err
		}
	}
	for _, s := range t.subjects {
		res, err := s.verify(ctx, t.c)
		if err != nil {
			return err
		}
		fmt.Printf("  %-7s %6d writes acknowledged, %d blocks read back: %d lost, %d wrong, %d errors %v\n", s.Name, s.log.Acked(), res.Blocks, res.Lost, res.Corrupt, len(s.log.Errors()), res.Details)
		t.report.AckedWrites += s.log.Acked()
		t.report.LostWrites += res.Lost
		t.report.CorruptReads += res.Corrupt
		t.report.IOErrors += len(s.log.Errors())
		if !s.static() {
			if err := t.c.Delete(ctx, s.Volume); err != nil {
				return err
			}
		}
	}
	if err := t.clean(ctx); err != nil {
		return err
	}
	t.report.Judge()
	return nil
}

func (t *campaign) drop(ctx context.Context, s *subject) error {
	if !s.static() {
		return t.c.Drop(ctx, s.Volume, t.node())
	}
	if err := t.node().UnpublishVolume(ctx, s.Volume); err != nil {
		return err
	}
	return t.node().UnstageVolume(ctx, s.Volume)
}

// clean takes the static target away and finds nothing left.
func (t *campaign) clean(ctx context.Context) error {
	if _, err := t.storage().Shell(ctx, fmt.Sprintf(`cd /sys/kernel/config/nvmet; for p in %d %d; do rm ports/$p/subsystems/*; rmdir ports/$p; done; rmdir subsystems/%s/namespaces/1 subsystems/%[3]s`, staticPorts[0], staticPorts[1], staticNQN)); err != nil {
		return err
	}
	left, err := t.c.Leaks(ctx)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("left behind: %v", left)
	}
	return nil
}

func (t *campaign) print(path string) {
	fmt.Printf("\n  %-28s %6s %8s %8s %8s %8s %6s\n", "I/O went on after healing", "n", "median", "99 %", "worst", "bound", "late")
	for _, kind := range slices.Sorted(maps.Keys(t.resumes)) {
		r := t.resumes[kind]
		d := slices.Sorted(slices.Values(r.took))
		fmt.Printf("  %-28s %6d %6.2f s %6.2f s %6.2f s %6.2f s %6d\n", kind, len(d), at(d, 0.5), at(d, 0.99), at(d, 1), r.bound.Seconds(), r.late)
	}
	fmt.Printf("\n  Linux %s: %d faults on %d volumes in %s, %d writes acknowledged, %d lost, %d wrong, %d I/O errors, %d manual steps, nothing left behind\n"+
		"  %d times a volume under guard kernel was lost with its device and said so, %d times it lost it for a moment;\n  staged again, %d writes whose fsync had returned were missing, which guard kernel cannot promise\n  %s\n",
		t.report.Kernel, t.injected, t.report.Volumes, time.Since(t.began).Round(time.Second), t.report.AckedWrites, t.report.LostWrites, t.report.CorruptReads, t.report.IOErrors, t.report.ManualSteps, t.restaged, t.erred, t.unkept, path)
}

// resumes are those of one kind of fault, and how many were later than the bound of
// their round; bound is the largest.
type resumes struct {
	took  []time.Duration
	bound time.Duration
	late  int
}

func (r *resumes) add(took, bound time.Duration) (late bool) {
	r.took, r.bound = append(r.took, took), max(r.bound, bound)
	if took > bound {
		r.late++
	}
	return took > bound
}

// silences are the kinds under which nothing answers, or not everything does.
var silences = []string{"silent", "one-way-to", "one-way-from", "grown-while-away", "loss", "delay"}

const (
	// cycle is how long after healing a kernel at a reconnect delay of one second
	// may take where nothing answered: it sends a SYN at 0 and 1 s of four.
	cycle = 3 * time.Second
	// noticed is when it has found out that nothing answers (a keep-alive of 5 s, sent
	// each half of it, whose timer is rounded up to a second: blk-timeout.c,
	// blk_add_timer), and has waited for its first attempt.
	noticed = 9500 * time.Millisecond
	// noticedTwice is the same where the keep-alive is in the way of the recovery that
	// it has begun, which then waits until it is timed out once more (Linux 6.1.172:
	// "timeout request" twice, 6.15 s apart).
	noticedTwice = noticed + 6150*time.Millisecond
	// emulated is what emulated processors may add.
	emulated = 500 * time.Millisecond
)

// bound is how long after healing the kernel alone may take at a reconnect delay of
// one second. A target that accepts and is silent is given up after ten. A silence
// that ends before it was noticed is noticed afterwards all the same. Where the
// kernel alone would never come back, or the plugin or the storage host has to
// start first, it is that second too. Healed is when everything was, from the
// beginning of the round: a machine that was switched off also has to boot.
func (p plan) bound(kernel string, healed time.Duration) time.Duration {
	found := noticed
	if kernel == "6.1" {
		found = noticedTwice
	}
	switch {
	case slices.Contains(silences, p.kind):
		return max(cycle, found-(p.until-p.at)) + emulated
	case p.kind == "power":
		return max(time.Second, found-(healed-p.at)) + emulated
	case p.kind == "hung":
		return 11*time.Second + emulated
	default:
		return time.Second + emulated
	}
}

// at is the value at a quantile of sorted durations, in seconds.
func at(d []time.Duration, q float64) float64 {
	i := int(q*float64(len(d))+0.5) - 1
	return d[min(max(i, 0), len(d)-1)].Seconds()
}
