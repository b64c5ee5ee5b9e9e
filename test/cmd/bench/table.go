package main

import (
	"fmt"
	"io"
	"slices"
)

// memory of the node plugin, in MiB.
type memory struct {
	RSSMiB  float64 `json:"rss_mib"`
	AnonMiB float64 `json:"anon_mib"`
}

// result holds seconds, one element a sample.
type result struct {
	Kernel string `json:"kernel"`
	Accel  string `json:"accel"`

	FloorFresh          []float64 `json:"shell_fresh_s"`
	FloorFormatted      []float64 `json:"shell_formatted_s"`
	FloorTeardown       []float64 `json:"shell_teardown_s"`
	FloorBurstFresh     float64   `json:"shell_ten_fresh_s"`
	FloorBurstFormatted float64   `json:"shell_ten_formatted_s"`

	FirstFresh         []float64 `json:"first_fresh_s"`
	FirstFormatted     []float64 `json:"first_formatted_s"`
	TwentiethFresh     []float64 `json:"twentieth_fresh_s"`
	TwentiethFormatted []float64 `json:"twentieth_formatted_s"`
	Teardown           []float64 `json:"teardown_s"`
	TeardownShared     []float64 `json:"teardown_shared_session_s"`
	BurstFresh         float64   `json:"ten_fresh_s"`
	BurstFormatted     float64   `json:"ten_formatted_s"`
	Idle               memory    `json:"memory_idle"`
	Loaded             memory    `json:"memory_19_volumes"`

	WatchShare float64 `json:"watch_200_idle_share_of_a_core"`
	// WatchMedian is that of single seconds: without the look at everything that
	// there is every thirty.
	WatchMedian float64 `json:"watch_200_idle_share_median_second"`
	Watching    memory  `json:"memory_200_volumes"`

	DataPath []throughput `json:"data_path"`
}

// print leaves out what was not measured.
func (b *bench) print(w io.Writer) {
	r := b.result
	fmt.Fprintf(w, "\n  Holdfast against the bare sequence of a shell (nvme connect, blkid, mkfs, mount, bind)\n")
	fmt.Fprintf(w, "  Linux %s, %s; ext4, %d MiB; medians of this run, ratios are what counts\n\n", r.Kernel, r.Accel, volumeSize>>20)
	fmt.Fprintf(w, "  %-44s %9s %9s %7s   %s\n", "stage + publish", "Holdfast", "shell", "ratio", "Holdfast min … max")
	row := func(what string, ours, floor []float64) {
		if len(ours) == 0 || len(floor) == 0 {
			return
		}
		fmt.Fprintf(w, "  %-44s %7.2f s %7.2f s %7.2f   %.2f … %.2f\n", what, median(ours), median(floor), median(ours)/median(floor), slices.Min(ours), slices.Max(ours))
	}
	row("1st volume of a node, fresh", r.FirstFresh, r.FloorFresh)
	row("1st volume of a node, formatted before", r.FirstFormatted, r.FloorFormatted)
	row("20th volume, fresh", r.TwentiethFresh, r.FloorFresh)
	row("20th volume, formatted before (no mkfs)", r.TwentiethFormatted, r.FloorFormatted)
	row("ten at once, fresh", measured(r.BurstFresh), measured(r.FloorBurstFresh))
	row("ten at once, formatted before", measured(r.BurstFormatted), measured(r.FloorBurstFormatted))
	row("unpublish + unstage, last of its session", r.Teardown, r.FloorTeardown)
	row("unpublish + unstage, session stays", r.TeardownShared, r.FloorTeardown)
	b.printCost(w)
}

// measured is one sample, or none.
func measured(seconds float64) []float64 {
	if seconds == 0 {
		return nil
	}
	return []float64{seconds}
}

func (b *bench) printCost(w io.Writer) {
	r := b.result
	if r.Idle.RSSMiB > 0 {
		fmt.Fprintf(w, "\n  node plugin: %.1f MiB resident when idle (%.1f anonymous)\n", r.Idle.RSSMiB, r.Idle.AnonMiB)
	}
	if r.Loaded.RSSMiB > 0 {
		fmt.Fprintf(w, "  node plugin: %.1f MiB with %d volumes (%.1f anonymous)\n", r.Loaded.RSSMiB, before, r.Loaded.AnonMiB)
	}
	if r.Watching.RSSMiB > 0 {
		fmt.Fprintf(w, "  watching %d idle volumes under dm: %.2f %% of a core (median second %.2f %%), %.1f MiB resident (%.1f anonymous)\n", watched, 100*r.WatchShare, 100*r.WatchMedian, r.Watching.RSSMiB, r.Watching.AnonMiB)
	}
	if len(r.DataPath) == 0 {
		return
	}
	fmt.Fprintf(w, "\n  %-44s %9s %9s %7s   %s\n", "I/O per second, medians", "with dm", "without", "ratio", "with: min … max   without: min … max")
	for _, t := range r.DataPath {
		fmt.Fprintf(w, "  %-44s %9.0f %9.0f %7.2f   %.0f … %.0f   %.0f … %.0f\n", t.Pattern, median(t.Table), median(t.Beside), t.Ratio,
			slices.Min(t.Table), slices.Max(t.Table), slices.Min(t.Beside), slices.Max(t.Beside))
	}
}
