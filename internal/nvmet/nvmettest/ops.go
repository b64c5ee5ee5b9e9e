package nvmettest

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/internal/nvmet"
)

// Mkdir creates an object with its attributes.
func (k *Kernel) Mkdir(p string) error {
	return k.op(nvmet.OpMkdir, p, "", func() error {
		dir, name := split(p)
		parent, err := k.root.find(dir)
		if err != nil {
			return err
		}
		if parent.has(name) {
			return syscall.EEXIST
		}
		kind, ok := parent.kind.child()
		if !ok {
			return syscall.EPERM
		}
		if kind == kindPort && !validNumber(name, 16) || kind == kindNamespace && !validNumber(name, 32) {
			return syscall.EINVAL
		}
		newNode(kind, name, parent).populate()
		return nil
	})
}

// Rmdir removes an object that nothing depends on. An enabled namespace may be
// removed; the kernel disables it, and waits, as for a write to enable.
func (k *Kernel) Rmdir(p string) error {
	return k.op(nvmet.OpRmdir, p, "", func() error {
		n, err := k.root.find(p)
		if err != nil {
			return err
		}
		_, name := split(p)
		if n.isDefault {
			return syscall.EPERM
		}
		if n.parent.dirs[name] != n || n.parent.links[name] != nil {
			return syscall.ENOTDIR
		}
		if err := n.removable(); err != nil {
			return err
		}
		delete(n.parent.dirs, name)
		if n.kind == kindNamespace && n.enabled() {
			n.parent.draining = true
			k.drain(p)
			n.parent.draining = false
			k.changed.Broadcast()
		}
		return nil
	})
}

// Symlink allows a host, or puts a subsystem on a port; the first link of a
// port makes it listen.
func (k *Kernel) Symlink(target, p string) error {
	return k.op(nvmet.OpSymlink, p, target, func() error {
		k.awaitConfig()
		to, err := k.root.find(target)
		if err != nil {
			return err
		}
		dir, name := split(p)
		parent, err := k.root.find(dir)
		if err != nil {
			return err
		}
		if parent.has(name) {
			return syscall.EEXIST
		}
		switch {
		case parent.kind == kindAllowedHosts && to.kind == kindHost:
			if parent.parent.attrs["attr_allow_any_host"] == "1" {
				return syscall.EINVAL
			}
		case parent.kind == kindPortLinks && to.kind == kindSubsystem:
			if err := k.listen(parent.parent); err != nil {
				return err
			}
		case parent.kind == kindAllowedHosts || parent.kind == kindPortLinks:
			return syscall.EINVAL
		default:
			return syscall.EPERM
		}
		parent.links[name] = to
		to.refs++
		return nil
	})
}

// Unlink removes a link; without links a port stops listening.
func (k *Kernel) Unlink(p string) error {
	return k.op(nvmet.OpUnlink, p, "", func() error {
		k.awaitConfig()
		dir, name := split(p)
		parent, err := k.root.find(dir)
		if err != nil {
			return err
		}
		to := parent.links[name]
		if to == nil && parent.has(name) {
			return syscall.EPERM
		}
		if to == nil {
			return syscall.ENOENT
		}
		to.refs--
		delete(parent.links, name)
		if parent.kind == kindPortLinks {
			k.disconnect(to)
		}
		if parent.kind == kindPortLinks && len(parent.links) == 0 {
			delete(k.listening, parent.parent.name)
		}
		return nil
	})
}

// WriteFile stores an attribute.
func (k *Kernel) WriteFile(p, text string) error {
	return k.op(nvmet.OpWrite, p, text, func() error {
		dir, name := split(p)
		n, err := k.root.find(dir)
		if err != nil {
			return err
		}
		if n.dirs[name] != nil || n.links[name] != nil {
			return syscall.EISDIR
		}
		if _, ok := n.attrs[name]; !ok {
			return syscall.ENOENT
		}
		text = strings.TrimSuffix(text, "\n")
		switch n.kind {
		case kindNamespace:
			return k.writeNamespace(dir, n, name, text)
		case kindSubsystem:
			return k.writeSubsystem(n, name, text)
		case kindPort:
			return k.writePort(n, name, text)
		default:
			n.attrs[name] = text
			return nil
		}
	})
}

func (k *Kernel) writeNamespace(p string, n *node, name, text string) error {
	if name == "enable" {
		k.awaitConfig()
		switch text {
		case "1":
			return k.enable(n)
		case "0":
			k.disable(p, n)
			return nil
		default:
			return syscall.EINVAL
		}
	}
	if n.enabled() && name == "buffered_io" {
		return syscall.EINVAL
	}
	if n.enabled() && name != "ana_grpid" {
		return syscall.EBUSY
	}
	switch name {
	case "device_uuid", "device_nguid":
		id, err := uuid.Parse(text)
		if err != nil {
			return syscall.EINVAL
		}
		text = id.String()
	case "device_path":
		if text == "" {
			return syscall.EINVAL
		}
	}
	n.attrs[name] = text
	return nil
}

func (k *Kernel) enable(n *node) error {
	if n.enabled() {
		return nil
	}
	path := n.attrs["device_path"]
	k.mu.Unlock()
	ok := path != "" && (k.DeviceExists == nil || k.DeviceExists(path))
	k.mu.Lock()
	if !ok {
		return syscall.ENOENT
	}
	n.attrs["enable"] = "1"
	return nil
}

// disable hides the namespace at once and then waits for its I/O, with the
// lock of the whole target held.
func (k *Kernel) disable(p string, n *node) {
	if !n.enabled() {
		return
	}
	n.attrs["enable"] = "0"
	k.config = true
	k.drain(p)
	k.config = false
	k.changed.Broadcast()
}

func (k *Kernel) writeSubsystem(n *node, name, text string) error {
	k.awaitConfig()
	switch name {
	case "attr_allow_any_host":
		if text != "0" && text != "1" || text == "1" && len(n.dirs["allowed_hosts"].links) > 0 {
			return syscall.EINVAL
		}
	case "attr_serial", "attr_model":
		limit := map[string]int{"attr_serial": 20, "attr_model": 40}[name]
		if n.discovered || text == "" || len(text) > limit {
			return syscall.EINVAL
		}
		if name == "attr_serial" {
			text = fmt.Sprintf("%-*s", limit, text)
		}
	case "attr_qid_max":
		if q, err := strconv.ParseUint(text, 10, 16); err != nil || q < 1 || q > 128 {
			return syscall.EINVAL
		}
		k.kicks[n.name]++
		k.disconnect(n)
	}
	n.attrs[name] = text
	return nil
}

// disconnect deletes the controllers of a subsystem, with their I/O in flight.
func (k *Kernel) disconnect(subsystem *node) {
	for held := range k.held {
		if strings.HasPrefix(held, "subsystems/"+subsystem.name+"/") {
			k.release(held)
		}
	}
}

func (k *Kernel) writePort(n *node, name, text string) error {
	if _, on := k.listening[n.name]; on {
		return syscall.EACCES
	}
	oneOf := func(values ...string) bool { return slices.Contains(values, text) }
	if name == "addr_trtype" && !oneOf("tcp", "rdma", "fc", "pci", "loop") ||
		name == "addr_adrfam" && !oneOf("ipv4", "ipv6", "ib", "fc", "pci", "loop") {
		return syscall.EINVAL
	}
	n.attrs[name] = text
	return nil
}

// listen binds a port's socket, if it is not bound yet.
func (k *Kernel) listen(port *node) error {
	if _, on := k.listening[port.name]; on {
		return nil
	}
	addr, err := netip.ParseAddr(port.attrs["addr_traddr"])
	tcp, perr := strconv.ParseUint(port.attrs["addr_trsvcid"], 10, 16)
	family := map[bool]string{true: "ipv4", false: "ipv6"}[addr.Is4()]
	if err != nil || perr != nil || port.attrs["addr_trtype"] != "tcp" || port.attrs["addr_adrfam"] != family {
		return syscall.EINVAL
	}
	socket := netip.AddrPortFrom(addr, uint16(tcp))
	if err := k.bindErrs[socket]; err != nil {
		return err
	}
	for _, other := range k.listening {
		if other.Port() == socket.Port() && (other.Addr() == addr ||
			other.Addr().Is4() == addr.Is4() && (other.Addr().IsUnspecified() || addr.IsUnspecified())) {
			return syscall.EADDRINUSE
		}
	}
	k.listening[port.name] = socket
	return nil
}
