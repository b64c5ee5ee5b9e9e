//go:build linux

package qemu

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

const program = "qemu-system-x86_64"

// Config describes one machine for one boot.
type Config struct {
	Name      string
	Accel     string // "tcg", "tcg-multi" or "kvm"
	CPUs      int
	MemoryMiB int
	Kernel    string
	Initrd    string
	Append    []string // kernel arguments beside those that every machine gets
	MgmtMAC   string   // "" for no management network
	NICs      []NIC
	Disk      *Disk
	Paused    bool // created but not running until Continue
}

// NIC is a network card whose cable is a stream socket with QEMU's framing.
type NIC struct {
	ID    string
	MAC   string
	Cable *os.File // the machine's end; closed by Start
}

// Disk is the data disk: a raw file, or an NBD export on a connected socket.
type Disk struct {
	File string
	NBD  *os.File // the machine's end; closed by Start
}

// extraFDs are numbered from here in the child.
const firstFD = 3

// args builds the command line and the list of files that the child inherits. qmp is the child's end of the monitor.
func (c Config) args(qmp *os.File) (argv []string, files []*os.File) {
	inherit := func(f *os.File) string {
		files = append(files, f)
		return strconv.Itoa(firstFD + len(files) - 1)
	}
	argv = []string{
		"-name", c.Name, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "pc,usb=off,vmport=off", "-accel", accelArg(c.Accel), "-cpu", cpuArg(c.Accel),
		"-smp", strconv.Itoa(c.CPUs), "-m", strconv.Itoa(c.MemoryMiB),
		"-kernel", c.Kernel, "-initrd", c.Initrd, "-append", c.commandLine(),
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-chardev", "socket,id=qmp,fd=" + inherit(qmp), "-mon", "chardev=qmp,mode=control",
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
	}
	if c.Paused {
		argv = append(argv, "-S")
	}
	if c.MgmtMAC != "" {
		argv = append(argv, "-netdev", "user,id=mgmt,net=10.0.2.0/24,ipv6=off",
			"-device", "virtio-net-pci,netdev=mgmt,romfile=,mac="+c.MgmtMAC)
	}
	for _, nic := range c.NICs {
		argv = append(argv, "-netdev", fmt.Sprintf("socket,id=%s,fd=%s", nic.ID, inherit(nic.Cable)),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=%s,romfile=,mac=%s", nic.ID, nic.MAC))
	}
	if c.Disk != nil {
		argv = append(argv, c.Disk.args(inherit)...)
	}
	return argv, files
}

// args: a raw file needs no flush of the host's own cache, since only QEMU is killed and never the host; the NBD server
// decides itself what a flush means.
func (d *Disk) args(inherit func(*os.File) string) []string {
	blockdev := "driver=file,node-name=backing,discard=unmap,filename=" + strings.ReplaceAll(d.File, ",", ",,")
	cache := ",cache.no-flush=on"
	if d.NBD != nil {
		blockdev = "driver=nbd,node-name=backing,server.type=fd,discard=unmap,server.str=" + inherit(d.NBD)
		cache = ""
	}
	return []string{
		"-blockdev", blockdev + cache,
		"-blockdev", "driver=raw,node-name=data,discard=unmap,file=backing" + cache,
		"-device", "virtio-blk-pci,drive=data,serial=data,write-cache=on",
	}
}

// accelArg runs all processors of an emulated machine in turn on one thread. QEMU before 8.1 can translate an instruction
// while another processor changes it, and execute the stale one: on 7.2 a boot was seen to end in an oops at an
// instruction that the kernel was patching (jump labels). With two cores for two machines it costs nothing.
// HOLDFAST_VM_ACCEL=tcg-multi takes the risk.
func accelArg(accel string) string {
	switch accel {
	case "kvm":
		return "kvm"
	case "tcg-multi":
		return "tcg,thread=multi"
	default:
		return "tcg,thread=single"
	}
}

// cpuArg leaves out five-level page tables, which emulation pays for at every miss and no test needs.
func cpuArg(accel string) string {
	if accel == "kvm" {
		return "host"
	}
	return "max,la57=off"
}

// commandLine keeps the console to warnings, avoids work that only real machines need, and makes a panic end QEMU, which
// never reboots by itself.
func (c Config) commandLine() string {
	args := []string{
		"console=ttyS0", "loglevel=5", "panic=-1", "oops=panic", "rdinit=/init", "mitigations=off", "nowatchdog", "rcupdate.rcu_expedited=1",
		"random.trust_cpu=on", "cryptomgr.notests", "8250.nr_uarts=1", "no_timer_check", "tsc=reliable", "net.ifnames=0",
		"vsyscall=none", "audit=0", "apparmor=0", "selinux=0", "nokaslr",
		// These two ask for modules while the root file system is still being unpacked, and so wait for it: two seconds. They
		// offer encrypted keys and a key derivation of the Diffie-Hellman key type, which nothing here uses.
		"initcall_blacklist=init_encrypted,crypto_kdf108_init",
	}
	return strings.Join(append(args, c.Append...), " ")
}
