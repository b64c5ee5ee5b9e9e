//go:build vm

package e2e

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// foreign is a subsystem on the storage host that somebody else runs: made by
// hand, on a port of its own, its NQN none of ours.
type foreign struct {
	b     *bench
	nqn   string
	ports []int
}

// target makes a subsystem that every host may use, listening on the ports.
func (b *bench) target(name string, ports ...int) *foreign {
	b.Helper()
	f := &foreign{b: b, nqn: "nqn.2020-01.com.example:" + name}
	b.on(`cd /sys/kernel/config/nvmet; mkdir subsystems/%[1]s; echo 1 >subsystems/%[1]s/attr_allow_any_host`, f.nqn)
	for _, p := range ports {
		f.listen(p)
	}
	return f
}

// listen makes the subsystem listen on one more port.
func (f *foreign) listen(port int) {
	f.b.Helper()
	f.b.on(`cd /sys/kernel/config/nvmet/ports; mkdir %[1]d; cd %[1]d; echo tcp >addr_trtype; echo ipv4 >addr_adrfam; echo %[2]s >addr_traddr; echo %[1]d >addr_trsvcid`, port, f.b.storage.Addr())
	f.link(port)
	f.ports = append(f.ports, port)
}

// leave makes it listen there no longer.
func (f *foreign) leave(port int) {
	f.b.Helper()
	f.b.on(`cd /sys/kernel/config/nvmet/ports/%d; rm subsystems/*; cd ..; rmdir %[1]d`, port)
	f.ports = slices.DeleteFunc(f.ports, func(p int) bool { return p == port })
}

func (f *foreign) link(port int) {
	f.b.Helper()
	f.b.on("ln -s /sys/kernel/config/nvmet/subsystems/%s /sys/kernel/config/nvmet/ports/%d/subsystems/", f.nqn, port)
}

// namespace exports a device of the storage host.
func (f *foreign) namespace(nsid int, device string) {
	f.b.Helper()
	f.b.on(`cd /sys/kernel/config/nvmet/subsystems/%s/namespaces; mkdir %d; cd %[2]d; echo %s >device_path; echo %s >device_uuid; echo 1 >enable`, f.nqn, nsid, device, f.uuid(nsid))
}

func (*foreign) uuid(nsid int) string { return fmt.Sprintf("11111111-2222-4333-8444-%012d", nsid) }

// remove takes everything away that target and namespace have made.
func (f *foreign) remove() {
	f.b.Helper()
	f.b.on(`cd /sys/kernel/config/nvmet; shopt -s nullglob
for p in %s; do rm -f ports/$p/subsystems/*; rmdir ports/$p; done
rmdir subsystems/%[2]s/namespaces/* subsystems/%[2]s`, strings.Trim(fmt.Sprint(f.ports), "[]"), f.nqn)
}

// static is a PersistentVolume that names the target.
func (f *foreign) static(fsType string, mib int64, attributes ...string) *cluster.Volume {
	v := f.b.volume(fsType, mib)
	v.ID = "static-" + v.Name
	v.Context = map[string]string{"nqn": f.nqn, "addresses": f.addresses()}
	for i := 0; i+1 < len(attributes); i += 2 {
		v.Context[attributes[i]] = attributes[i+1]
	}
	return v
}

// addresses are those that a PersistentVolume has to name now.
func (f *foreign) addresses() string {
	var list []string
	for _, p := range f.ports {
		list = append(list, fmt.Sprintf("%s:%d", f.b.storage.Addr(), p))
	}
	return strings.Join(list, ",")
}
