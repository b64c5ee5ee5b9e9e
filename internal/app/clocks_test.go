package app

import (
	"testing"
	"time"
)

// The clocks of the wall and of the boot are joined at one moment only; what the
// wall shows later changes nothing.
func TestClocksOverARestart(t *testing.T) {
	t.Parallel()
	before := moment{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), uptime: 100 * time.Second}
	kept := before.toBoot(before.now.Add(-30 * time.Second))
	if kept != 70*time.Second {
		t.Fatalf("since boot: %v", kept)
	}
	for name, after := range map[string]moment{
		"ten seconds later":        {before.now.Add(10 * time.Second), 110 * time.Second},
		"the wall clock is behind": {before.now.Add(-24 * time.Hour), 110 * time.Second},
		"the wall clock is ahead":  {before.now.Add(24 * time.Hour), 110 * time.Second},
	} {
		if got := after.now.Sub(after.fromBoot(kept)); got != 40*time.Second {
			t.Errorf("%s: it has lasted %v", name, got)
		}
	}
	if got := before.fromBoot(200 * time.Second); !got.Equal(before.now) {
		t.Errorf("from the future: %v", got)
	}
	if before.toBoot(time.Time{}) != 0 || !before.fromBoot(0).IsZero() {
		t.Error("a clock that does not run has begun to")
	}
	if got := before.toBoot(before.now.Add(-time.Hour)); got <= 0 {
		t.Errorf("from before the boot: %v, which would be none", got)
	}
}
