package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRoot(t *testing.T) {
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "hack", "image", "main.go")); err != nil {
		t.Error(err)
	}
	t.Chdir(t.TempDir())
	if root, err := Root(); err == nil || !strings.Contains(err.Error(), "go.mod") {
		t.Errorf("elsewhere: %q, %v", root, err)
	}
}

func TestPath(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ value, preset, want string }{
		{"", "", ""},
		{"", "/preset", "/preset"},
		{"/value/", "/preset", "/value"},
		{"../value", "/preset", filepath.Join(filepath.Dir(here), "value")},
	} {
		if got, err := Path(c.value, c.preset); got != c.want || err != nil {
			t.Errorf("%q, preset %q: %q, %v, want %q", c.value, c.preset, got, err, c.want)
		}
	}
}
