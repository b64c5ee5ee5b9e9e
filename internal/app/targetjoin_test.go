package app

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/internal/config"
	"github.com/holdfast-csi/holdfast/internal/pki"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Two hosts of one installation: one authority, one cluster, and values that name
// both.
func TestTargetJoin(t *testing.T) {
	dir, args := initArgs(t)
	if _, err := run(t, args...); err != nil {
		t.Fatal(err)
	}
	first := filepath.Join(dir, "etc")
	join := filepath.Join(dir, "join.yaml")
	if out, err := run(t, "target", "invite", join, "--dir", first); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := run(t, "target", "invite", join, "--dir", first); !errors.Is(err, os.ErrExist) {
		t.Errorf("a file that is there: %v", err)
	}
	dir2, args := initArgs(t)
	if _, err := run(t, append(args, "--join", join, "--address", "10.0.0.7")...); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "box1") {
		t.Errorf("a name twice: %v", err)
	}
	again := append(append([]string(nil), args...), "--join", join, "--host", "box2", "--address", "10.0.0.3")
	if _, err := run(t, append(again, "--cluster-id", "other")...); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "cluster-id") {
		t.Errorf("another cluster: %v", err)
	}
	out, err := run(t, again...)
	if err != nil || !strings.Contains(out, "helm upgrade") {
		t.Fatalf("%v\n%s", err, out)
	}
	second := filepath.Join(dir2, "etc")
	if !bytes.Equal(read(t, filepath.Join(first, "tls", "ca.crt")), read(t, filepath.Join(second, "tls", "ca.crt"))) {
		t.Error("two authorities")
	}
	var one, both installed
	if err := errors.Join(yaml.UnmarshalStrict(read(t, valuesFile(first)), &one), yaml.UnmarshalStrict(read(t, valuesFile(second)), &both)); err != nil {
		t.Fatal(err)
	}
	want := installed{ClusterID: one.ClusterID, Hosts: []listedHost{{Name: "box1", Address: "10.0.0.2:9700"}, {Name: "box2", Address: "10.0.0.3:9700"}}}
	if diff := cmp.Diff(want, both); diff != "" || one.ClusterID == "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	testThird(t, first, both)
}

// testThird: the first host knows nothing of the second, the chart's values do, with
// whatever else is in them.
func testThird(t *testing.T, first string, both installed) {
	t.Helper()
	dir := t.TempDir()
	values, join := filepath.Join(dir, "values.yaml"), filepath.Join(dir, "join.yaml")
	both.Hosts[0].Topology = map[string]string{"zone": "a"}
	text, err := yaml.Marshal(both)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(values, append(text, "image: {tag: v1}\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t, "target", "invite", join, "--dir", first, "--values", values); err != nil {
		t.Fatal(err)
	}
	i, err := readInvitation(join)
	if diff := cmp.Diff(both, i.installed); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if err := os.Chmod(join, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := readInvitation(join); !errors.Is(err, volume.ErrPrecondition) || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("everybody can read it: %v", err)
	}
}

// The cluster's ID is that of the init before, which was not finished.
func TestClusterIDStays(t *testing.T) {
	dir, args := initArgs(t)
	var ids []string
	for range 2 {
		if _, err := run(t, args...); err != nil {
			t.Fatal(err)
		}
		of, err := readInstalled(valuesFile(filepath.Join(dir, "etc")))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, of.ClusterID)
		if err := os.Remove(filepath.Join(dir, "etc", "target.yaml")); err != nil {
			t.Fatal(err)
		}
	}
	if ids[0] != ids[1] {
		t.Errorf("%v", ids)
	}
	if _, err := run(t, append(args, "--cluster-id", "another")...); !errors.Is(err, volume.ErrPrecondition) {
		t.Errorf("another ID: %v", err)
	}
}

// What is printed can be redirected.
func TestPrintsToStandardOutput(t *testing.T) {
	if out := newRoot().OutOrStderr(); out != os.Stdout {
		t.Errorf("prints to %v", out)
	}
}

// What Kubernetes is given fits together and is for its owner alone.
func TestKubernetesFiles(t *testing.T) {
	dir, args := initArgs(t)
	if _, err := run(t, args...); err != nil {
		t.Fatal(err)
	}
	etc := filepath.Join(dir, "etc")
	for _, path := range []string{valuesFile(etc), filepath.Join(kubernetesDir(etc), secretsName)} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", path, fi, err)
		}
	}
	docs := strings.Split("\n"+string(read(t, filepath.Join(kubernetesDir(etc), secretsName))), "\n---\n")[1:]
	if len(docs) != 3 {
		t.Fatalf("%d objects", len(docs))
	}
	for i, role := range []string{"controller", "node"} {
		var secret struct {
			Kind       string
			Metadata   struct{ Name, Namespace string }
			StringData map[string]string
		}
		if err := yaml.Unmarshal([]byte(docs[i+1]), &secret); err != nil {
			t.Fatal(err)
		}
		if secret.Kind != "Secret" || secret.Metadata.Name != "holdfast-"+role+"-tls" || secret.Metadata.Namespace != "holdfast" {
			t.Errorf("%+v", secret)
		}
		files := map[string]string{}
		for _, key := range []string{"ca.crt", "tls.crt", "tls.key"} {
			files[key] = filepath.Join(t.TempDir(), key)
			if err := os.WriteFile(files[key], []byte(secret.StringData[key]), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := pki.ClientTLS(files["ca.crt"], files["tls.crt"], files["tls.key"]); err != nil {
			t.Errorf("%s: %v", role, err)
		}
	}
}

func TestBadInvitation(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"empty": "", "not YAML": "\t{", "unknown key": "clusterID: a\nfoo: b\n", "no authority": "clusterID: a\nhosts: [{name: box1, address: \"10.0.0.2:9700\"}]\n",
	} {
		path := filepath.Join(dir, "join.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readInvitation(path); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := readInvitation(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := run(t, "target", "invite", filepath.Join(dir, "x"), "--dir", dir); !errors.Is(err, volume.ErrPrecondition) {
		t.Errorf("not set up: %v", err)
	}
}

// What found writes is what a node needs to become a storage host.
func TestTargetFound(t *testing.T) {
	dir, args := initArgs(t)
	out := filepath.Join(dir, "kubernetes")
	if text, err := run(t, "target", "found", out); err != nil || !strings.Contains(text, "secrets.yaml") {
		t.Fatalf("%v\n%s", err, text)
	}
	if _, err := run(t, "target", "found", out); !errors.Is(err, volume.ErrPrecondition) {
		t.Errorf("a directory that is there: %v", err)
	}
	docs := strings.Split("\n"+string(read(t, filepath.Join(out, secretsName))), "\n---\n")[1:]
	var secret struct {
		Metadata   struct{ Name, Namespace string }
		StringData map[string]string
	}
	if err := yaml.Unmarshal([]byte(docs[3]), &secret); err != nil || len(docs) != 4 || secret.Metadata.Name != "holdfast-invitation" || secret.Metadata.Namespace != "holdfast" {
		t.Fatalf("%v, %+v of %d", err, secret.Metadata, len(docs))
	}
	join := filepath.Join(dir, "join.yaml")
	if err := os.WriteFile(join, []byte(secret.StringData["join.yaml"]), 0o600); err != nil {
		t.Fatal(err)
	}
	args = append(args, "--join", join, "--if-needed")
	if text, err := run(t, args...); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if text, err := run(t, args...); err != nil || !strings.Contains(text, "set up before") {
		t.Errorf("again: %v\n%s", err, text)
	}
	second := filepath.Join(dir, "second")
	if err := os.Mkdir(second, 0o700); err != nil {
		t.Fatal(err)
	}
	more := append(slices.Clone(args), "--pool", "second="+second)
	for range 2 {
		if text, err := run(t, more...); err != nil {
			t.Errorf("a pool more: %v\n%s", err, text)
		}
	}
	if cfg, err := config.LoadTarget(filepath.Join(dir, "etc", "target.yaml")); err != nil || len(cfg.Pools) != 2 || cfg.Pools[1].Path != second {
		t.Errorf("%+v, %v", cfg, err)
	}
	for what, other := range map[string][]string{
		"a pool less": args, "another address": append(slices.Clone(more), "--address", "10.0.0.9"), "another name": append(slices.Clone(more), "--host", "box9"),
	} {
		if _, err := run(t, other...); !errors.Is(err, volume.ErrPrecondition) {
			t.Errorf("%s: %v", what, err)
		}
	}
	var values, host installed
	err := errors.Join(yaml.Unmarshal(read(t, filepath.Join(out, valuesName)), &values), yaml.Unmarshal(read(t, valuesFile(filepath.Join(dir, "etc"))), &host))
	if err != nil || values.ClusterID == "" || values.ClusterID != host.ClusterID {
		t.Errorf("%v: clusters %q and %q", err, values.ClusterID, host.ClusterID)
	}
}
