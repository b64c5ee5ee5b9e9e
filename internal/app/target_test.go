package app

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/internal/config"
	"github.com/holdfast-csi/holdfast/internal/pki"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

// run runs the command line and returns what it printed.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetIn(strings.NewReader("no\n"))
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

// initArgs are those that set up a storage host below dir.
func initArgs(t *testing.T) (dir string, args []string) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "pool"), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir, []string{
		"target", "init", "--dir", filepath.Join(dir, "etc"), "--state-dir", filepath.Join(dir, "state"),
		"--host", "box1", "--address", "10.0.0.2", "--pool", "fast=" + filepath.Join(dir, "pool"),
	}
}

func TestTargetInit(t *testing.T) {
	dir, args := initArgs(t)
	out, err := run(t, args...)
	if err != nil && strings.Contains(err.Error(), "a pool needs xfs, btrfs or ext4") {
		t.Skipf("the temporary directory cannot hold a pool (set TMPDIR): %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.LoadTarget(filepath.Join(dir, "etc", "target.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if p := cfg.Pools[0].Portal().String(); p != "10.0.0.2:4420" || cfg.StateDir != filepath.Join(dir, "state") {
		t.Errorf("portal %s, state in %s", p, cfg.StateDir)
	}
	// What was made fits together, and what was printed can be used as it is.
	if _, err := pki.ServerTLS(cfg.TLS.CA, cfg.TLS.Cert, cfg.TLS.Key); err != nil {
		t.Error(err)
	}
	tls := filepath.Dir(cfg.TLS.CA)
	for _, role := range []string{"controller", "node"} {
		if _, err := pki.ClientTLS(cfg.TLS.CA, filepath.Join(tls, role+".crt"), filepath.Join(tls, role+".key")); err != nil {
			t.Error(err)
		}
		if fi, err := os.Stat(filepath.Join(tls, role+".key")); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s.key: %v %v", role, fi, err)
		}
	}
	_, hosts, ok := strings.Cut(out, "\nclusterID:")
	cluster, err := config.Parse([]byte("clusterID:" + hosts))
	if !ok || err != nil || cluster.Hosts[0].Name != "box1" || cluster.Hosts[0].Address != "10.0.0.2:9700" {
		t.Errorf("hosts file: %v %+v\n%s", err, cluster, out)
	}
	before, err := os.ReadFile(cfg.TLS.Key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, args...); !errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), "target.yaml exists") {
		t.Errorf("again: %v", err)
	}
	if after, err := os.ReadFile(cfg.TLS.Key); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the key was changed (%v)", err)
	}
	if out, err := run(t, "target", "stop-exports", "--config", filepath.Join(dir, "etc", "target.yaml")); !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("stop-exports without a yes: %v\n%s", err, out)
	}
	testIssue(t, tls)
	// An init that failed at the very end can be repeated.
	if err := os.Remove(filepath.Join(dir, "etc", "target.yaml")); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, args...); err != nil {
		t.Errorf("repeated: %v", err)
	}
	if after, err := os.ReadFile(cfg.TLS.Key); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the key was changed (%v)", err)
	}
}

func testIssue(t *testing.T, tls string) {
	t.Helper()
	if _, err := run(t, "target", "issue", "--dir", tls, "--role", "node", "--name", "node-b"); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.ClientTLS(filepath.Join(tls, "ca.crt"), filepath.Join(tls, "node-b.crt"), filepath.Join(tls, "node-b.key")); err != nil {
		t.Error(err)
	}
	for what, args := range map[string][]string{
		"again":         {"--role", "node", "--name", "node-b"},
		"unknown role":  {"--role", "admin", "--name", "x"},
		"name is path":  {"--role", "node", "--name", "../x"},
		"no name":       {"--role", "node"},
		"not authority": {"--role", "node", "--name", "x", "--dir", t.TempDir()},
	} {
		if _, err := run(t, append([]string{"target", "issue", "--dir", tls}, args...)...); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

func TestTargetInitBadInput(t *testing.T) {
	for what, c := range map[string]struct {
		args []string
		says string
	}{
		"no host":          {[]string{"--host", ""}, "host"},
		"host":             {[]string{"--host", "Box"}, `"Box"`},
		"address":          {[]string{"--address", "box1"}, `"box1"`},
		"no address":       {[]string{"--address", ""}, "address"},
		"listen":           {[]string{"--listen", "x"}, `"x"`},
		"pool without dir": {[]string{"--pool", "slow"}, `"slow"`},
		"pool twice":       {[]string{"--pool", "fast=/srv/x"}, "one pool only"},
		"pool relative":    {[]string{"--pool", "slow=srv"}, "absolute"},
		"pool port":        {[]string{"--pool", "slow=/srv/slow,x"}, `"x"`},
		"pool port taken":  {[]string{"--pool", "slow=/srv/slow,4420"}, "one pool only"},
		"dir relative":     {[]string{"--dir", "etc"}, "absolute"},
		"pool not there":   {[]string{"--pool", "slow=/nowhere/slow"}, "does not exist"},
	} {
		dir, args := initArgs(t)
		_, err := run(t, append(args, c.args...)...)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "etc", "target.yaml")); err == nil {
			t.Errorf("%s: a configuration was written", what)
		}
	}
}
