//go:build linux && k8s

package kube_test

import (
	"context"
	"encoding/xml"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/kube"
)

var (
	pieces  = flag.String("pieces", "", "pieces of the Kubernetes project's tests of storage, with commas between; a dozen specs of all if empty")
	reports = flag.String("reports", "", "directory for the reports of pieces; one that has passed is not run again")
)

// dozen are the specs of the short form: each another way to use a volume.
var dozen = []string{
	"(default fs)] volumes should store data", "(block volmode)] volumes should store data", "(xfs)] volumes should store data",
	"(ext4)] volumes should allow exec of files on the volume", "(default fs)] provisioning should provision storage with mount options",
	"(default fs)] provisioning should mount multiple PV pointing to the same storage on the same node",
	"(OnRootMismatch)[LinuxOnly], pod created with an initial fsgroup, new pod fsgroup applied to volume contents",
	"read-write-once-pod should block a second pod", "(default fs)] subPath should support existing single file",
	"(block volmode)] multiVolume should access to two volumes with different volume mode and retain data across pod recreation on different node",
	"(filesystem volmode)] volumeMode should not mount / map unused volumes in a pod",
	"(default fs) (late-binding)] ephemeral should support multiple inline ephemeral volumes",
	"volumeLimits should verify that all csinodes have volume limits",
}

// left out of all pieces, and why:
//
//   - Disruptive: they stop the kubelet over SSH, which the machines have not; outages
//     stops it.
//   - any volume data source: needs images of a populator that cannot be had here.
//   - should support volume limits: fills a node up to its 200 volumes, which an emulated
//     node does not live through.
//   - performance: measures 300 volumes against limits in seconds that emulation breaks;
//     the campaigns of this directory have their own.
const leftOut = `Disruptive|any volume data source|should support volume limits|performance`

// The Kubernetes project's own tests of external storage drivers.
func externalStorage(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
	t.Cleanup(cancel) // after the pieces, which run at once
	install(t)
	if err := cluster.PrepareSuite(ctx); err != nil {
		t.Fatal(err)
	}
	if *pieces == "" {
		runDozen(ctx, t)
		return
	}
	for piece := range strings.SplitSeq(*pieces, ",") {
		t.Run(piece, func(t *testing.T) {
			t.Parallel()
			report := filepath.Join(*reports, strings.ReplaceAll(piece, " ", "-")+".xml")
			if o, err := readReport(report); err == nil && len(o.failed) == 0 && o.passed > 0 {
				t.Logf("passed before: %s: %s", report, o)
				return
			}
			runPiece(ctx, t, report, kube.Suite{Focus: external(`\] ` + piece + ` `)})
		})
	}
}

func runDozen(ctx context.Context, t *testing.T) {
	t.Helper()
	var quoted []string
	for _, name := range dozen {
		quoted = append(quoted, regexp.QuoteMeta(name))
	}
	o := runPiece(ctx, t, filepath.Join(t.TempDir(), "dozen.xml"), kube.Suite{Focus: external(strings.Join(quoted, "|"))})
	if o.passed+len(o.failed) != len(dozen) {
		t.Errorf("%d specs ran, %d are named", o.passed+len(o.failed), len(dozen))
	}
}

func external(focus string) string { return "External.Storage.*(" + focus + ")" }

// runPiece runs the specs that match.
func runPiece(ctx context.Context, t *testing.T, report string, s kube.Suite) outcome {
	t.Helper()
	log, err := os.Create(strings.TrimSuffix(report, ".xml") + ".log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	began := time.Now()
	s.Skip, s.Timeout, s.Output, s.Report = leftOut, "2h", log, report
	err = cluster.RunSuite(ctx, s)
	o, rerr := readReport(report)
	if rerr != nil {
		out, _ := os.ReadFile(log.Name())
		t.Fatalf("%v, %v\n%s", err, rerr, out[max(0, len(out)-4000):])
	}
	for _, f := range o.failed {
		t.Errorf("failed: %s", f)
	}
	if o.passed == 0 {
		t.Errorf("no spec matches %s", s.Focus)
	}
	if err != nil && len(o.failed) == 0 {
		t.Errorf("the suite: %v", err)
	}
	if len(o.failed) > 0 {
		keepLog(t, log.Name())
	}
	t.Logf("%s, in %s", o, time.Since(began).Round(time.Second))
	return o
}

// keepLog leaves the log of a failure where it can be read.
func keepLog(t *testing.T, path string) {
	t.Helper()
	out, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(cluster.Root(), "build", "e2e-storage-failed.log")
	if err := os.WriteFile(to, out, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Logf("the suite's own log: %s", to)
}

// outcome is what came of a run.
type outcome struct {
	passed int
	failed []string       // names
	spared map[string]int // how many skipped themselves, by the reason that they gave
}

func (o outcome) String() string {
	text := fmt.Sprintf("%d specs passed, %d failed", o.passed, len(o.failed))
	for _, reason := range slices.Sorted(maps.Keys(o.spared)) {
		text += fmt.Sprintf("; %d skipped: %s", o.spared[reason], reason)
	}
	return text
}

// readReport reads JUnit XML. Those that nobody asked for are skipped, too, without a
// reason, and are not counted.
func readReport(path string) (outcome, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return outcome{}, err
	}
	var report struct {
		Suites []struct {
			Cases []struct {
				Name    string `xml:"name,attr"`
				Status  string `xml:"status,attr"`
				Skipped struct {
					Message string `xml:"message,attr"`
				} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b, &report); err != nil {
		return outcome{}, fmt.Errorf("%s: %w", path, err)
	}
	o := outcome{spared: map[string]int{}}
	for _, s := range report.Suites {
		for _, c := range s.Cases {
			_, reason, gave := strings.Cut(c.Skipped.Message, "skipped - ")
			switch {
			case !strings.Contains(c.Name, "External Storage"):
			case c.Status == "passed":
				o.passed++
			case gave:
				o.spared[reason]++
			case c.Status != "skipped":
				o.failed = append(o.failed, c.Status+" "+c.Name)
			}
		}
	}
	slices.Sort(o.failed)
	return o, nil
}
