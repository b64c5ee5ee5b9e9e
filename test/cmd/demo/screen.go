package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/test/ack"
	"github.com/holdfast-csi/holdfast/test/cluster"
	"github.com/holdfast-csi/holdfast/test/report"
)

// screen prints for people: on a terminal with colour and one line that moves,
// elsewhere with a line every few seconds.
type screen struct {
	w        io.Writer
	terminal bool
	drawn    bool      // a moving line stands on the terminal
	said     time.Time // of the last plain live line
	before   map[string]int
	at       time.Time
}

func newScreen(f *os.File) *screen {
	info, err := f.Stat()
	return &screen{w: f, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("NO_COLOR") == "", before: map[string]int{}}
}

const (
	bold, dim, green, yellow, red, reset = "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[0m"
)

func (s *screen) color(code, text string) string {
	if !s.terminal {
		return text
	}
	return code + text + reset
}

func (s *screen) printf(format string, args ...any) { fmt.Fprintf(s.w, format, args...) }

func (s *screen) title() {
	s.printf("\n  %s   Kubernetes volumes over NVMe/TCP that never let go\n\n", s.color(bold, "HOLDFAST"))
}

func (s *screen) step(text string) { s.printf("  %s\n", s.color(dim, text)) }

func (s *screen) chapter(text string) { s.printf("\n  %s\n", s.color(bold, text)) }

func (s *screen) note(text string) { s.printf("    %s\n", s.color(dim, text)) }

func (s *screen) machines(kernel, accel, storage, node, nodeID string) {
	how := map[string]string{"tcg": "processor emulated, so everything is several times slower than on metal", "kvm": "KVM"}[accel]
	s.printf("\n    kernel        Linux %s  (%s)\n", kernel, how)
	s.printf("    storage host  %-14s kernel NVMe/TCP target, file pool on XFS, disk with a volatile cache\n", storage)
	s.printf("    node          %-14s %s\n", node, nodeID)
}

func (s *screen) provisioned(v *cluster.Volume, took time.Duration) {
	what := "raw block"
	if v.FSType != "" {
		what = v.FSType
	}
	s.printf("    %s %-13s %4d MiB  %-9s  from request to pod in %.1f s\n", s.color(green, "✓"), v.Name, v.SizeBytes>>20, what, took.Seconds())
}

var guards = map[string]string{"kernel": "the kernel's delayed removal", "dm": "a device-mapper table each"}

func (s *screen) sessions(volumes int, sessions, guard string) {
	s.printf("    %s %d volumes, NVMe connections in use: %s, guarded by %s\n", s.color(green, "✓"), volumes, strings.TrimSpace(sessions), guards[guard])
	s.printf("    %s\n", s.color(dim, "each volume now has a writer: random 4 KiB blocks, each flushed, each acknowledgement logged outside"))
}

type volumeLine struct {
	name   string
	acked  int
	errors int
	health string
}

// plainEvery is how often a line is printed where no line can move.
const plainEvery = 4 * time.Second

func (s *screen) live(since time.Duration, vs []volumeLine) {
	if !s.terminal && time.Since(s.said) < plainEvery {
		return
	}
	elapsed := time.Since(s.at).Seconds()
	var parts []string
	for _, v := range vs {
		rate := 0.0
		if !s.at.IsZero() && elapsed > 0 {
			rate = float64(v.acked-s.before[v.name]) / elapsed
		}
		s.before[v.name] = v.acked
		parts = append(parts, fmt.Sprintf("%s %s %5.1f writes/s  %s  errors %d", v.name, s.bar(rate), rate, s.state(v.health), v.errors))
	}
	s.at, s.said = time.Now(), time.Now()
	line := fmt.Sprintf("    %5.1f s  %s", since.Seconds(), strings.Join(parts, "   "))
	if s.terminal {
		s.printf("\r\x1b[2K%s", line)
		s.drawn = true
		return
	}
	s.printf("%s\n", line)
}

func (s *screen) endLive() {
	if s.drawn {
		s.printf("\n")
		s.drawn = false
	}
	s.said = time.Time{}
}

// bar shows a rate of 0 to 50 writes a second in eight cells.
func (s *screen) bar(rate float64) string {
	n := min(8, int(rate/6+0.5))
	if n == 0 && rate > 0 {
		n = 1
	}
	return s.color(green, strings.Repeat("█", n)) + strings.Repeat("·", 8-n)
}

func (s *screen) state(health string) string {
	padded := fmt.Sprintf("%-12s", health)
	switch health {
	case "Connected":
		return s.color(green, padded)
	case "Reconnecting":
		return s.color(yellow, padded)
	default:
		return s.color(red, padded)
	}
}

var back = map[string]string{"cable": "the cable is plugged in again", "refused": "connections are accepted again", "power": "the storage host listens again",
	"dnr": "the subsystem is there again", "admin": "nothing is healed by hand"}

func (s *screen) healed(kind string) { s.printf("    %s %s\n", s.color(green, "↑"), back[kind]) }

func (s *screen) outage(o report.Outage) {
	mark := s.color(green, "✓")
	if !o.OK {
		mark = s.color(red, "✗")
	}
	s.printf("    %s I/O waited %.1f s and went on by itself %.1f s after healing\n", mark, o.WaitedS, o.ResumedAfterHealS)
}

func (s *screen) verified(v *running, r ack.Result) {
	mark := s.color(green, "✓")
	if r.Lost+r.Corrupt+len(v.log.Errors()) > 0 {
		mark = s.color(red, "✗")
	}
	where := "read from the storage host's file"
	if v.FSType != "" {
		where = "read through a new mount"
	}
	s.printf("    %s %-13s %5d acknowledged writes on %d blocks, %s: %d lost, %d wrong, %d I/O errors\n",
		mark, v.Name, v.log.Acked(), r.Blocks, where, r.Lost, r.Corrupt, len(v.log.Errors()))
	for _, d := range r.Details {
		s.printf("        %s\n", d)
	}
}

func (s *screen) summary(r *report.Report, path string) {
	s.printf("\n    %-10s %10s %10s %14s %8s\n", "outage", "lasted", "I/O waited", "back after", "errors")
	for _, o := range r.Outages {
		s.printf("    %-10s %8.1f s %8.1f s %12.1f s %8d\n", o.Kind, o.HealedS-o.InjectedS, o.WaitedS, o.ResumedAfterHealS, r.IOErrors)
	}
	verdict := s.color(green, "Every acknowledged byte is there. No I/O error, no manual step.")
	if !r.Passed {
		verdict = s.color(red, "The promise was broken in this run.")
	}
	s.printf("\n    %d writes acknowledged, %d lost, %d wrong, %d I/O errors, %d manual steps\n    %s\n    %s\n\n",
		r.AckedWrites, r.LostWrites, r.CorruptReads, r.IOErrors, r.ManualSteps, s.color(bold, verdict), s.color(dim, path))
}
