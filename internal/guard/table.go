package guard

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-csi/holdfast/internal/dm"
)

// Prefix marks our tables' UUIDs. multipathd takes only those that begin with
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

const sectorSize = 512

// Path is the device below.
type Path struct {
	Disk         string // for messages
	Node         string // its node under /dev
	Major, Minor uint32
	SizeBytes    int64
}

func (p Path) dev() string { return fmt.Sprintf("%d:%d", p.Major, p.Minor) }

// multipathTable is one path in one group. queue_mode bio lets bios through one
// by one, without requests of its own; it has to be the table's mode from the
// start (Documentation/admin-guide/device-mapper, dm-mpath.c). Of the selectors
// queue-length is the one that says how much I/O is under way below.
func multipathTable(p Path, readOnly bool) dm.Table {
	return dm.Table{
		Sectors: uint64(p.SizeBytes / sectorSize), Target: "multipath", ReadOnly: readOnly,
		Params: "3 queue_if_no_path queue_mode bio 0 1 1 queue-length 0 1 1 " + p.dev() + " 1",
	}
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

// counted reads a number and that many words.
func (w *words) counted() []string {
	n, err := strconv.Atoi(w.next())
	if err != nil || n < 0 || n > len(w.list) {
		w.err = errStatus
		return nil
	}
	out := w.list[:n]
	w.list = w.list[n:]
	return out
}

// path is what a status says of the one path.
type path struct {
	dev    string // MAJOR:MINOR
	active bool
	below  int // I/O that was sent there and is not done
}

// parseStatus reads "2 0 0 0 1 1 A 0 1 1 259:3 A 0 7". The last may be less than
// nothing: I/O that failed once and is then given back to the device mapper is
// counted down twice (dm-mpath.c, process_queued_bios). That needs a suspend, or
// that waiting was given up; after either nothing depends on the count.
func parseStatus(text string) (path, error) {
	w := words{list: strings.Fields(text)}
	w.counted() // features
	w.counted() // hardware handler
	groups := w.next()
	w.next()    // number of the group in use
	w.next()    // state of the group
	w.counted() // what the selector says
	paths := w.next()
	words := w.next() // that the selector adds to a path
	p := path{dev: w.next()}
	state := w.next()
	w.next() // how often it failed
	below, err := strconv.Atoi(w.next())
	if w.err == nil && (err != nil || groups != "1" || paths != "1" || words != "1" || !isDev(p.dev) || state != "A" && state != "F") {
		w.err = errStatus
	}
	if w.err != nil {
		return path{}, fmt.Errorf("%w: %q", w.err, text)
	}
	p.active, p.below = state == "A", max(below, 0)
	return p, nil
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

var devNumber = regexp.MustCompile(`^[0-9]{1,9}:[0-9]{1,9}$`)

func isDev(s string) bool { return devNumber.MatchString(s) }
