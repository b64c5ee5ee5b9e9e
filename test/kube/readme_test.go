//go:build linux

package kube

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Every block of the README's section Install can be followed.
func TestReadmeSteps(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	steps, err := installSteps(string(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		if !slices.Contains([]string{"box1", "workstation"}, s.where) || s.script == "" {
			t.Errorf("on %q: %q", s.where, s.script)
		}
	}
}

func TestInstallSteps(t *testing.T) {
	t.Parallel()
	got, err := installSteps("# X\n\n## Install\n\nAs root:\n\n```sh box1\na\nb\n```\n\nThen\n\n```sh workstation\nc\n```\n\n```sh\nnot this\n```\n\n## Status\n\n```sh box1\nnor this\n```\n")
	want := []step{{"box1", "a\nb"}, {"workstation", "c"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(step{})); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, bad := range []string{"", "\n## Install\n\nnothing\n", "\n## Install\n\n```sh box1\nno end\n"} {
		if _, err := installSteps(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
