// Command torture keeps writers busy on volumes of every kind while faults from a
// catalogue happen at random moments, one after another and overlapping. A seed
// repeats a campaign. It ends with what was acknowledged being read back, and a
// report.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// campaignTime is far more than any campaign takes.
const campaignTime = 24 * time.Hour

type options struct {
	faults int
	seed   uint64
	kernel string
	only   string
	noNMP  bool
	moves  int
}

func main() { os.Exit(exitStatus()) }

func exitStatus() int {
	var o options
	flag.IntVar(&o.faults, "faults", 25, "how many faults")
	flag.Uint64Var(&o.seed, "seed", 0, "repeats a campaign; 0 chooses one")
	flag.StringVar(&o.kernel, "kernel", "6.12", "kernel series of the machines")
	flag.StringVar(&o.only, "only", "", "kinds of faults, separated by commas; all if empty")
	flag.BoolVar(&o.noNMP, "no-multipath", false, "turn native NVMe multipath off on the node")
	flag.IntVar(&o.moves, "moves", 0, "move a volume away from a node that is cut off, so many times, instead of the faults")
	flag.Parse()
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano()) % 1_000_000
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// Without one, each command in a machine has a short deadline of its own.
	ctx, cancel := context.WithTimeout(ctx, campaignTime)
	defer cancel()
	play := run
	if o.moves > 0 {
		play = runMoves
	}
	if err := play(ctx, o); err != nil {
		fmt.Fprintf(os.Stderr, "torture: %v\nrepeat it with -seed %d -faults %d -kernel %s\n", err, o.seed, o.faults, o.kernel)
		return 1
	}
	return 0
}

func run(ctx context.Context, o options) (err error) {
	kinds, err := choose(o.only)
	if err != nil {
		return err
	}
	var args []string
	suffix := ""
	if o.noNMP {
		suffix = "-no-multipath"
		args = append(args, "nvme_core.multipath=N")
	}
	fmt.Printf("torture: %d faults, seed %d, Linux %s, native multipath %v\n", o.faults, o.seed, o.kernel, !o.noNMP)
	c, err := cluster.Start(ctx, cluster.Config{Name: "torture", Kernel: o.kernel, Volatile: true, NodeArgs: args, Log: func(f string, a ...any) { fmt.Printf("  "+f+"\n", a...) }})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	t := newCampaign(c, o, kinds)
	if err := t.play(ctx); err != nil {
		return fmt.Errorf("%w\n%s", err, autopsy(c))
	}
	path := filepath.Join(cluster.Root(), "build", "torture", fmt.Sprintf("report-%s-%d%s.json", o.kernel, o.seed, suffix))
	if err := t.report.Write(path); err != nil {
		return err
	}
	t.print(path)
	if !t.report.Passed {
		return fmt.Errorf("the promise was not kept, see %s", path)
	}
	return nil
}

// since keeps the lines of a log, which begin with their time, from t on.
func since(log string, t time.Time) string {
	var kept []string
	for line := range strings.Lines(log) {
		at, _, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
		if when, err := time.Parse(time.RFC3339, at); err == nil && when.After(t) {
			kept = append(kept, "           "+strings.TrimRight(line, "\n"))
		}
	}
	return strings.Join(kept, "\n")
}

// tail keeps the end of a log.
func tail(text string) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-80):], "\n")
}
