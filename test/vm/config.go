//go:build linux

package vm

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
)

// LabConfig describes what the machines of a lab have in common.
type LabConfig struct {
	Name   string                           // used in paths; default "lab"
	Kernel string                           // series, "6.12" (default) or "6.1"
	Files  []File                           // put into every machine at every boot
	Tools  []string                         // programs of this machine beyond the standard ones, e.g. "fio" (80 MB with libraries)
	Log    func(format string, args ...any) // progress; nil = silent
}

// File is copied from this machine into a virtual one.
type File struct {
	Host, Guest string
	Mode        os.FileMode // default 0755
}

// MachineConfig describes one machine.
type MachineConfig struct {
	Name         string
	CPUs         int          // default 2
	MemoryMiB    int          // default 1024
	LANs         []LANAddress // nil = one, "storage" with the next free address from 10.77.0.10/24; empty = none
	DiskGiB      int          // size of the sparse data disk /dev/vda; 0 = none
	DiskFS       string       // "xfs" (default), "ext4" or "btrfs", mounted at /data
	RawDisk      bool         // leave the data disk as it is: no file system, no mount
	VolatileDisk bool         // a power cut loses what was not flushed
	// Modules are loaded before Boot returns. nil = what the product and its tests use, in part just after Boot; empty =
	// only what the machine needs to boot. The kernel and modprobe load others on demand in any case.
	Modules    []string
	KernelArgs []string // e.g. "nvme_core.multipath=N"
	Forward    []int    // TCP ports of the machine that are reachable from here; see ForwardAddr
	Files      []File   // put into this machine at every boot
}

// LANAddress is a network card: which switch it is plugged into, and its address with prefix length. Cards are called
// lan0, lan1 and so on inside the machine.
type LANAddress struct{ LAN, Addr string }

const (
	defaultKernel = "6.12"
	defaultLAN    = "storage"
)

var nameRule = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

func (c LabConfig) withDefaults() (LabConfig, error) {
	if c.Name == "" {
		c.Name = "lab"
	}
	if c.Kernel == "" {
		c.Kernel = defaultKernel
	}
	if c.Log == nil {
		c.Log = func(string, ...any) {}
	}
	if !nameRule.MatchString(c.Name) {
		return c, fmt.Errorf("lab %q: name must match %s", c.Name, nameRule)
	}
	return c, nil
}

// withDefaults fills in for machine number n, counted from 0.
func (c MachineConfig) withDefaults(n int) (MachineConfig, error) {
	if c.CPUs == 0 {
		c.CPUs = 2
	}
	if c.MemoryMiB == 0 {
		c.MemoryMiB = 1024
	}
	if c.LANs == nil {
		c.LANs = []LANAddress{{LAN: defaultLAN, Addr: fmt.Sprintf("10.77.0.%d/24", 10+n)}}
	}
	if c.DiskFS == "" {
		c.DiskFS = "xfs"
	}
	if c.RawDisk {
		c.DiskFS = ""
	}
	return c, c.validate()
}

func (c MachineConfig) validate() error {
	if !nameRule.MatchString(c.Name) {
		return fmt.Errorf("machine %q: name must match %s", c.Name, nameRule)
	}
	if c.CPUs < 0 || c.MemoryMiB < 0 || c.DiskGiB < 0 {
		return fmt.Errorf("machine %s: a size is negative", c.Name)
	}
	switch c.DiskFS {
	case "xfs", "ext4", "btrfs", "":
	default:
		return fmt.Errorf("machine %s: DiskFS %q is none of xfs, ext4, btrfs", c.Name, c.DiskFS)
	}
	for _, l := range c.LANs {
		prefix, err := netip.ParsePrefix(l.Addr)
		if err != nil {
			return fmt.Errorf("machine %s: address on LAN %s: %w", c.Name, l.LAN, err)
		}
		if !prefix.Addr().Is4() {
			return fmt.Errorf("machine %s: address %s on LAN %s is not IPv4", c.Name, l.Addr, l.LAN)
		}
	}
	for _, f := range c.Files {
		if f.Guest == "" {
			return fmt.Errorf("machine %s: file %s has no place in the machine", c.Name, f.Host)
		}
	}
	return nil
}
