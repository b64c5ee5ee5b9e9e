//go:build !kernel

// Not in a machine: the recordings of another package are not there.

package initiator

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Every recorded text of nvme-cli has an error number: that of the C library's
// text in it, where there is one.
func TestCLIErrno(t *testing.T) {
	files, err := filepath.Glob("../../pkg/utils/testdata/nvme-cli-*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "#") {
				continue
			}
			stderr, err := strconv.Unquote(strings.Split(line, "\t")[1])
			if err != nil {
				t.Fatal(err)
			}
			got, ok := cliErrno(stderr)
			_, text, _ := strings.Cut(strings.SplitN(stderr, "\n", 2)[0], "/dev/nvme-fabrics: ")
			if text == "" {
				text = syscall.EALREADY.Error() // "already connected", before the kernel is asked
			}
			if !ok || !strings.EqualFold(got.Error(), text) {
				t.Errorf("%q: got %d (%v), %t", stderr, got, got, ok)
			}
		}
	}
	for text, want := range map[string]syscall.Errno{
		"could not add new controller: failed to write to nvme-fabrics device": syscall.EIO, // libnvme 1.11 on
		"could not add new controller: connection refused":                     syscall.ECONNREFUSED,
		"could not add new controller: invalid arguments/configuration":        syscall.EINVAL,
		"could not add new controller: hostnqn already in use":                 syscall.EADDRINUSE,
		"could not add new controller: already connected":                      syscall.EALREADY,
		"Failed to open /dev/nvme-fabrics: No such file or directory":          syscall.ENOENT,
	} {
		if got, ok := cliErrno(text); !ok || got != want {
			t.Errorf("%q: got %v, %t", text, got, ok)
		}
	}
	if got, ok := cliErrno("Segmentation fault"); ok {
		t.Errorf("got %v", got)
	}
}
