package retirement

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/internal/pause"
	"github.com/holdfast-csi/holdfast/internal/rpcerr"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

const (
	// every is how often the declarations are read, and told to those that are back.
	every = 15 * time.Second
	// readTime and tellTime bound one reading and one telling.
	readTime = 5 * time.Second
	tellTime = 5 * time.Second
)

// Options are what a Keeper needs.
type Options struct {
	// Hosts are the storage hosts by name.
	Hosts map[string]volume.Retiree
	// Read returns the declarations: the time of each, in the form of Format, by
	// the host's name.
	Read func(ctx context.Context) (map[string]string, error)
	Log  *slog.Logger
}

// Keeper knows which storage hosts were declared gone, and tells those that are back.
type Keeper struct {
	Options
	told map[string]string // by host: what was said of its answer; used by Run alone

	mu       sync.Mutex
	declared map[string]time.Time // by host; guarded by mu
	said     string               // last error; guarded by mu
}

// New returns a Keeper that knows of no declaration.
func New(o Options) *Keeper { return &Keeper{Options: o, told: map[string]string{}} }

// Declared says when a host was declared gone, if it was.
func (k *Keeper) Declared(host string) (time.Time, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	at, gone := k.declared[host]
	return at, gone
}

// Run reads and tells until ctx ends. Refresh before it, and nothing is asked of a
// host that is gone even at the start.
func (k *Keeper) Run(ctx context.Context) {
	for {
		k.tell(ctx)
		if !pause.For(ctx, every) {
			return
		}
		k.Refresh(ctx)
	}
}

// Refresh reads the declarations. If that fails what was known stays.
func (k *Keeper) Refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	texts, err := k.Read(ctx)
	if err != nil {
		k.complain(fmt.Sprintf("which storage hosts were declared gone cannot be read; what was known holds: %v", err))
		return
	}
	declared, bad := parse(texts)
	if len(bad) > 0 {
		k.complain(fmt.Sprintf("declarations that say nothing: %v", bad))
	} else {
		k.complain("")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for host, at := range declared {
		if !k.declared[host].Equal(at) {
			k.Log.Warn("a storage host was declared gone for good", "host", host, "declared", at)
		}
	}
	k.declared = declared
}

// complain says once what is wrong; "" is nothing.
func (k *Keeper) complain(what string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if what != "" && what != k.said {
		k.Log.Error(what)
	}
	k.said = what
}

// tell tells each host that was declared gone so, in case it is back.
func (k *Keeper) tell(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	heard := make(chan answer, len(k.Hosts))
	var wg sync.WaitGroup
	told := map[string]string{}
	for name, host := range k.Hosts {
		at, gone := k.Declared(name)
		if !gone {
			continue
		}
		told[name] = k.told[name]
		wg.Go(func() {
			if err := host.Retire(ctx, at); !rpcerr.Unanswered(err) { // silence is to be expected
				heard <- answer{name, at, err}
			}
		})
	}
	wg.Wait()
	close(heard)
	for a := range heard {
		says := "it exports nothing until it is admitted"
		if a.err != nil {
			says = "AND DOES NOT TAKE THE WORD, SO IT MAY EXPORT: " + a.err.Error()
		}
		if told[a.host] == says {
			continue
		}
		told[a.host] = says
		k.Log.Warn("a storage host that was declared gone for good answers: "+says, "host", a.host, "declared", a.at)
	}
	k.told = told
}

// answer is what a host that was declared gone has said to that.
type answer struct {
	host string
	at   time.Time
	err  error
}

// admittedSuffix marks in the ConfigMap, beside the declarations, what was taken back
// last: a host's name has no dot.
const admittedSuffix = ".admitted"

// AdmittedKey is where the last declaration is kept that was taken back.
func AdmittedKey(host string) string { return host + admittedSuffix }

// Next is the time of a new declaration: now, but later than the last that was taken
// back, whatever the clock of the machine says that declared it.
func Next(host string, texts map[string]string, now time.Time) time.Time {
	if last, err := Parse(host, texts[AdmittedKey(host)]); err == nil && !now.After(last) {
		return last.Add(1)
	}
	return now
}

// Format writes the time of a declaration; nanoseconds are kept, because the time is
// the declaration's name.
func Format(at time.Time) string { return at.UTC().Format(time.RFC3339Nano) }

// Parse reads what Format has written, or any time in the form of RFC 3339.
func Parse(host, text string) (time.Time, error) {
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || at.IsZero() {
		return time.Time{}, fmt.Errorf("storage host %s: value %q: want the time of the declaration in the form of RFC 3339: %w", host, text, volume.ErrInvalid)
	}
	return at, nil
}

func parse(texts map[string]string) (declared map[string]time.Time, bad []error) {
	declared = map[string]time.Time{}
	for _, host := range slices.Sorted(maps.Keys(texts)) {
		if strings.HasSuffix(host, admittedSuffix) {
			continue
		}
		at, err := Parse(host, texts[host])
		if err != nil {
			bad = append(bad, err)
			continue
		}
		declared[host] = at
	}
	return declared, bad
}
