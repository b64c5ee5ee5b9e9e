package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

const goodHosts = `
clusterID: here
tls: {ca: /ca, cert: /cert, key: /key}
hosts:
- name: box1
  address: 10.0.0.2:9700
- name: box2
  address: "[fd00::2]:9700"
  tls: {ca: /ca2, cert: /cert2, key: /key2}
`

func TestTopology(t *testing.T) {
	t.Parallel()
	const text = "clusterID: a\ntls: {ca: /ca, cert: /cert, key: /key}\nhosts: [{name: box1, address: \"10.0.0.2:9700\", topology: {%s}}]\n"
	c, err := Parse([]byte(strings.Replace(text, "%s", "topology.kubernetes.io/zone: a", 1)))
	if err != nil || c.Hosts[0].Topology["topology.kubernetes.io/zone"] != "a" {
		t.Errorf("%+v, %v", c, err)
	}
	for name, bad := range map[string]string{"value": "zone: \"a b\"", "no value": "zone: \"\"", "key": "\"zo ne\": a"} {
		if _, err := Parse([]byte(strings.Replace(text, "%s", bad, 1))); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "topology") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	want := Cluster{
		ClusterID: "here", TLS: TLS{"/ca", "/cert", "/key"},
		Hosts: []Host{
			{Name: "box1", Address: "10.0.0.2:9700", TLS: &TLS{"/ca", "/cert", "/key"}},
			{Name: "box2", Address: "[fd00::2]:9700", TLS: &TLS{"/ca2", "/cert2", "/key2"}},
		},
	}
	got, err := Parse([]byte(goodHosts))
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if got.Hosts[0].TLS == &got.TLS {
		t.Error("a host shares the TLS of the cluster")
	}
}

// replaced is text with one thing replaced; it must be there.
func replaced(t *testing.T, text, old, replacement string) []byte {
	t.Helper()
	if !strings.Contains(text, old) {
		t.Fatalf("%q is not in the text", old)
	}
	return []byte(strings.Replace(text, old, replacement, 1))
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		old, replacement string
		says             []string
	}{
		"no YAML":             {"clusterID: here", "clusterID: [", nil},
		"misspelt key":        {"address: 10.0.0.2:9700", "addr: 10.0.0.2:9700", []string{`"addr"`}},
		"key twice":           {"clusterID: here", "clusterID: here\nclusterID: there", []string{"clusterID"}},
		"other type":          {"clusterID: here", "clusterID: [here]", nil},
		"no cluster":          {"clusterID: here", "clusterID: \"\"", []string{"clusterID", "1 to 253"}},
		"huge cluster":        {"clusterID: here", "clusterID: " + strings.Repeat("x", 254), []string{"clusterID"}},
		"no name":             {"name: box1", "name: \"\"", []string{"hosts[0]", `""`}},
		"name with dots":      {"name: box1", "name: box1.example", []string{"hosts[0]", `"box1.example"`}},
		"upper case":          {"name: box2", "name: Box2", []string{"hosts[1]", `"Box2"`}},
		"name too long":       {"name: box1", "name: " + strings.Repeat("x", 64), []string{"63"}},
		"name twice":          {"name: box2", "name: box1", []string{"hosts[1]", `"box1"`, "twice"}},
		"no address":          {"10.0.0.2:9700", `""`, []string{"box1", "HOST:PORT"}},
		"no port":             {"10.0.0.2:9700", "10.0.0.2", []string{`"10.0.0.2"`}},
		"no host":             {"10.0.0.2:9700", `":9700"`, []string{`":9700"`}},
		"port 0":              {"10.0.0.2:9700", "10.0.0.2:0", []string{`"10.0.0.2:0"`}},
		"port too high":       {"10.0.0.2:9700", "10.0.0.2:65536", []string{"65535"}},
		"port with a name":    {"10.0.0.2:9700", "10.0.0.2:https", []string{`"10.0.0.2:https"`}},
		"IPv6, no brackets":   {`"[fd00::2]:9700"`, `"fd00::2:9700"`, []string{"box2"}},
		"a URL":               {"10.0.0.2:9700", "https://10.0.0.2:9700", []string{"box1"}},
		"half a certificate":  {"key: /key}", `key: ""}`, []string{"box1", "tls.key"}},
		"host's own has none": {"ca: /ca2", `ca: ""`, []string{"box2", "tls.ca"}},
	} {
		got, err := Parse(replaced(t, goodHosts, c.old, c.replacement))
		if !errors.Is(err, volume.ErrInvalid) || cmp.Diff(Cluster{}, got) != "" {
			t.Errorf("%s: %+v, %v", name, got, err)
			continue
		}
		for _, text := range c.says {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %q does not say %q", name, err, text)
			}
		}
	}
	for _, text := range []string{"", "null", "[]", "x", "clusterID: here", "clusterID: here\nhosts: []", "\x00", "- a"} {
		if _, err := Parse([]byte(text)); !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestPoolAddressFamily: one address has one spelling, on both sides.
func TestPoolAddressFamily(t *testing.T) {
	t.Parallel()
	const text = `
host: box1
tls: {ca: /ca, cert: /cert, key: /key}
pools: [{name: fast, path: /srv/fast, address: "ADDRESS"}]
`
	for address, good := range map[string]bool{"10.0.0.2": true, "fd00::2": true, "::ffff:10.0.0.2": false, "10.0.0.2:4420": false, "": false} {
		_, err := ParseTarget(replaced(t, text, "ADDRESS", address))
		if good != (err == nil) || !good && (!errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "address: value")) {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	hosts, broken := filepath.Join(dir, "hosts.yaml"), filepath.Join(dir, "broken.yaml")
	if err := errors.Join(os.WriteFile(hosts, []byte(goodHosts), 0o600), os.WriteFile(broken, []byte("x: 1"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if c, err := Load(hosts); err != nil || len(c.Hosts) != 2 {
		t.Errorf("%+v, %v", c, err)
	}
	for what, load := range map[string]func(string) error{
		"hosts file":           func(p string) error { _, err := Load(p); return err },
		"target configuration": func(p string) error { _, err := LoadTarget(p); return err },
	} {
		if err := load(broken); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), broken) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
		if err := load(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// FuzzParse: no text makes it panic, and what it takes has every promise kept.
func FuzzParse(f *testing.F) {
	f.Add([]byte(goodHosts))
	f.Add([]byte("clusterID: &a here\nhosts: [*a]"))
	f.Add([]byte("{\"clusterID\":\"x\",\"hosts\":[{}]}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse(b)
		if err != nil {
			if !errors.Is(err, volume.ErrInvalid) {
				t.Errorf("%v", err)
			}
			return
		}
		seen := map[string]bool{}
		for _, h := range c.Hosts {
			if seen[h.Name] || h.TLS == nil || h.TLS.CA == "" || h.TLS.Cert == "" || h.TLS.Key == "" || volume.ValidateName("", h.Name, volume.MaxHostName) != nil {
				t.Errorf("accepted %+v", h)
			}
			seen[h.Name] = true
		}
		if c.ClusterID == "" || len(c.Hosts) == 0 {
			t.Errorf("accepted %+v", c)
		}
	})
}
