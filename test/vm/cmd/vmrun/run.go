//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/holdfast-csi/holdfast/test/vm"
)

// suite is the compiled tests of one package, and where they go in the machine.
type suite struct {
	name   string // import path, for reports
	binary string
	dir    string // the package's directory, for testdata
	guest  string // working directory in the machine
}

// files lists what the machine must be given.
func (s suite) files() ([]vm.File, error) {
	files := []vm.File{{Host: s.binary, Guest: path.Join(s.guest, "package.test"), Mode: 0o755}}
	root := filepath.Join(s.dir, "testdata")
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && file == root {
			return fs.SkipAll
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(s.dir, file)
		if err != nil {
			return err
		}
		files = append(files, vm.File{Host: file, Guest: path.Join(s.guest, filepath.ToSlash(rel)), Mode: info.Mode().Perm()})
		return nil
	})
	return files, err
}

// run runs the tests in the machine and returns their exit code.
func (s suite) run(ctx context.Context, m *vm.Machine, series string, flags []string, stdout, stderr io.Writer) (int, error) {
	flags, fetch := translate(flags)
	cmd := m.Command(ctx, append([]string{path.Join(s.guest, "package.test")}, flags...)...)
	cmd.Dir = s.guest
	cmd.Env = []string{"HOLDFAST_VM=1", "HOLDFAST_KERNEL=" + series}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err := cmd.Run()
	code := 0
	if exit, ok := errors.AsType[*vm.ExitError](err); ok {
		code, err = exit.Exit, nil
	}
	if err != nil {
		return 1, err
	}
	for guest, host := range fetch {
		content, err := m.Get(ctx, guest)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the tests failed before they wrote it
		}
		if err != nil {
			return code, err
		}
		if err := os.WriteFile(host, content, 0o644); err != nil {
			return code, err
		}
	}
	return code, nil
}

// translate moves the files that a test program writes into the machine, and tells which of them to fetch afterwards. The
// test log is left out: it tells go test which files a cached result depends on, and results from here depend on more.
func translate(flags []string) (translated []string, fetch map[string]string) {
	fetch = make(map[string]string)
	for _, flag := range flags {
		name, value, _ := strings.Cut(strings.TrimLeft(flag, "-"), "=")
		switch name {
		case "test.testlogfile":
			continue
		case "test.coverprofile", "test.cpuprofile", "test.memprofile", "test.blockprofile", "test.mutexprofile", "test.trace":
			guest := "/tmp/" + strings.TrimPrefix(name, "test.")
			fetch[guest] = value
			flag = "-" + name + "=" + guest
		case "test.outputdir", "test.gocoverdir":
			flag = "-" + name + "=/tmp"
		}
		translated = append(translated, flag)
	}
	return translated, fetch
}

// runBinary is the form that go test -exec uses: the current directory is the package's.
func runBinary(ctx context.Context, o options, args []string) (int, error) {
	if strings.Contains(o.kernels, ",") {
		return 2, fmt.Errorf("-kernel %s: only -packages takes several", o.kernels)
	}
	dir, err := os.Getwd()
	if err != nil {
		return 2, err
	}
	s := suite{name: args[0], binary: args[0], dir: dir, guest: "/test"}
	lab, m, err := boot(ctx, o, o.kernels, []suite{s})
	if err != nil {
		return 2, err
	}
	code, err := s.run(ctx, m, o.kernels, args[1:], os.Stdout, os.Stderr)
	return code, errors.Join(err, lab.Close())
}

// boot makes a lab of one machine that has the suites' files.
func boot(ctx context.Context, o options, series string, suites []suite) (*vm.Lab, *vm.Machine, error) {
	cfg := o.machine()
	for _, s := range suites {
		files, err := s.files()
		if err != nil {
			return nil, nil, err
		}
		cfg.Files = append(cfg.Files, files...)
	}
	lab, err := vm.NewLab(ctx, o.lab(series))
	if err != nil {
		return nil, nil, err
	}
	m, err := lab.Add(cfg)
	if err == nil {
		err = m.Boot(ctx)
	}
	if err != nil {
		return nil, nil, errors.Join(err, lab.Close())
	}
	return lab, m, nil
}
