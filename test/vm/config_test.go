//go:build linux

package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMachineDefaults(t *testing.T) {
	cfg, err := MachineConfig{Name: "a"}.withDefaults(3)
	if err != nil || cfg.CPUs != 2 || cfg.MemoryMiB != 1024 || cfg.DiskFS != "xfs" || len(cfg.LANs) != 1 ||
		cfg.LANs[0] != (LANAddress{"storage", "10.77.0.13/24"}) {
		t.Errorf("got %+v, %v", cfg, err)
	}
	cfg, err = MachineConfig{Name: "a", LANs: []LANAddress{}, RawDisk: true}.withDefaults(0)
	if err != nil || len(cfg.LANs) != 0 || cfg.DiskFS != "" {
		t.Errorf("got %+v, %v", cfg, err)
	}
}

func TestMachineValidation(t *testing.T) {
	for want, cfg := range map[string]MachineConfig{
		"name must match": {Name: "Upper"},
		"negative":        {Name: "a", DiskGiB: -1},
		"zfs":             {Name: "a", DiskFS: "zfs"},
		"no-prefix":       {Name: "a", LANs: []LANAddress{{"x", "no-prefix"}}},
		"IPv4":            {Name: "a", LANs: []LANAddress{{"x", "fd00::1/64"}}},
		"/host":           {Name: "a", Files: []File{{Host: "/host"}}},
	} {
		if _, err := cfg.withDefaults(0); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want an error about %q", cfg, err, want)
		}
	}
	if _, err := (LabConfig{Name: "../x"}).withDefaults(); err == nil {
		t.Error("accepted a name that is a path")
	}
}

// TestLabDirs: two labs of one name do not clash, and a lab's leftovers go when it is dead and not before.
func TestLabDirs(t *testing.T) {
	t.Setenv("HOLDFAST_VM_KEEP", "")
	parent := t.TempDir()
	a, lockA, err := makeLabDir(parent, "lab")
	if err != nil {
		t.Fatal(err)
	}
	b, lockB, err := makeLabDir(parent, "lab")
	if err != nil || a == b {
		t.Fatalf("%s and %s, %v", a, b, err)
	}
	defer lockB.Close()
	if err := lockA.Close(); err != nil { // as the end of its process does
		t.Fatal(err)
	}
	stranger := filepath.Join(parent, "stranger")
	if err := os.Mkdir(stranger, 0o755); err != nil {
		t.Fatal(err)
	}
	sweep(parent)
	for dir, want := range map[string]bool{a: false, b: true, stranger: true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s exists: %v, want %v", dir, err == nil, want)
		}
	}
}
