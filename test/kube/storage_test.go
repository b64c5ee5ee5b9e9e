//go:build linux && k8s

package kube_test

import (
	"context"
	"encoding/xml"
	"flag"
	"fmt"
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
	"(filesystem volmode)] multiVolume should access to two volumes with different volume mode and retain data across pod recreation on different node",
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
		var quoted []string
		for _, name := range dozen {
			quoted = append(quoted, regexp.QuoteMeta(name))
		}
		ran := runPiece(ctx, t, filepath.Join(t.TempDir(), "dozen.xml"), strings.Join(quoted, "|"))
		if ran != len(dozen) {
			t.Errorf("%d specs ran, %d are named", ran, len(dozen))
		}
		return
	}
	for piece := range strings.SplitSeq(*pieces, ",") {
		t.Run(piece, func(t *testing.T) {
			t.Parallel()
			report := filepath.Join(*reports, strings.ReplaceAll(piece, " ", "-")+".xml")
			if ran, failed, err := readReport(report); err == nil && len(failed) == 0 && ran > 0 {
				t.Logf("passed before: %s", report)
				return
			}
			runPiece(ctx, t, report, `\] `+piece+` `)
		})
	}
}

// runPiece runs the specs that match, and says how many ran.
func runPiece(ctx context.Context, t *testing.T, report, focus string) int {
	t.Helper()
	log, err := os.Create(strings.TrimSuffix(report, ".xml") + ".log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	began := time.Now()
	err = cluster.RunSuite(ctx, kube.Suite{Focus: `External.Storage.*(` + focus + `)`, Skip: leftOut, Timeout: "2h", Output: log, Report: report})
	ran, failed, rerr := readReport(report)
	if rerr != nil {
		out, _ := os.ReadFile(log.Name())
		t.Fatalf("%v, %v\n%s", err, rerr, out[max(0, len(out)-4000):])
	}
	for _, f := range failed {
		t.Errorf("failed: %s", f)
	}
	if ran == 0 {
		t.Errorf("no spec matches %s", focus)
	}
	if err != nil && len(failed) == 0 {
		t.Errorf("the suite: %v", err)
	}
	if len(failed) > 0 {
		keepLog(t, log.Name())
	}
	t.Logf("%d specs passed, %d failed, in %s", ran-len(failed), len(failed), time.Since(began).Round(time.Second))
	return ran
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

// readReport reads JUnit XML: how many specs ran, and the names of those that failed.
// Those that skip themselves, because the driver has not what they need, are not
// counted.
func readReport(path string) (ran int, failed []string, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, nil, err
	}
	var report struct {
		Suites []struct {
			Cases []struct {
				Name   string `xml:"name,attr"`
				Status string `xml:"status,attr"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b, &report); err != nil {
		return 0, nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, s := range report.Suites {
		for _, c := range s.Cases {
			if !strings.Contains(c.Name, "External Storage") || c.Status == "skipped" {
				continue
			}
			ran++
			if c.Status != "passed" {
				failed = append(failed, c.Status+" "+c.Name)
			}
		}
	}
	slices.Sort(failed)
	return ran, failed, nil
}
