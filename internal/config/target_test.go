package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/internal/config"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

const goodTarget = `
host: box1
tls: {ca: /c, cert: /t.crt, key: /t.key}
pools:
- {name: fast, path: /srv/fast, address: 10.0.0.2}
- {name: slow, path: /srv/slow, address: "fd00::2", port: 4421, reserveBytes: 1048576}
`

func TestParseTarget(t *testing.T) {
	got, err := config.ParseTarget([]byte(goodTarget))
	if err != nil {
		t.Fatal(err)
	}
	want := config.Target{
		Host: "box1", Listen: "0.0.0.0:9700", StateDir: "/var/lib/holdfast/target",
		TLS: config.TLS{CA: "/c", Cert: "/t.crt", Key: "/t.key"},
		Pools: []config.Pool{
			{Name: "fast", Path: "/srv/fast", Address: "10.0.0.2", Port: 4420},
			{Name: "slow", Path: "/srv/slow", Address: "fd00::2", Port: 4421, ReserveBytes: 1 << 20},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if a, b := got.Pools[0].Portal().String(), got.Pools[1].Portal().String(); a != "10.0.0.2:4420" || b != "[fd00::2]:4421" {
		t.Errorf("portals %s and %s", a, b)
	}
}

// Each refusal says which key, what value, and mostly what would be right.
func TestParseTargetBadInput(t *testing.T) {
	for change, says := range map[[2]string][]string{
		{"host: box1", "host: Box_1"}:                       {`"Box_1"`, "lower-case"},
		{"host: box1", "host: ../x"}:                        {`"../x"`},
		{"host: box1", "host: " + strings.Repeat("b", 64)}:  {"63"},
		{"ca: /c,", ""}:                                     {"tls.ca"},
		{"key: /t.key", "key: t.key"}:                       {"tls.key", `"t.key"`},
		{"host: box1", ""}:                                  {"host"},
		{"host: box1", "host: box1\nhots: x"}:               {`hots`},
		{"host: box1", "host: box1\nhost: box2"}:            {"host"},
		{"host: box1", "host: box1\nlisten: nowhere"}:       {"listen", `"nowhere"`},
		{"host: box1", "host: box1\nlisten: :0"}:            {"listen"},
		{"host: box1", "host: box1\nlisten: 1.2.3.4:99999"}: {"listen", "99999"},
		{"host: box1", "host: box1\nstateDir: var/lib"}:     {"stateDir", "absolute"},
		{"host: box1", "host: box1\nstateDir: /var/../etc"}: {"stateDir"},
		{"name: slow", "name: fast"}:                        {"pools[1]", `"fast"`, "one pool only"},
		{"path: /srv/slow", "path: /srv/fast"}:              {"pools[1]", "/srv/fast"},
		{"port: 4421", "port: 4420"}:                        {"pools[1]", "4420"},
		{"port: 4421", "port: -1"}:                          {"port", "-1"},
		{"port: 4421", "port: 65536"}:                       {"port", "65536"},
		{"port: 4421", "port: 4421.5"}:                      {"port"},
		{"reserveBytes: 1048576", "reserveBytes: -5"}:       {"reserveBytes", "-5"},
		{"reserveBytes: 1048576", "reserve: 5"}:             {"reserve"},
		{"name: slow", "name: slow/er"}:                     {`"slow/er"`},
		{"name: slow", "name: " + strings.Repeat("s", 33)}:  {"32"},
		{"path: /srv/slow", "path: srv"}:                    {"path", "absolute"},
		{"path: /srv/slow", "path: /srv/slow/"}:             {"path", "clean"},
		{"path: /srv/slow", "path: /"}:                      {"path"},
		{"address: 10.0.0.2", "address: box1.example"}:      {"address", "numeric"},
		{"address: 10.0.0.2", "address: 0.0.0.0"}:           {"address", "0.0.0.0"},
		{"address: 10.0.0.2", "address: 224.0.0.1"}:         {"address"},
		{"address: 10.0.0.2", `address: "fe80::1%eth0"`}:    {"address", "fe80::1%eth0"},
		{"address: 10.0.0.2", `address: "10.0.0.2,nqn=x"`}:  {"address"},
		{withoutPools(t), ""}:                               {"pools", "at least one"},
		{goodTarget, "pools: [x"}:                           {"yaml"},
		{goodTarget, "- 1"}:                                 {"array"},
		{goodTarget, ""}:                                    {"host"},
	} {
		text := strings.Replace(goodTarget, change[0], change[1], 1)
		_, err := config.ParseTarget([]byte(text))
		if !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("%q: %v", change[1], err)
			continue
		}
		for _, s := range says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%q: %q does not say %q", change[1], err, s)
			}
		}
	}
}

func TestLoadTarget(t *testing.T) {
	dir := t.TempDir()
	_, err := config.LoadTarget(filepath.Join(dir, "none.yaml"))
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "holdfast target init") {
		t.Errorf("missing: %v", err)
	}
	file := filepath.Join(dir, "target.yaml")
	if err := os.WriteFile(file, []byte("host: box1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := config.LoadTarget(file); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), file) {
		t.Errorf("bad: %v", err)
	}
}

// What is accepted is complete, and means the same when written and read again.
func FuzzParseTarget(f *testing.F) {
	f.Add([]byte(goodTarget))
	f.Add([]byte("host: box1"))
	f.Add([]byte("{\"pools\":[{}]}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := config.ParseTarget(b)
		if err != nil {
			return
		}
		for _, p := range c.Pools {
			if !p.Portal().IsValid() || p.Portal().Port() == 0 {
				t.Errorf("portal %s of %+v", p.Portal(), p)
			}
		}
		text, err := yaml.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		again, err := config.ParseTarget(text)
		if diff := cmp.Diff(c, again); err != nil || diff != "" {
			t.Errorf("%v\n%s", err, diff)
		}
	})
}

// withoutPools is what has to go for a file without pools.
func withoutPools(t *testing.T) string {
	t.Helper()
	_, pools, ok := strings.Cut(goodTarget, "pools:")
	if !ok {
		t.Fatal("no pools in the good file")
	}
	return "pools:" + pools
}
