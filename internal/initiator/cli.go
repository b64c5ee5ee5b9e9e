package initiator

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/holdfast-csi/holdfast/internal/command"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

type cli struct{ run command.Runner }

// NewCLI connects with `nvme connect` (nvme-cli 2.x), for machines where its
// configuration and logging should apply. It knows less than NewFabrics of why
// a connect failed: what nvme-cli does not say is EIO.
func NewCLI(run command.Runner) Connector { return cli{run} }

func (c cli) Connect(ctx context.Context, t nvme.Target, config nvme.ConnectionConfig) error {
	if err := t.Validate(); err != nil {
		return err
	}
	_, err := c.run.Run(ctx, "nvme", nvme.BuildConnectArgs(t, config)...)
	var exit *command.ExitError
	if errors.As(err, &exit) {
		if errno, ok := cliErrno(exit.Stderr); ok {
			err = fmt.Errorf("%w: %w", errno, exit)
		}
	}
	return connectError(opConnect, t, err)
}

// cliTexts turns what nvme-cli prints back into error numbers: its exit code is
// always 1. First the C library's words, which are there only where the log
// level lets them through, then those of libnvme for a few error numbers, and
// last what libnvme says of all others. The first match counts.
var cliTexts = []struct {
	text  string
	errno syscall.Errno
}{
	{"operation already in progress", syscall.EALREADY},
	{"connection timed out", syscall.ETIMEDOUT},
	{"no route to host", syscall.EHOSTUNREACH},
	{"network is unreachable", syscall.ENETUNREACH},
	{"connection reset by peer", syscall.ECONNRESET},
	{"resource temporarily unavailable", syscall.EAGAIN},
	{"host is down", syscall.EHOSTDOWN},
	{"network is down", syscall.ENETDOWN},
	{"interrupted system call", syscall.EINTR},
	{"input/output error", syscall.EIO},
	{"no such device", syscall.ENODEV},
	{"no such file or directory", syscall.ENOENT},
	{"invalid argument", syscall.EINVAL}, // also libnvme's "invalid arguments/configuration"
	{"key was rejected by service", syscall.EKEYREJECTED},
	{"required key not available", syscall.ENOKEY},

	{"already connected", syscall.EALREADY},
	{"connection refused", syscall.ECONNREFUSED},
	{"cannot assign requested address", syscall.EADDRNOTAVAIL},
	{"invalid interface", syscall.ENODEV},
	{"hostnqn already in use", syscall.EADDRINUSE},
	{"not supported", syscall.EOPNOTSUPP},

	{"failed to write to nvme-fabrics device", syscall.EIO},
}

func cliErrno(stderr string) (syscall.Errno, bool) {
	text := strings.ToLower(stderr)
	for _, c := range cliTexts {
		if strings.Contains(text, c.text) {
			return c.errno, true
		}
	}
	return 0, false
}
