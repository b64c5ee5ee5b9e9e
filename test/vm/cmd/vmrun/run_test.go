//go:build linux

package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestTranslate(t *testing.T) {
	flags, fetch := translate([]string{
		"-test.testlogfile=/tmp/b/testlog.txt", "-test.paniconexit0", "-test.v=true", "-test.coverprofile=/home/c.out", "-own=x",
	})
	if want := []string{"-test.paniconexit0", "-test.v=true", "-test.coverprofile=/tmp/coverprofile", "-own=x"}; !slices.Equal(flags, want) {
		t.Errorf("flags %q, want %q", flags, want)
	}
	if want := map[string]string{"/tmp/coverprofile": "/home/c.out"}; !maps.Equal(fetch, want) {
		t.Errorf("fetch %q, want %q", fetch, want)
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	s := suite{binary: "/b/x.test", dir: dir, guest: "/test/0"}
	if files, err := s.files(); err != nil || len(files) != 1 || files[0].Guest != "/test/0/package.test" {
		t.Errorf("without testdata: %v, %v", files, err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "testdata", "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "testdata", "sub", "f"), nil, 0o640); err != nil {
		t.Fatal(err)
	}
	files, err := s.files()
	if err != nil || len(files) != 2 || files[1].Guest != "/test/0/testdata/sub/f" || files[1].Mode != 0o640 {
		t.Errorf("with testdata: %v, %v", files, err)
	}
}

func TestParse(t *testing.T) {
	o, rest, err := parse([]string{"-kernel", "6.1", "-lanless", "-fs", "none", "-disk", "3", "x.test", "-test.v"})
	if err != nil || o.kernels != "6.1" || !slices.Equal(rest, []string{"x.test", "-test.v"}) {
		t.Errorf("%+v, %q, %v", o, rest, err)
	}
	if cfg := o.machine(); cfg.LANs == nil || len(cfg.LANs) != 0 || !cfg.RawDisk || cfg.DiskGiB != 3 {
		t.Errorf("machine %+v", cfg)
	}
	if _, _, err := parse(nil); err == nil {
		t.Error("accepted nothing to do")
	}
}
