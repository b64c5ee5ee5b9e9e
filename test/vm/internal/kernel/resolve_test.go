package kernel

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
)

const bookwormCloud612 = `Package: linux-image-6.12-cloud-amd64
Source: linux-signed-amd64 (6.12.117+1~deb12u1)
Version: 6.12.117-1~deb12u1
Depends: linux-image-6.12.117+deb12-cloud-amd64 (= 6.12.117-1~deb12u1)
Description: Linux 6.12 for x86-64 cloud (meta-package)
`

const trixieAmd64 = `Package: linux-image-amd64
Version: 6.12.90-2
Depends: linux-image-6.12.90+deb13-amd64 (= 6.12.90-2)
`

// fakeApt answers apt-cache from maps; update makes the lists appear.
type fakeApt struct {
	show     map[string]string
	pkgnames string
	empty    bool // until update
	updates  int
	noUpdate bool
}

func (a *fakeApt) run(_ context.Context, _ string, argv ...string) ([]byte, error) {
	line := strings.Join(argv, " ")
	switch {
	case line == "apt-get -q update":
		a.updates++
		if a.noUpdate {
			return nil, errors.New("no network")
		}
		a.empty = false
		return nil, nil
	case a.empty:
		return nil, errors.New("no packages found")
	case argv[1] == "show":
		if record, ok := a.show[argv[len(argv)-1]]; ok {
			return []byte(record), nil
		}
		return nil, errors.New("no packages found")
	case argv[1] == "pkgnames":
		return []byte(a.pkgnames), nil
	}
	return nil, errors.New("not expected: " + line)
}

func TestResolve(t *testing.T) {
	for name, test := range map[string]struct {
		apt     fakeApt
		series  string
		want    []string
		updates int
	}{
		"cloud before generic": {
			fakeApt{show: map[string]string{
				"linux-image-6.12-cloud-amd64": bookwormCloud612,
				"linux-image-6.12-amd64":       "Depends: linux-image-6.12.117+deb12-amd64 (= 6.12.117-1~deb12u1)\n",
				"linux-image-amd64":            "Depends: linux-image-6.1.0-44-amd64 (= 6.1.164-1)\n",
			}}, "6.12", []string{"linux-image-6.12.117+deb12-cloud-amd64", "linux-image-6.12.117+deb12-amd64"}, 0,
		},
		"name without a series": {
			fakeApt{show: map[string]string{"linux-image-amd64": trixieAmd64}}, "6.12",
			[]string{"linux-image-6.12.90+deb13-amd64"}, 0,
		},
		"6.1 is not 6.12": {
			fakeApt{show: map[string]string{
				"linux-image-6.12-cloud-amd64": bookwormCloud612,
				"linux-image-cloud-amd64":      "Depends: linux-image-6.1.0-44-cloud-amd64 (= 6.1.164-1), other\n",
			}}, "6.1", []string{"linux-image-6.1.0-44-cloud-amd64"}, 0,
		},
		"no meta package": {
			fakeApt{pkgnames: "linux-image-6.1.0-9-amd64\nlinux-image-6.1.0-44-amd64\nlinux-image-6.1.0-44-amd64-dbg\n" +
				"linux-image-6.1.0-44-amd64-unsigned\nlinux-image-6.1.0-44-rt-amd64\nlinux-image-6.1.0-44-cloud-amd64\n"},
			"6.1", []string{"linux-image-6.1.0-44-cloud-amd64", "linux-image-6.1.0-44-amd64", "linux-image-6.1.0-9-amd64"}, 0,
		},
		"lists are empty at first": {
			fakeApt{show: map[string]string{"linux-image-6.12-cloud-amd64": bookwormCloud612}, empty: true}, "6.12",
			[]string{"linux-image-6.12.117+deb12-cloud-amd64"}, 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := resolve(t.Context(), test.apt.run, test.series)
			if err != nil || !slices.Equal(got, test.want) {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
			if test.apt.updates != test.updates {
				t.Errorf("%d updates, want %d", test.apt.updates, test.updates)
			}
		})
	}
}

func TestResolveNothing(t *testing.T) {
	apt := fakeApt{show: map[string]string{"linux-image-amd64": trixieAmd64}, noUpdate: true}
	_, err := resolve(t.Context(), apt.run, "6.1")
	if err == nil {
		t.Fatal("found a kernel")
	}
	for _, word := range []string{"6.1", "linux-image-6.1-cloud-amd64", "linux-image-amd64", "no network"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %q", err, word)
		}
	}
}

func TestCompareVersions(t *testing.T) {
	sorted := []string{"6.1.0-9-amd64", "6.1.0-44-amd64", "6.1.2-1-amd64", "6.1.10-1-amd64"}
	for i, a := range sorted {
		for j, b := range sorted {
			if got := compareVersions(a, b); (got < 0) != (i < j) || (got == 0) != (i == j) {
				t.Errorf("compare %s with %s: %d", a, b, got)
			}
		}
	}
}
