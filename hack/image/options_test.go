package main

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// parse takes the flags of a command line, and the value of SOURCE_DATE_EPOCH ("" has it unset).
func parse(line, epoch string) (*options, error) {
	r, err := parseFlags(strings.Fields(line))
	if err != nil {
		return nil, err
	}
	if r.version == "" {
		r.version = "1.2.3"
	}
	return r.options("/repo", func(string) (string, bool) { return epoch, epoch != "" })
}

func TestOptions(t *testing.T) {
	o, err := parse("", "")
	if err != nil {
		t.Fatal(err)
	}
	if o.tag.String() != "holdfast-csi/holdfast:1.2.3" || !slices.Equal(o.archs, []string{"amd64", "arm64"}) ||
		o.out != "/repo/build/image" || o.cache != "/repo/build/cache/image" || o.when.Unix() != 0 || o.push != nil ||
		o.check != checkIfPossible || o.pins != "" || o.sources != "" {
		t.Errorf("without flags: %+v", o)
	}
	o, err = parse("--version v9-rc.1 --arch arm64,amd64,arm64 --tag r.example:5000/h:t --push docker.io/you/h:1 --check --out x", "1700000000")
	if err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if o.version != "v9-rc.1" || !slices.Equal(o.archs, []string{"amd64", "arm64"}) || o.tag.String() != "r.example:5000/h:t" ||
		o.push.Name() != "index.docker.io/you/h:1" || o.check != checkAlways || o.out != filepath.Join(here, "x") ||
		o.when.Unix() != 1700000000 {
		t.Errorf("with flags: %+v", o)
	}
	if o, err = parse("--check=false", ""); err != nil || o.check != checkNever {
		t.Errorf("--check=false: %+v, %v", o, err)
	}
}

func TestOptionsRefuse(t *testing.T) {
	for line, want := range map[string]string{
		"--arch riscv64":                      `--arch "riscv64": "riscv64" is neither amd64 nor arm64`,
		"--arch amd64,":                       `"" is neither`,
		"--arch ../amd64":                     "neither amd64 nor arm64",
		"--tag UPPER/case:1":                  "--tag",
		"--tag holdfast":                      "there is no tag",
		"--tag r.example:5000/holdfast":       "there is no tag",
		"--tag a/b:c:d":                       "--tag",
		"--tag a/b@sha256:00":                 "--tag",
		"--push you/holdfast:1":               "there is no registry",
		"--push ghcr.io/you/holdfast":         "there is no tag",
		"--push https://ghcr.io/you/h:1":      "--push",
		"--version -X":                        "--version",
		"--version=1'-X'main.x=y":             "--version",
		"--version 1+build":                   "--tag", // a + may be in a version, not in a tag
		"--out /x --cache /x":                 "two directories",
		"--nonsense":                          "nonsense",
		"build":                               `argument "build"`,
		"--check=maybe":                       "check",
		"--tag a/" + strings.Repeat("b", 300): "--tag",
	} {
		if o, err := parse(line, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v, want %q", line, o, err, want)
		}
	}
	for _, epoch := range []string{"yesterday", "-1", "1.5", "99999999999"} {
		if _, err := parse("", epoch); err == nil || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH") {
			t.Errorf("SOURCE_DATE_EPOCH %s: %v", epoch, err)
		}
	}
	if _, err := parse("--help", ""); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("--help: %v", err)
	}
}

// TestHelp: each flag that there is, and no other, is in the help.
func TestHelp(t *testing.T) {
	var named []string
	_, flags, _ := strings.Cut(help, "\nFlags:\n")
	for line := range strings.Lines(flags) {
		if name, ok := strings.CutPrefix(line, "  --"); ok {
			named = append(named, strings.Fields(name)[0])
		}
	}
	for _, name := range named {
		if _, err := parseFlags([]string{"--" + name + "=1"}); err != nil {
			t.Errorf("--%s: %v", name, err)
		}
	}
	if len(named) != 10 {
		t.Errorf("the help has %d flags: %q", len(named), named)
	}
}
