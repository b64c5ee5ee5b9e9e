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
		"misspelt key":        {"address: 10.0.0.2:9700", "adress: 10.0.0.2:9700", []string{"adress"}},
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

const goodTarget = `
host: box1
listen: 10.0.0.2:9701
stateDir: /var/lib/x
tls: {ca: /ca, cert: /cert, key: /key}
pools:
- {name: fast, path: /srv/fast, address: 10.0.0.2, port: 4421, reserveBytes: 1048576}
- {name: slow, path: /srv/slow, address: "fd00::2"}
`

func TestParseTarget(t *testing.T) {
	t.Parallel()
	want := Target{
		Host: "box1", Listen: "10.0.0.2:9701", StateDir: "/var/lib/x", TLS: TLS{"/ca", "/cert", "/key"},
		Pools: []Pool{
			{Name: "fast", Path: "/srv/fast", Address: "10.0.0.2", Port: 4421, ReserveBytes: 1 << 20},
			{Name: "slow", Path: "/srv/slow", Address: "fd00::2", Port: 4420},
		},
	}
	got, err := ParseTarget([]byte(goodTarget))
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Fatalf("%v\n%s", err, diff)
	}
	for i, portal := range []string{"10.0.0.2:4421", "[fd00::2]:4420"} {
		if got.Pools[i].Portal().String() != portal {
			t.Errorf("portal %s, want %s", got.Pools[i].Portal(), portal)
		}
	}
	got, err = ParseTarget([]byte("host: box1\ntls: {ca: /a, cert: /b, key: /c}\npools: [{name: a, path: /a, address: 10.0.0.2}]"))
	if err != nil || got.Listen != DefaultListen || got.StateDir != DefaultTargetState || got.Pools[0].Port != DefaultNVMePort {
		t.Errorf("defaults: %+v, %v", got, err)
	}
}

func TestParseTargetRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		old, replacement string
		says             []string
	}{
		"misspelt key":     {"stateDir", "statedir2", []string{"statedir2"}},
		"key in a pool":    {"reserveBytes", "reserve", []string{"reserve"}},
		"no host":          {"host: box1", "host: \"\"", []string{"host"}},
		"host with slash":  {"host: box1", "host: a/b", []string{`"a/b"`}},
		"listen":           {"10.0.0.2:9701", "10.0.0.2", []string{"listen", `"10.0.0.2"`}},
		"listen, port 0":   {"10.0.0.2:9701", "10.0.0.2:0", []string{"listen"}},
		"relative state":   {"/var/lib/x", "var/lib/x", []string{"stateDir", `"var/lib/x"`}},
		"state with dots":  {"/var/lib/x", "/var/../x", []string{"stateDir"}},
		"state at the top": {"/var/lib/x", "/", []string{"stateDir"}},
		"pool name":        {"name: fast", "name: Fast", []string{"pools[0]", `"Fast"`}},
		"long pool name":   {"name: fast", "name: " + strings.Repeat("x", 33), []string{"pools[0]", "32"}},
		"relative path":    {"/srv/fast", "fast", []string{"pool fast", "path", `"fast"`}},
		"path with dots":   {"/srv/fast", "/srv/../fast", []string{"path"}},
		"path with slash":  {"/srv/fast", "/srv/fast/", []string{"path"}},
		"address, a name":  {"address: 10.0.0.2", "address: box1", []string{"address", `"box1"`}},
		"every address":    {"address: 10.0.0.2", "address: 0.0.0.0", []string{"address", `"0.0.0.0"`}},
		"multicast":        {"address: 10.0.0.2", "address: 224.0.0.1", []string{"address"}},
		"zone":             {`"fd00::2"`, `"fe80::1%eth0"`, []string{"pools[1]", "address"}},
		"IPv4 as IPv6":     {`"fd00::2"`, `"::ffff:10.0.0.2"`, []string{"pools[1]", "address", `"::ffff:10.0.0.2"`}},
		"address and port": {"address: 10.0.0.2", "address: \"10.0.0.2:4420\"", []string{"address"}},
		"port":             {"port: 4421", "port: 65536", []string{"port", "65536"}},
		"negative port":    {"port: 4421", "port: -1", []string{"port", "-1"}},
		"negative reserve": {"1048576", "-1", []string{"reserveBytes", "-1"}},
		"name twice":       {"name: slow", "name: fast", []string{"pools[1]", `"fast"`}},
		"path twice":       {"/srv/slow", "/srv/fast", []string{"pools[1]", `"/srv/fast"`}},
		"port twice":       {"port: 4421", "port: 4420", []string{"pools[1]", "4420"}},
		"no certificate":   {"cert: /cert, ", "", []string{"tls.cert"}},
		"relative key":     {"key: /key", "key: key.pem", []string{"tls.key", `"key.pem"`}},
		"port as text":     {"port: 4421", "port: x", nil},
	} {
		got, err := ParseTarget(replaced(t, goodTarget, c.old, c.replacement))
		if !errors.Is(err, volume.ErrInvalid) || cmp.Diff(Target{}, got) != "" {
			t.Errorf("%s: %+v, %v", name, got, err)
			continue
		}
		for _, text := range c.says {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %q does not say %q", name, err, text)
			}
		}
	}
	for _, text := range []string{"", "host: box1", "host: box1\npools: []", "[]"} {
		if _, err := ParseTarget([]byte(text)); !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("%q: %v", text, err)
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

// FuzzParseTarget is FuzzParse for the agent's file.
func FuzzParseTarget(f *testing.F) {
	f.Add([]byte(goodTarget))
	f.Add([]byte("host: a\npools: [{name: a, path: /a, address: 1.2.3.4, port: 1e3}]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseTarget(b)
		if err != nil {
			if !errors.Is(err, volume.ErrInvalid) {
				t.Errorf("%v", err)
			}
			return
		}
		ports := map[int]bool{}
		for _, p := range c.Pools {
			if portal := p.Portal(); ports[p.Port] || !portal.IsValid() || portal.Port() == 0 || !filepath.IsAbs(p.Path) || p.ReserveBytes < 0 {
				t.Errorf("accepted %+v", p)
			}
			ports[p.Port] = true
		}
		if again := c; again.Complete() != nil || cmp.Diff(c, again) != "" {
			t.Errorf("completing twice is not completing once: %+v", c)
		}
	})
}
