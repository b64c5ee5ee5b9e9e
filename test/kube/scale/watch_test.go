//go:build linux && k8s && long

package scale_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// usage is what the processes of one name have taken so far.
type usage struct {
	anon, peak int64   // KiB of memory that no file backs: now, and at most
	cpu        float64 // seconds, of this process
	before     float64 // seconds, of those before it
	pid        int
}

// watch looks at all processes once a second.
type watch struct {
	s     *trial
	mu    sync.Mutex
	by    map[string]*usage // guarded by mu
	marks []mark            // guarded by mu
}

// mark is how things stood at a moment.
type mark struct {
	name string
	at   time.Time
	by   map[string]usage
}

const lookTime = time.Second

func (s *trial) newWatch() *watch {
	w := &watch{s: s, by: map[string]*usage{}}
	go func() {
		for t := time.NewTicker(lookTime); s.ctx.Err() == nil; <-t.C {
			w.look()
		}
	}()
	return w
}

func (w *watch) look() {
	pids, err := w.s.cluster.Processes()
	if err != nil {
		return // whoever waits says so
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, pid := range pids {
		anon, cpu, err := taken(pid)
		if err != nil {
			continue // it is just being killed
		}
		u := w.by[name]
		if u == nil {
			u = &usage{pid: pid}
			w.by[name] = u
		}
		if u.pid != pid {
			u.before, u.pid = u.before+u.cpu, pid
		}
		u.anon, u.peak, u.cpu = anon, max(u.peak, anon), cpu
	}
}

func (w *watch) peak(name string) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.by[name].peak
}

func (s *trial) mark(name string) {
	s.watch.look()
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	m := mark{name, time.Now(), map[string]usage{}}
	for name, u := range s.watch.by {
		m.by[name] = *u
	}
	s.watch.marks = append(s.watch.marks, m)
}

// ticksPerSecond is USER_HZ, which is the same on all of Linux's architectures that
// Kubernetes has nodes of.
const ticksPerSecond = 100

// taken reads what a process holds in memory, in KiB, and its seconds of processor.
func taken(pid int) (anon int64, cpu float64, err error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return 0, 0, err
	}
	_, rest, found := strings.Cut(string(status), "\nRssAnon:")
	if !found {
		return 0, 0, fmt.Errorf("process %d has no memory", pid)
	}
	if anon, err = strconv.ParseInt(strings.Fields(rest)[0], 10, 64); err != nil {
		return 0, 0, err
	}
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return 0, 0, err
	}
	// Fields 14 and 15 of proc_pid_stat(5); the second may have blanks in it.
	const user, system = 11, 12
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	u, err1 := strconv.ParseFloat(f[user], 64)
	k, err2 := strconv.ParseFloat(f[system], 64)
	if err1 != nil || err2 != nil {
		return 0, 0, fmt.Errorf("process %d: %v, %v", pid, err1, err2)
	}
	return anon, (u + k) / ticksPerSecond, nil
}

// group is the name under which a process is reported: all storage hosts are one, of
// which the largest counts.
func group(name string) string {
	if strings.HasPrefix(name, "box") {
		return "agent"
	}
	return name
}

// grouped are the usages of a mark by group: the largest memory, the sum of processor.
func (m mark) grouped() map[string]usage {
	out := map[string]usage{}
	for name := range maps.Keys(m.by) {
		u, g := m.by[name], out[group(name)]
		g.anon, g.peak, g.cpu = max(g.anon, u.anon), max(g.peak, u.peak), g.cpu+u.cpu+u.before
		out[group(name)] = g
	}
	return out
}
