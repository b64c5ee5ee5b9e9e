//go:build linux && k8s && long

package scale_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report prints what was measured. Nothing of it is judged: machines differ.
func (s *trial) report(made, deleted time.Duration) {
	s.Helper()
	var text strings.Builder
	fmt.Fprintf(&text, "\n%d nodes, %d volumes, %d storage hosts, the controller's pod killed %d times\n", *nodes, *volumes, *hosts, len(s.killed))
	asked := s.readAudit()
	s.times(&text, made, deleted, asked)
	s.latencies(&text)
	s.memory(&text)
	s.calls(&text, asked)
	s.Log(text.String())
}

func table(text *strings.Builder, head ...string) *tabwriter.Writer {
	w := tabwriter.NewWriter(text, 0, 0, 2, ' ', tabwriter.AlignRight)
	text.WriteByte('\n')
	row(w, head...)
	return w
}

// row right-aligns all columns, the last one too.
func row(w *tabwriter.Writer, cells ...string) { fmt.Fprintln(w, strings.Join(cells, "\t")+"\t") }

// ends is how many of the first and of the last things are compared.
func ends() int { return min(500, *volumes/4) }

func (s *trial) times(text *strings.Builder, made, deleted time.Duration, asked *audit) {
	fmt.Fprintf(text, "\nall made, attached and running after %s (%.1f a second), all deleted after %s (%.1f a second)\n",
		made.Round(time.Second), float64(*volumes)/made.Seconds(), deleted.Round(time.Second), float64(*volumes)/deleted.Seconds())
	w := table(text, "a second", fmt.Sprintf("the first %d", ends()), fmt.Sprintf("the last %d", ends()))
	for _, what := range []struct {
		name string
		at   []time.Time
	}{
		{"volumes made", asked.when["csi-provisioner create persistentvolumes"]},
		{"volumes attached", slices.SortedFunc(maps.Values(asked.done), time.Time.Compare)},
		{"volumes deleted", slices.SortedFunc(maps.Values(asked.deleted), time.Time.Compare)},
	} {
		row(w, what.name, rate(what.at[:min(ends(), len(what.at))]), rate(what.at[max(0, len(what.at)-ends()):]))
	}
	w.Flush()
	fmt.Fprintf(text, "\nfrom the attachment's making until it is attached: half within %s, 99 of 100 within %s\n", quantile(asked.attaching(), 50), quantile(asked.attaching(), 99))
}

func rate(at []time.Time) string {
	if len(at) < 2 {
		return "-"
	}
	return fmt.Sprintf("%.1f", float64(len(at)-1)/at[len(at)-1].Sub(at[0]).Seconds())
}

// quantile is of durations in any order.
func quantile(all []time.Duration, percent int) string {
	if len(all) == 0 {
		return "-"
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[(len(sorted)-1)*percent/100].Round(time.Millisecond).String()
}

// latencies are those of the controller's calls, as it logs them.
func (s *trial) latencies(text *strings.Builder) {
	s.Helper()
	took, putOff := map[string][]time.Duration{}, map[string]int{}
	s.eachLogged("holdfast", func(l logged) {
		switch l.Msg {
		case "call":
			took[l.Method] = append(took[l.Method], l.Took)
		case "call put off":
			putOff[l.Method]++
		}
	})
	w := table(text, "the controller's calls", "number", "put off", "p50", "p99", "max", fmt.Sprintf("p50 of the first %d", ends()), "of the last", "p99 of the first", "of the last")
	for _, method := range []string{"CreateVolume", "ControllerPublishVolume", "ControllerUnpublishVolume", "DeleteVolume"} {
		all := took[method]
		first, last := all[:min(ends(), len(all))], all[max(0, len(all)-ends()):]
		row(w, method, fmt.Sprint(len(all)), fmt.Sprint(putOff[method]), quantile(all, 50), quantile(all, 99), quantile(all, 100),
			quantile(first, 50), quantile(last, 50), quantile(first, 99), quantile(last, 99))
	}
	w.Flush()
}

// memory is what each process held at the marks, and what it took of the processors.
func (s *trial) memory(text *strings.Builder) {
	s.Helper()
	head := []string{"memory (RssAnon)"}
	for _, m := range s.watch.marks {
		head = append(head, m.name)
	}
	w := table(text, append(head, "peak", "CPU seconds", "ms a volume")...)
	last := s.watch.marks[len(s.watch.marks)-1].grouped()
	for _, name := range slices.Sorted(maps.Keys(last)) {
		cells := []string{name}
		for _, m := range s.watch.marks {
			cells = append(cells, mib(m.grouped()[name].anon))
		}
		row(w, append(cells, mib(last[name].peak), fmt.Sprintf("%.0f", last[name].cpu), fmt.Sprintf("%.1f", last[name].cpu/float64(*volumes)*1000))...)
	}
	w.Flush()
	fmt.Fprintf(text, "(agent: the largest of %d, with its model of the kernel; CPU of all)\n", *hosts)
}

// calls are those to the API server, of the driver's pod.
func (s *trial) calls(text *strings.Builder, asked *audit) {
	s.Helper()
	all, byPhase := map[string]int{}, make([]map[string]int, len(s.watch.marks))
	for i := range byPhase {
		byPhase[i] = map[string]int{}
	}
	for key, at := range asked.when {
		for _, t := range at {
			for i, m := range s.watch.marks {
				if t.Before(m.at) {
					byPhase[i][key]++
					all[key]++
					break
				}
			}
		}
	}
	w := table(text, "API calls a volume", "until all are attached", "until all are deleted")
	var sum [3]int
	for _, key := range slices.Sorted(maps.Keys(all)) {
		up, down := byPhase[1][key], byPhase[2][key]
		sum[1], sum[2] = sum[1]+up, sum[2]+down
		if up+down > *volumes/20 {
			row(w, key, perVolume(up), perVolume(down))
		}
	}
	row(w, "all of the driver's pod", perVolume(sum[1]), perVolume(sum[2]))
	w.Flush()
	for _, key := range slices.Sorted(maps.Keys(asked.refused)) {
		fmt.Fprintf(text, "refused: %s, %d times\n", key, asked.refused[key])
	}
}

func perVolume(n int) string { return fmt.Sprintf("%.2f", float64(n)/float64(*volumes)) }
