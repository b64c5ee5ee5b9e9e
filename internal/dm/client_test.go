package dm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// notMapper is a client whose control node is a plain file: every request that
// reaches the kernel comes back as ENOTTY.
func notMapper(t *testing.T) *Client {
	t.Helper()
	dev := t.TempDir()
	if err := os.Mkdir(filepath.Join(dev, unix.DM_DIR), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dev, unix.DM_DIR, unix.DM_CONTROL_NODE), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// requests are all of a client's calls for a device.
func requests(c *Client, name string) map[string]error {
	_, create := c.Create(name, "U-"+name)
	_, get := c.Get(name)
	_, resume := c.Resume(name, NoScan)
	_, _, status := c.Status(name)
	_, _, table := c.Table(name)
	return map[string]error{
		"create": create, "look at": get, "suspend or resume": resume, "read the table of": errors.Join(status, table),
		"load a table into": c.Load(name, Table{Sectors: 1, Target: "zero"}), "drop the new table of": c.Clear(name),
		"remove": c.Remove(name), "send a message to": c.Message(name, "x"),
	}
}

func TestOpenNothing(t *testing.T) {
	t.Parallel()
	if _, err := Open(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// An error says what was asked for and of which device, and is none of those
// that callers act upon.
func TestErrors(t *testing.T) {
	t.Parallel()
	c := notMapper(t)
	for op, err := range requests(c, "holdfast-x") {
		if !errors.Is(err, unix.ENOTTY) || !strings.Contains(err.Error(), op) || !strings.Contains(err.Error(), "holdfast-x") {
			t.Errorf("%s: got %v", op, err)
		}
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrBusy) || errors.Is(err, ErrExists) {
			t.Errorf("%s: %v has a meaning", op, err)
		}
	}
	if _, err := c.List(); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("list: got %v", err)
	}
	if c.HasTarget("multipath") {
		t.Error("a target without a kernel")
	}
}

// What does not fit is refused and never cut: a name that was cut is that of
// another device.
func TestTooLong(t *testing.T) {
	t.Parallel()
	c := notMapper(t)
	for op, err := range requests(c, strings.Repeat("n", unix.DM_NAME_LEN)) {
		if !errors.Is(err, errTooLong) {
			t.Errorf("%s: got %v", op, err)
		}
	}
	_, uuid := c.Create("n", strings.Repeat("u", unix.DM_UUID_LEN))
	for what, err := range map[string]error{
		"UUID":       uuid,
		"parameters": c.Load("n", Table{Params: strings.Repeat("p", bufferSize)}),
		"message":    c.Message("n", strings.Repeat("m", bufferSize)),
	} {
		if !errors.Is(err, errTooLong) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	if _, err := c.Get(strings.Repeat("n", unix.DM_NAME_LEN-1)); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("the longest name: got %v", err)
	}
}
