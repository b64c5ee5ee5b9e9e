//go:build linux

// Command vmrun runs Go tests in a virtual machine with a distribution's kernel.
//
//	go test -tags kernel -exec "vmrun -kernel 6.1" ./some/package
//	vmrun -kernel 6.12,6.1 -packages "./some/package ./other/..." -- -test.v
//
// The first form is called by go test, once per package, and boots each time. The second compiles the tests of all
// packages first, boots once per kernel, and runs the kernels at the same time. A test runs as root, in a directory with its package's testdata, and finds
// HOLDFAST_VM=1 and the kernel's series in HOLDFAST_KERNEL. It does not see the source tree.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-csi/holdfast/test/vm"
)

type options struct {
	kernels  string
	packages string
	tags     string
	tools    string
	cpus     int
	mem      int
	disk     int
	fs       string
	volatile bool
	lanless  bool
	quiet    bool
	timeout  time.Duration
}

func parse(args []string) (options, []string, error) {
	var o options
	fs := flag.NewFlagSet("vmrun", flag.ContinueOnError)
	fs.StringVar(&o.kernels, "kernel", "6.12", "series of the kernel; with -packages several, separated by commas")
	fs.StringVar(&o.packages, "packages", "", "packages whose tests to compile and run, separated by spaces")
	fs.StringVar(&o.tags, "tags", "kernel", "build tags for -packages")
	fs.StringVar(&o.tools, "tools", "", "further programs for the machine, separated by commas, e.g. fio")
	fs.IntVar(&o.cpus, "cpus", 0, "processors (default 2)")
	fs.IntVar(&o.mem, "mem", 0, "memory in MiB (default 1024)")
	fs.IntVar(&o.disk, "disk", 0, "size of the data disk in GiB (default none)")
	fs.StringVar(&o.fs, "fs", "", "file system of the data disk: xfs (default), ext4, btrfs, or none")
	fs.BoolVar(&o.volatile, "volatile", false, "the data disk loses at a power cut what was not flushed")
	fs.BoolVar(&o.lanless, "lanless", false, "no network card but that of the control channel")
	fs.BoolVar(&o.quiet, "quiet", false, "do not report the boot")
	fs.DurationVar(&o.timeout, "timeout", 10*time.Minute, "limit for the tests of one package")
	if err := fs.Parse(args); err != nil {
		return o, nil, err
	}
	if o.packages == "" && fs.NArg() == 0 {
		return o, nil, fmt.Errorf("neither -packages nor a test program given; go test calls this with -exec")
	}
	return o, fs.Args(), nil
}

func (o options) machine() vm.MachineConfig {
	cfg := vm.MachineConfig{
		Name: "test", CPUs: o.cpus, MemoryMiB: o.mem, DiskGiB: o.disk, DiskFS: o.fs, VolatileDisk: o.volatile,
	}
	if o.fs == "none" {
		cfg.DiskFS, cfg.RawDisk = "", true
	}
	if o.lanless {
		cfg.LANs = []vm.LANAddress{}
	}
	return cfg
}

func (o options) lab(series string) vm.LabConfig {
	cfg := vm.LabConfig{Name: "vmrun-" + strings.ReplaceAll(series, ".", "-"), Kernel: series}
	if o.tools != "" {
		cfg.Tools = strings.Split(o.tools, ",")
	}
	if !o.quiet {
		cfg.Log = func(format string, args ...any) { fmt.Fprintf(os.Stderr, "vmrun: "+format+"\n", args...) }
	}
	return cfg
}

func main() {
	o, args, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmrun:", err)
		os.Exit(2)
	}
	// SIGQUIT is what go test sends at its timeout.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	var code int
	if o.packages != "" {
		code, err = runPackages(ctx, o, args)
	} else {
		code, err = runBinary(ctx, o, args)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vmrun:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}
