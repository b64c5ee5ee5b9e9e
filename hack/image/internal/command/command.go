// Package command runs the programs of the building machine, and those of a root file system that was built.
//
// It takes no shell text, and tries nothing twice.
package command

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Runner runs a program in a directory ("" is the current one) and returns its standard output. It is the seam for
// tests.
type Runner func(ctx context.Context, dir string, argv ...string) ([]byte, error)

// waitDelay is how long children of a program that was killed may hold its output.
const waitDelay = 5 * time.Second

// Run is the real Runner. Programs speak English.
func Run(ctx context.Context, dir string, argv ...string) ([]byte, error) {
	return RunWith("LC_ALL=C")(ctx, dir, argv...)
}

// RunWith returns a Runner that sets variables, each NAME=VALUE, beside those that there are.
func RunWith(env ...string) Runner {
	return func(ctx context.Context, dir string, argv ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), env...)
		return output(cmd)
	}
}

func output(cmd *exec.Cmd) ([]byte, error) {
	cmd.WaitDelay = waitDelay
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// InRoot runs a program of the file system below root, which it takes for its own, and returns all that it says. It
// sees no environment but search. Who is not root gets a user namespace; where the kernel allows neither, the error is
// syscall.EPERM from starting the program.
func InRoot(ctx context.Context, root, search string, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = "/", []string{"LC_ALL=C", "PATH=" + search}, waitDelay
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	if uid := os.Geteuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	said := strings.TrimSpace(string(out))
	if err != nil {
		return said, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, said)
	}
	return said, nil
}
