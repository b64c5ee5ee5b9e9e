package main

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/hack/image/internal/debian"
)

// parse takes the flags of a command line, and the value of SOURCE_DATE_EPOCH ("" has it unset).
func parse(line, epoch string) (*options, error) {
	r, err := parseFlags(strings.Fields(line))
	if err != nil {
		return nil, err
	}
	return r.options("/repo", func(string) (string, bool) { return epoch, epoch != "" })
}

const database = "--tag localhost/db:test --out x.tar --package db-15 --package tzdata --program /usr/lib/db/15/bin/db " +
	"--program /usr/lib/db/15/bin/cli --tree /usr/share/db/15 --without jit.so --dir /run/db --user 999:db --busybox"

func TestOptions(t *testing.T) {
	o, err := parse(database, "1700000000")
	if err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if o.tag.String() != "localhost/db:test" || o.out != filepath.Join(here, "x.tar") || o.cache != "/repo/build/cache/image" ||
		o.sources != "" || o.refresh || !o.busybox || o.when.Unix() != 1700000000 || !reflect.DeepEqual(o.dirs, []string{"/run/db"}) {
		t.Errorf("got %+v", o)
	}
	want := debian.Request{
		Packages: []string{"db-15", "tzdata"},
		Programs: []debian.Program{
			{Path: "/usr/lib/db/15/bin/db"}, {Path: "/usr/lib/db/15/bin/cli"}, {Path: "/bin/busybox", Package: "busybox-static"},
		},
		Trees:   []string{"/usr/share/db/15"},
		Without: []string{"jit.so"},
		Users:   []debian.User{{Name: "db", ID: 999, Home: "/var/lib/db"}},
	}
	if !reflect.DeepEqual(o.request, want) {
		t.Errorf("got %+v, want %+v", o.request, want)
	}
	if o, err := parse("--tag a:b --out /x --busybox", ""); err != nil || o.when.Unix() != 0 || o.request.Users != nil {
		t.Errorf("the least: %+v, %v", o, err)
	}
}

func TestOptionsRefuse(t *testing.T) {
	for more, want := range map[string]string{
		"--tag x":                   "there is no tag",
		"--out=":                    "--out: want a file",
		"--package -o=Dir=/":        `--package "-o=Dir=/"`,
		"--package Kmod":            "--package",
		"--package db/stable":       "--package",
		"--program bin/db":          `--program "bin/db"`,
		"--program /usr/lib/../db":  "--program",
		"--program /usr//bin/db":    "--program",
		"--program /usr/bin/a:/b":   "without a colon",
		"--tree share":              `--tree "share"`,
		"--tree /":                  "--tree",
		"--dir tmp":                 `--dir "tmp"`,
		"--without a/b":             `--without "a/b"`,
		"--without=":                "--without",
		"--user db":                 "--user",
		"--user 999":                "--user",
		"--user 0:db":               "neither of them root's",
		"--user 999:root":           "neither of them root's",
		"--user -1:db":              "--user",
		"--user 999:../db":          "--user",
		"--user 999:db:x":           "--user",
		"--user 4294967296:db":      "--user",
		"--arch arm64":              "arch",
		"image":                     `argument "image"`,
		"--busybox=maybe":           "busybox",
		"--sources":                 "sources",
		"--tag localhost/db@sha256": "--tag",
	} {
		if o, err := parse(database+" "+more, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v, want %q", more, o, err, want)
		}
	}
	for line, want := range map[string]string{
		"":                             "--tag",
		"--tag a:b":                    "--out",
		"--tag a:b --out x":            "the image would be empty",
		"--tag a:b --out x --user 1:a": "the image would be empty",
	} {
		if o, err := parse(line, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v, want %q", line, o, err, want)
		}
	}
	if _, err := parse(database, "yesterday"); err == nil || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH") {
		t.Errorf("SOURCE_DATE_EPOCH: %v", err)
	}
	if _, err := parse("--help", ""); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("--help: %v", err)
	}
}

// TestHelp: each flag that there is, and no other, is in the help.
func TestHelp(t *testing.T) {
	named := 0
	for line := range strings.Lines(help) {
		name, ok := strings.CutPrefix(line, "  --")
		if !ok {
			continue
		}
		named++
		if _, err := parseFlags([]string{"--" + strings.Fields(name)[0] + "=1"}); err != nil {
			t.Error(err)
		}
	}
	if named != 12 {
		t.Errorf("the help has %d flags", named)
	}
}
