package retirement

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/internal/pause"
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
	told map[string]time.Time // by host: the declaration that it has heard; used by Run alone

	mu       sync.Mutex
	declared map[string]time.Time // by host; guarded by mu
	said     string               // last error; guarded by mu
}

// New returns a Keeper that knows of no declaration.
func New(o Options) *Keeper { return &Keeper{Options: o, told: map[string]time.Time{}} }

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
	heard := make(chan string, len(k.Hosts))
	var wg sync.WaitGroup
	told := map[string]time.Time{}
	for name, host := range k.Hosts {
		at, gone := k.Declared(name)
		if !gone {
			continue
		}
		told[name] = k.told[name]
		wg.Go(func() {
			if host.Retire(ctx, at) == nil { // an error is to be expected
				heard <- name
			}
		})
	}
	wg.Wait()
	close(heard)
	for name := range heard {
		if at, _ := k.Declared(name); !told[name].Equal(at) {
			told[name] = at
			k.Log.Warn("a storage host that was declared gone for good answers; it exports nothing until it is admitted", "host", name)
		}
	}
	k.told = told
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
		at, err := Parse(host, texts[host])
		if err != nil {
			bad = append(bad, err)
			continue
		}
		declared[host] = at
	}
	return declared, bad
}
