package initiatortest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/google/uuid"
)

const fakeMajor = 259 // blkext

// must is for the temporary directory: if that cannot be written, no test of
// this process can say anything.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func (f *Fake) sys(path string) string { return filepath.Join(f.fs.Sys, path) }

func controllerDir(c *controller) string { return "devices/virtual/nvme-fabrics/ctl/" + c.name }

func subsystemDir(instance int) string {
	return fmt.Sprintf("devices/virtual/nvme-subsystem/nvme-subsys%d", instance)
}

// put writes one attribute whole, as sysfs shows it.
func (f *Fake) put(path, value string) {
	tmp := f.sys(path + ".new")
	must(os.WriteFile(tmp, []byte(value+"\n"), 0o600))
	must(os.Rename(tmp, f.sys(path)))
}

// putAll makes a directory with attributes appear at once.
func (f *Fake) putAll(dir string, attrs map[string]string) {
	tmp := f.sys(filepath.Dir(dir) + "/.new-" + filepath.Base(dir))
	for name, v := range attrs {
		must(os.MkdirAll(filepath.Dir(filepath.Join(tmp, name)), 0o755))
		must(os.WriteFile(filepath.Join(tmp, name), []byte(v+"\n"), 0o600))
	}
	must(os.Rename(tmp, f.sys(dir)))
}

// drop makes a directory disappear at once. Who has it open still loses first
// what the kernel takes away first.
func (f *Fake) drop(dir string) {
	for _, first := range []string{"transport", "wwid"} {
		_ = os.Remove(f.sys(dir + "/" + first)) // where there is one
	}
	tmp := f.sys(filepath.Dir(dir) + "/.old-" + filepath.Base(dir))
	must(os.Rename(f.sys(dir), tmp))
	must(os.RemoveAll(tmp))
}

func (f *Fake) link(at, to string) {
	rel, err := filepath.Rel(filepath.Dir(f.sys(at)), f.sys(to))
	must(err)
	must(os.Symlink(rel, f.sys(at)))
}

func (f *Fake) writeController(c *controller) {
	sub := subsystemDir(c.subsystem)
	if _, err := os.Stat(f.sys(sub)); err != nil {
		f.putAll(sub, map[string]string{"subsysnqn": c.target.NQN, "iopolicy": "numa"})
		f.link(fmt.Sprintf("class/nvme-subsystem/nvme-subsys%d", c.subsystem), sub)
	}
	f.putAll(controllerDir(c), map[string]string{
		"subsysnqn": c.target.NQN, "transport": c.target.Transport, "state": c.state, "uevent": uevent(c),
		"hostnqn": c.target.HostNQN, "hostid": c.target.HostID, "fast_io_fail_tmo": "off",
		"kato": strconv.Itoa(or(c.config.KeepAliveTmo, 5)), "queue_count": "2",
		"ctrl_loss_tmo": lossTmo(c), "reconnect_delay": strconv.Itoa(or(c.config.ReconnectDelay, 10)),
	})
	f.link("class/nvme/"+c.name, controllerDir(c))
	f.link(sub+"/"+c.name, controllerDir(c))
}

func or(v, def int) int {
	if v == 0 {
		return def
	}
	return v
}

// lossTmo is what the kernel shows: the number of attempts times the delay.
func lossTmo(c *controller) string {
	n := or(c.config.CtrlLossTmo, 600)
	if n < 0 {
		return "off"
	}
	delay := or(c.config.ReconnectDelay, 10)
	return strconv.Itoa((n + delay - 1) / delay * delay)
}

func uevent(c *controller) string {
	return fmt.Sprintf("DEVNAME=%s\nNVME_TRTYPE=%s\nNVME_TRADDR=%s\nNVME_TRSVCID=%d\nNVME_HOST_TRADDR=none\nNVME_HOST_IFACE=none",
		c.name, c.target.Transport, c.target.TargetAddress, c.target.TargetPort)
}

func (f *Fake) writeState(c *controller) { f.put(controllerDir(c)+"/state", c.state) }

func (f *Fake) writeDelays(c *controller) {
	f.put(controllerDir(c)+"/reconnect_delay", strconv.Itoa(or(c.config.ReconnectDelay, 10)))
	f.put(controllerDir(c)+"/ctrl_loss_tmo", lossTmo(c))
}

func (f *Fake) removeController(c *controller, last bool) {
	must(os.Remove(f.sys("class/nvme/" + c.name)))
	must(os.Remove(f.sys(subsystemDir(c.subsystem) + "/" + c.name)))
	f.drop(controllerDir(c))
	if last {
		must(os.Remove(f.sys(fmt.Sprintf("class/nvme-subsystem/nvme-subsys%d", c.subsystem))))
		f.drop(subsystemDir(c.subsystem))
	}
}

func (f *Fake) pathDir(d *disk, c *controller) string {
	return fmt.Sprintf("%s/nvme%dc%dn%d", controllerDir(c), d.subsystem, c.instance, d.head)
}

// addPath gives a controller its path to a namespace; the first path makes the
// disk.
func (f *Fake) addPath(c *controller, ns Namespace) {
	d := f.diskOf(c.target.NQN, func(d *disk) bool { return d.ns.NSID == ns.NSID })
	if d == nil {
		d = f.addDisk(c, ns)
	} else if d.ns.SizeBytes != ns.SizeBytes {
		d.ns.SizeBytes = ns.SizeBytes
		f.put(subsystemDir(d.subsystem)+"/"+d.name+"/size", strconv.FormatInt(ns.SizeBytes/512, 10))
		must(os.Truncate(filepath.Join(f.fs.Dev, d.name), ns.SizeBytes))
	}
	if !d.paths[c.name] {
		d.paths[c.name] = true
		f.putAll(f.pathDir(d, c), map[string]string{"hidden": "1", "nsid": strconv.FormatUint(uint64(ns.NSID), 10)})
	}
}

func (f *Fake) addDisk(c *controller, ns Namespace) *disk {
	d := &disk{nqn: c.target.NQN, subsystem: c.subsystem, head: 1, ns: ns, major: fakeMajor, minor: f.nextMinor, paths: map[string]bool{}}
	f.nextMinor++
	for f.disks[d.diskName()] != nil {
		d.head++
	}
	d.name = d.diskName()
	f.disks[d.name] = d
	attrs := map[string]string{
		"nsid": strconv.FormatUint(uint64(ns.NSID), 10), "size": strconv.FormatInt(ns.SizeBytes/512, 10), "ro": "0",
		"dev": fmt.Sprintf("%d:%d", d.major, d.minor), "queue/logical_block_size": strconv.Itoa(ns.BlockSize),
		"wwid": "nvme.0000-00-00-00000001",
	}
	if ns.NGUID != uuid.Nil {
		attrs["nguid"], attrs["uuid"], attrs["wwid"] = ns.NGUID.String(), ns.NGUID.String(), fmt.Sprintf("eui.%x", ns.NGUID[:])
	}
	if ns.UUID != uuid.Nil {
		attrs["uuid"], attrs["wwid"] = ns.UUID.String(), "uuid."+ns.UUID.String()
	}
	node := filepath.Join(f.fs.Dev, d.name)
	must(os.WriteFile(node, nil, 0o600))
	must(os.Truncate(node, ns.SizeBytes))
	dir := subsystemDir(d.subsystem) + "/" + d.name
	f.putAll(dir, attrs)
	f.link("class/block/"+d.name, dir)
	return d
}

func (d *disk) diskName() string { return fmt.Sprintf("nvme%dn%d", d.subsystem, d.head) }

// dropPath takes a controller's path to a disk away; the last one takes the
// disk with it.
func (f *Fake) dropPath(d *disk, c *controller) {
	if !d.paths[c.name] {
		return
	}
	delete(d.paths, c.name)
	f.drop(f.pathDir(d, c))
	if len(d.paths) > 0 {
		return
	}
	delete(f.disks, d.name)
	must(os.Remove(f.sys("class/block/" + d.name)))
	f.drop(subsystemDir(d.subsystem) + "/" + d.name)
	must(os.Remove(filepath.Join(f.fs.Dev, d.name)))
}

// stat takes the regular file that stands for a disk for its device node.
func (f *Fake) stat(path string) (block bool, major, minor uint32, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := os.Lstat(path); err != nil {
		return false, 0, 0, err
	}
	d := f.disks[filepath.Base(path)]
	if d == nil {
		return false, 0, 0, nil
	}
	return true, d.major, d.minor, nil
}
