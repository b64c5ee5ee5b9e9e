//go:build linux && vm

package nvmesysfs_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/test/vm"
)

// TestBootedOff boots machines without native multipath and runs
// TestMultipathOff in them. Its log has the recordings.
func TestBootedOff(t *testing.T) {
	program := filepath.Join(t.TempDir(), "nvmesysfs.test")
	if out, err := exec.Command("go", "test", "-c", "-tags", "kernel", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, kernel := range []string{"6.12", "6.1"} {
		t.Run(kernel, func(t *testing.T) {
			lab, err := vm.NewLab(t.Context(), vm.LabConfig{
				Name: "multipath-off", Kernel: kernel, Log: t.Logf, Files: []vm.File{{Host: program, Guest: "/bin/nvmesysfs.test"}},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer lab.Close()
			m, err := lab.Add(vm.MachineConfig{Name: "m", KernelArgs: []string{"nvme_core.multipath=N"}})
			if err != nil {
				t.Fatal(err)
			}
			if err := lab.Boot(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			out, err := m.Run(t.Context(), "/bin/nvmesysfs.test", "-test.v", "-test.run", "MultipathOff", "-record")
			t.Log("\n" + out.Stdout)
			if err != nil || !strings.Contains(out.Stdout, "--- PASS: TestMultipathOff") {
				t.Fatal(err)
			}
		})
	}
}
