//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/test/vm"
)

// runPackages compiles, then boots each kernel once and runs all suites there.
func runPackages(ctx context.Context, o options, flags []string) (int, error) {
	scratch, err := scratchDir(ctx)
	if err != nil {
		return 2, err
	}
	defer os.RemoveAll(scratch) // scratch
	suites, err := compile(ctx, o, scratch)
	if err != nil {
		return 2, err
	}
	if len(suites) == 0 {
		return 1, fmt.Errorf("no package of %s has tests with tags %s", o.packages, o.tags)
	}
	ok, err := runKernels(ctx, o, strings.Split(o.kernels, ","), suites, flags)
	if err != nil {
		return 1, err
	}
	if !ok {
		fmt.Println("FAIL")
		return 1, nil
	}
	return 0, nil
}

// runKernels runs all kernels at once: the tests wait more than they compute. Each line of output says its kernel.
func runKernels(ctx context.Context, o options, kernels []string, suites []suite, flags []string) (bool, error) {
	errs := make([]error, len(kernels))
	good := make([]bool, len(kernels))
	var running sync.WaitGroup
	for i, series := range kernels {
		running.Go(func() {
			var err error
			if good[i], err = runSeries(ctx, o, series, suites, flags); err != nil {
				errs[i] = fmt.Errorf("kernel %s: %w", series, err)
			}
		})
	}
	running.Wait()
	return !slices.Contains(good, false), errors.Join(errs...)
}

// scratchDir is below the module, where a run that was killed leaves nothing that git or other users see.
func scratchDir(ctx context.Context) (string, error) {
	mod, err := goTool(ctx, "env", "GOMOD")
	if err != nil {
		return "", err
	}
	build := filepath.Join(filepath.Dir(strings.TrimSpace(mod)), "build")
	if err := os.MkdirAll(build, 0o755); err != nil {
		return "", err
	}
	return os.MkdirTemp(build, "vmrun-*")
}

// compile builds the test program of every package that has tests, and reports those without as go test does.
func compile(ctx context.Context, o options, scratch string) ([]suite, error) {
	const format = "{{.ImportPath}}\t{{.Dir}}\t{{len .TestGoFiles}}\t{{len .XTestGoFiles}}"
	args := append([]string{"list", "-tags", o.tags, "-f", format}, strings.Fields(o.packages)...)
	out, err := goTool(ctx, args...)
	if err != nil {
		return nil, err
	}
	var suites []suite
	for line := range strings.Lines(out) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		if len(fields) != 4 {
			return nil, fmt.Errorf("go list printed %q", line)
		}
		if fields[2] == "0" && fields[3] == "0" {
			fmt.Printf("?   \t%s\t[no test files]\n", fields[0])
			continue
		}
		guest := fmt.Sprintf("/test/%d", len(suites))
		s := suite{name: fields[0], dir: fields[1], guest: guest, binary: filepath.Join(scratch, filepath.Base(guest)+".test")}
		// Without cgo, as the product is built.
		if _, err := goTool(ctx, "test", "-c", "-tags", o.tags, "-o", s.binary, s.name); err != nil {
			return nil, err
		}
		suites = append(suites, s)
	}
	return suites, nil
}

func goTool(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out), nil
}

// runSeries runs all suites on one kernel. A machine that a suite has brought down is booted again for the next one.
func runSeries(ctx context.Context, o options, series string, suites []suite, flags []string) (bool, error) {
	lab, m, err := boot(ctx, o, series, suites)
	if err != nil {
		return false, err
	}
	fmt.Printf("# Linux %s\n", lab.KernelVersion())
	allOK := true
	for _, s := range suites {
		if !m.Running() {
			if err := m.Boot(ctx); err != nil {
				return false, errors.Join(err, lab.Close())
			}
		}
		if !report(ctx, o, m, series, s, flags) {
			allOK = false
		}
		if ctx.Err() != nil {
			return false, errors.Join(context.Cause(ctx), lab.Close())
		}
	}
	return allOK, lab.Close()
}

// report runs one suite and prints what go test would: the output of a suite that passes only with -test.v.
func report(ctx context.Context, o options, m *vm.Machine, series string, s suite, flags []string) bool {
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("tests took longer than %s", o.timeout))
	defer cancel()
	var buffered bytes.Buffer
	var out io.Writer = &buffered
	if slices.ContainsFunc(flags, func(f string) bool { return strings.Contains(f, "test.v") || strings.Contains(f, "test.bench=") }) {
		out = os.Stdout
	}
	start := time.Now()
	code, err := s.run(ctx, m, series, flags, out, out)
	seconds := time.Since(start).Seconds()
	if code == 0 && err == nil {
		fmt.Printf("ok  \t%s\t%.3fs\tLinux %s\n", s.name, seconds, series)
		return true
	}
	_, _ = buffered.WriteTo(os.Stdout) // nothing to do about a closed standard output
	if err != nil {
		fmt.Printf("%s\n%s\n", err, m.Console())
	}
	fmt.Printf("FAIL\t%s\t%.3fs\tLinux %s\n", s.name, seconds, series)
	return false
}
