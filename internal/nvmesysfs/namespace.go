package nvmesysfs

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// Namespace is one disk: the head under native multipath, the only disk
// without it.
type Namespace struct {
	Disk string // nvme0n1; never the name of a hidden path
	NQN  string
	NSID uint32
	// UUID is nil if the namespace has none. The attribute "uuid" is not used:
	// for such a namespace it shows the NGUID.
	UUID, NGUID  uuid.UUID
	SizeBytes    int64
	BlockSize    int // logical, bytes
	Major, Minor uint32
	ReadOnly     bool
	// Controllers have a path to it, whatever their state. A head can be there
	// without any: something holds it open, or delayed_removal_secs does (6.16 on).
	Controllers []string
}

// Disk reads one disk by its name, with the NQN that it belongs to and without
// its controllers. The error of one that is not there wraps fs.ErrNotExist.
func (f FS) Disk(name string) (Namespace, error) {
	if !diskName.MatchString(name) {
		return Namespace{}, fmt.Errorf("disk %q: not the name of a disk", name)
	}
	dir := filepath.Join(f.Sys, "block", name)
	ns, err := readNamespace(name, dir)
	if err != nil {
		return Namespace{}, err
	}
	ns.NQN, err = attr(filepath.Join(dir, "device"), "subsysnqn")
	return ns, err
}

func addNamespaces(s *Snapshot, nqn string, disks map[string]string, paths map[string][]string, read reading) error {
	for _, disk := range slices.Sorted(maps.Keys(disks)) {
		ns, err := read(disk, disks[disk])
		if gone(err) || errors.Is(err, errSkip) {
			continue
		}
		if err != nil {
			return err
		}
		ns.NQN = nqn
		ns.Controllers = slices.Sorted(slices.Values(paths[disk]))
		s.Namespaces = append(s.Namespaces, ns)
	}
	return nil
}

// sectorSize is the unit of the attribute "size", whatever the block size.
const sectorSize = 512

func readNSID(dir string) (uint32, error) {
	r := newReader(dir)
	defer r.close()
	nsid := r.number("nsid", 32)
	return uint32(nsid), r.err
}

func readNamespace(disk, dir string) (Namespace, error) {
	r := newReader(dir)
	defer r.close()
	nsid := r.number("nsid", 32)
	sectors := r.number("size", 63)
	block := r.number("queue/logical_block_size", 31)
	dev := r.text("dev")
	ns := Namespace{
		Disk: disk, NSID: uint32(nsid), SizeBytes: sectors * sectorSize, BlockSize: int(block),
		ReadOnly: r.text("ro") == "1", NGUID: parseUUID(r.optional("nguid")),
	}
	ns.UUID = parseWWID(r.text("wwid")) // last: it is the first to go (nvme_ns_attrs)
	if r.err != nil {
		return Namespace{}, r.err
	}
	major, minor, err := parseDev(dev)
	if err != nil {
		return Namespace{}, fmt.Errorf("%s/dev: %w", dir, err)
	}
	ns.Major, ns.Minor = major, minor
	return ns, nil
}

func parseDev(s string) (major, minor uint32, err error) {
	a, b, ok := strings.Cut(s, ":")
	ma, err1 := strconv.ParseUint(a, 10, 32)
	mi, err2 := strconv.ParseUint(b, 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return 0, 0, fmt.Errorf("device number %q: want MAJOR:MINOR", s)
	}
	return uint32(ma), uint32(mi), nil
}

// parseWWID takes the UUID out of the world-wide ID, which begins with "uuid."
// exactly if the namespace has one.
func parseWWID(s string) uuid.UUID {
	v, ok := strings.CutPrefix(s, "uuid.")
	if !ok {
		return uuid.Nil
	}
	return parseUUID(v)
}

// parseUUID reads the kernel's 36 characters; anything else is no UUID.
func parseUUID(s string) uuid.UUID {
	u, err := uuid.Parse(s)
	if err != nil || len(s) != 36 {
		return uuid.Nil
	}
	return u
}
