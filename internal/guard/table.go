package guard

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/internal/dm"
)

// Prefix marks our devices' UUIDs. multipathd takes only those that begin with
// "mpath-" for its own.
const Prefix = "HOLDFAST-"

// namePrefix begins the names, which people see in dmsetup ls and in mounts.
const namePrefix = "holdfast-"

// maxLabel keeps a name with all that is added under the kernel's 127 bytes.
const maxLabel = 72

var notPlain = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// Name returns the name of the table of one generation of a volume. Volume IDs
// come from outside and may hold anything: what is readable of it stays, and a
// hash of the whole makes it unique.
func Name(volumeID string, generation uint64) string {
	sum := sha256.Sum256([]byte(volumeID))
	label := notPlain.ReplaceAllString(volumeID, "-")
	label = label[:min(len(label), maxLabel)]
	return fmt.Sprintf("%s%s-%s-g%d", namePrefix, label, hex.EncodeToString(sum[:8]), generation)
}

// legSuffix and wallSuffix end the names of the two devices that belong to a table.
// The name of a table ends with a digit.
const (
	legSuffix  = "-leg"
	wallSuffix = "-wall"
)

// tableOf returns the name of the table that a device belongs to, and whether it is
// another than that itself.
func tableOf(name string) (table string, belongs bool) {
	if table, belongs = strings.CutSuffix(name, legSuffix); belongs {
		return table, true
	}
	return strings.CutSuffix(name, wallSuffix)
}

// uuidOf returns the UUID of one of our devices.
func uuidOf(name string) string { return Prefix + strings.TrimPrefix(name, namePrefix) }

const sectorSize = 512

// Path is the device below.
type Path struct {
	Disk         string // for messages
	Node         string // its node under /dev
	Major, Minor uint32
	SizeBytes    int64
}

func (p Path) dev() string { return fmt.Sprintf("%d:%d", p.Major, p.Minor) }

func (p Path) sectors() uint64 { return uint64(p.SizeBytes / sectorSize) }

// multipathTable is one path in each of two groups: I/O goes to the first as long
// as that works. That is the disk itself: what a multipath target sends is marked
// as not to be retried below, and a device in between would lose the mark of a
// flush, which native multipath then takes for done when its path is lost.
// queue_mode bio lets bios through one by one, without requests of its own; it has
// to be the table's mode from the start (Documentation/admin-guide/device-mapper,
// dm-mpath.c). Of the selectors queue-length is the one that says how much I/O is
// under way below.
func multipathTable(first, second string, sectors uint64, readOnly bool) dm.Table {
	return dm.Table{
		Sectors: sectors, Target: "multipath", ReadOnly: readOnly,
		Params: "3 queue_if_no_path queue_mode bio 0 2 1 queue-length 0 1 1 " + first + " 1 queue-length 0 1 1 " + second + " 1",
	}
}

func linearTable(p Path, readOnly bool) dm.Table {
	return dm.Table{Sectors: p.sectors(), Target: "linear", ReadOnly: readOnly, Params: p.dev() + " 0"}
}

// waitTable keeps whatever comes until it is suspended: then all of it goes to the
// wall (dm-delay.c, delay_presuspend). The delay is in milliseconds; what would be
// negative as an int is endless to the kernel (msecs_to_jiffies). A suspended device
// would keep what comes too, but for read-ahead, which it fails (dm.c,
// dm_submit_bio): to the table above a failed path, and most reads of a file are
// read-ahead.
func waitTable(wall string, sectors uint64, readOnly bool) dm.Table {
	return dm.Table{Sectors: sectors, Target: "delay", ReadOnly: readOnly, Params: fmt.Sprintf("%s 0 %d", wall, uint32(math.MaxUint32))}
}

// standbyTable keeps what is written, as waitTable does, and fails what is read. So a
// table whose disk fails has a second path at once, where its writes wait at no
// price and without anybody's help; and whoever reads the leg itself, as programs do
// that look at all block devices, has to wait for nothing. A flush fails after a
// moment in which somebody can hold the volume: systemd flushes every device of the
// device mapper when a machine goes down (detach-dm.c).
func standbyTable(wall string, sectors uint64, readOnly bool) dm.Table {
	return dm.Table{
		Sectors: sectors, Target: "delay", ReadOnly: readOnly,
		Params: fmt.Sprintf("%s 0 0 %s 0 %d %s 0 %d", wall, wall, uint32(math.MaxUint32), wall, standbyFlush.Milliseconds()),
	}
}

const standbyFlush = time.Second

// wallTable fails whatever comes, and passes for a disk like the one below: what that can
// do (flush, force unit access, discard) is what the kernel lets through to the leg
// that waits above it, and a flush that is not let through is taken for done. It is
// up for 0 seconds and down for 1, and so on. The last word is that there are no
// features: where it is missing, some kernels since 6.5 let everything through.
func wallTable(below string, sectors uint64, readOnly bool) dm.Table {
	return dm.Table{Sectors: sectors, Target: "flakey", ReadOnly: readOnly, Params: below + " 0 0 1 0"}
}

// errorTable fails whatever comes, but a flush, which is taken for done.
func errorTable(sectors uint64, readOnly bool) dm.Table {
	return dm.Table{Sectors: sectors, Target: "error", ReadOnly: readOnly}
}

var errStatus = errors.New("the kernel's status of a multipath table makes no sense")

// words reads a status of the multipath target (dm-mpath.c, multipath_status).
type words struct {
	list []string
	err  error
}

func (w *words) next() string {
	if len(w.list) == 0 {
		w.err = errStatus
		return ""
	}
	s := w.list[0]
	w.list = w.list[1:]
	return s
}

// number reads one from 0 up to the number of words that are left.
func (w *words) number() int {
	n, err := strconv.Atoi(w.next())
	if err != nil || n < 0 || n > len(w.list) {
		w.err = errStatus
		return 0
	}
	return n
}

// counted reads a number and that many words.
func (w *words) counted() []string {
	n := w.number()
	out := w.list[:n]
	w.list = w.list[n:]
	return out
}

// path is what a status says of a path.
type path struct {
	dev    string // MAJOR:MINOR
	active bool
	inUse  bool // I/O goes there, if it is active
	busy   int  // I/O that was sent there and is not done
}

// parseStatus reads "2 0 0 0 2 1 A 0 1 1 254:1 A 0 7 E 0 1 1 254:2 F 1 0".
func parseStatus(text string) ([]path, error) {
	w := words{list: strings.Fields(text)}
	w.counted() // features
	w.counted() // hardware handler
	groups := w.number()
	inUse := w.next() // number of a group
	var out []path
	for i := range groups {
		w.next()    // state of the group
		w.counted() // what the selector says
		paths := w.number()
		if extra := w.next(); extra != "1" { // words that the selector adds to a path
			w.err = errStatus
		}
		for range paths {
			p := w.path()
			p.inUse = strconv.Itoa(i+1) == inUse
			out = append(out, p)
		}
	}
	if w.err != nil || len(out) == 0 {
		return nil, fmt.Errorf("%w: %q", errStatus, text)
	}
	return out, nil
}

// path reads "254:1 A 0 7". The last may be less than nothing, and then too small
// for good: I/O that failed once and is then given back to the device mapper, or
// fails because the table does not queue, is counted down twice (dm-mpath.c,
// process_queued_bios). That is after something was given up; a suspend may then
// have to wait.
func (w *words) path() path {
	p := path{dev: w.next()}
	state := w.next()
	w.next() // how often it failed
	busy, err := strconv.Atoi(w.next())
	if err != nil || !isDev(p.dev) || state != "A" && state != "F" {
		w.err = errStatus
	}
	p.active, p.busy = state == "A", max(busy, 0)
	return p
}

// parseTable says whether a table queues while it has no path.
func parseTable(text string) (queues bool, err error) {
	w := words{list: strings.Fields(text)}
	features := w.counted()
	if w.err != nil {
		return false, fmt.Errorf("%w: %q", w.err, text)
	}
	return slices.Contains(features, "queue_if_no_path"), nil
}

// parseLinear returns what a table leads to from its start on: "" if it is no
// linear one.
func parseLinear(t dm.Target) string {
	dev, offset, _ := strings.Cut(t.Text, " ")
	if t.Type != "linear" || offset != "0" || !isDev(dev) {
		return ""
	}
	return dev
}

// parseDelay says whether a table keeps whatever comes, or only what is written.
// Reads come first, and then what is written if that is another.
func parseDelay(t dm.Target) (waits, standsBy bool) {
	f := strings.Fields(t.Text)
	if t.Type != "delay" || len(f) < 3 {
		return false, false
	}
	return f[2] != "0", f[2] == "0"
}

// parseFlakey returns the disk that a wall passes for: "" if it is none.
func parseFlakey(t dm.Target) string {
	dev, rest, _ := strings.Cut(t.Text, " ")
	if t.Type != "flakey" || !strings.HasPrefix(rest, "0 0 1") || !isDev(dev) {
		return ""
	}
	return dev
}

var devNumber = regexp.MustCompile(`^[0-9]{1,9}:[0-9]{1,9}$`)

func isDev(s string) bool { return devNumber.MatchString(s) }
