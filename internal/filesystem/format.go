package filesystem

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-csi/holdfast/internal/command"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Runner executes a program; *command.Exec is the real one.
type Runner interface {
	Run(ctx context.Context, name string, args ...string) ([]byte, error)
}

var _ Runner = command.Runner(nil)

// mkfsArgs: no discard, because the volume is blank already and discarding a
// large one can take minutes; ext4 reacts to its own errors by going
// read-only rather than on; -f and -F because the decision was made before,
// on better grounds than mkfs has.
var mkfsArgs = map[Kind][]string{
	Ext4: {"mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=0", "-e", "remount-ro"},
	XFS:  {"mkfs.xfs", "-q", "-f", "-K"},
}

// ParseKind checks a file system name from outside; "" is ext4.
func ParseKind(name string) (Kind, error) {
	switch k := Kind(name); k {
	case "":
		return Ext4, nil
	case Ext4, XFS:
		return k, nil
	default:
		return "", fmt.Errorf("fsType %q: want ext4 or xfs: %w", name, volume.ErrInvalid)
	}
}

// MinimumBytes is the smallest device on which mkfs makes a file system that keeps
// its promises. Below 2,048 blocks mke2fs leaves the journal out, and says so on
// its standard error alone (mke2fs(8), "Filesystem too small for a journal"; our
// blocks are 4 KiB); mkfs.xfs refuses less than 300 MiB from xfsprogs 5.19 on.
func (k Kind) MinimumBytes() int64 {
	switch k {
	case Ext4:
		return 2048 * 4 << 10
	case XFS:
		return 300 << 20
	default:
		return 0
	}
}

// Format makes a file system. The caller has proven that it may. When ctx ends
// the program is killed, which leaves a half-made file system; the caller's
// "formatting" record is what makes that harmless. Options are those of
// ParseFormatOptions.
func Format(ctx context.Context, run Runner, device string, kind Kind, options []string) error {
	args, ok := mkfsArgs[kind]
	if !ok {
		return fmt.Errorf("format %s: fsType %q: %w", device, kind, volume.ErrInvalid)
	}
	if _, err := run.Run(ctx, args[0], slices.Concat(args[1:], options, []string{device})...); err != nil {
		return fmt.Errorf("format %s: %w", device, err)
	}
	return nil
}

// e2fsck's exit codes (e2fsck(8)): 0 and 1 leave a clean file system.
const e2fsckCorrected = 1

// Check repairs what can be repaired without a question. Only ext4 that says
// of itself that it found errors is checked: the journal is replayed by the
// mount, and XFS has no check at mount time by design (fsck.xfs(8)).
func Check(ctx context.Context, run Runner, device string, kind Kind) error {
	if kind != Ext4 {
		return nil
	}
	_, err := run.Run(ctx, "e2fsck", "-p", device)
	var exit *command.ExitError
	if errors.As(err, &exit) && exit.Code == e2fsckCorrected {
		return nil
	}
	if err != nil {
		return fmt.Errorf("check %s: the file system has errors that need a person (run e2fsck): %w (%w)", device, volume.ErrPrecondition, err)
	}
	return nil
}
