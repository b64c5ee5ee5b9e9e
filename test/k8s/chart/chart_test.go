package chart_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"
)

const dir = "../../../deploy/chart/holdfast"

type values = map[string]any

// least is what has to be given.
func least() values {
	return values{"clusterID": "c1", "hosts": []any{values{"name": "box1", "address": "10.0.0.2:9700"}}}
}

func with(more values) values { return chartutil.CoalesceTables(more, least()) }

func load(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func render(t *testing.T, v values) (map[string]string, error) {
	t.Helper()
	c := load(t)
	all, err := chartutil.ToRenderValues(c, v, chartutil.ReleaseOptions{Name: "hf", Namespace: "storage", Revision: 1, IsInstall: true}, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	return engine.Render(c, all)
}

func TestLint(t *testing.T) {
	r := action.NewLint().Run([]string{dir}, least())
	for _, m := range r.Messages {
		t.Log(m)
	}
	for _, err := range r.Errors {
		t.Error(err)
	}
}

// known are the kinds that the chart may have, each as the Kubernetes API has it;
// those of the Prometheus operator are checked for being YAML alone.
var known = map[string]func() any{
	"Deployment": func() any { return new(appsv1.Deployment) }, "DaemonSet": func() any { return new(appsv1.DaemonSet) },
	"ConfigMap": func() any { return new(corev1.ConfigMap) }, "ServiceAccount": func() any { return new(corev1.ServiceAccount) },
	"ClusterRole": func() any { return new(rbacv1.ClusterRole) }, "ClusterRoleBinding": func() any { return new(rbacv1.ClusterRoleBinding) },
	"Role": func() any { return new(rbacv1.Role) }, "RoleBinding": func() any { return new(rbacv1.RoleBinding) },
	"CSIDriver": func() any { return new(storagev1.CSIDriver) }, "StorageClass": func() any { return new(storagev1.StorageClass) },
	"PodDisruptionBudget": func() any { return new(policyv1.PodDisruptionBudget) }, "NetworkPolicy": func() any { return new(networkingv1.NetworkPolicy) },
	"PodMonitor": func() any { return new(map[string]any) }, "PrometheusRule": func() any { return new(map[string]any) },
}

// objects decodes what was rendered, by kind; a field that the API does not know is
// an error.
func objects(t *testing.T, v values) map[string][]any {
	t.Helper()
	files, err := render(t, v)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]any{}
	for name, text := range files {
		if !strings.HasSuffix(name, ".yaml") {
			continue
		}
		docs := yaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text)))
		for {
			doc, err := docs.Read()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			var of struct{ Kind string }
			if err := sigsyaml.Unmarshal(doc, &of); err != nil {
				t.Fatalf("%s: %v in\n%s", name, err, doc)
			}
			if of.Kind == "" {
				continue // nothing: a condition left it out
			}
			object := known[of.Kind]
			if object == nil {
				t.Fatalf("%s has a %s", name, of.Kind)
			}
			o := object()
			if err := sigsyaml.UnmarshalStrict(doc, o); err != nil {
				t.Fatalf("%s: %s: %v", name, of.Kind, err)
			}
			out[of.Kind] = append(out[of.Kind], o)
		}
	}
	return out
}

func TestObjects(t *testing.T) {
	least, most := objects(t, least()), objects(t, with(values{
		"logDebug": true, "logJSON": true, "monitoring": values{"enabled": true}, "networkPolicy": values{"enabled": true},
		"imagePullSecrets": []any{values{"name": "x"}},
		"node":             values{"extraArgs": []any{"--nvme-registry="}, "tolerations": []any{}},
		"storageClasses":   []any{values{"name": "a", "default": true, "parameters": values{"guard": "dm", "eagerReconnect": false}}, values{"name": "b"}},
	}))
	for kind := range known {
		if len(most[kind]) == 0 {
			t.Errorf("there is no %s with everything switched on", kind)
		}
	}
	for _, kind := range []string{"PodMonitor", "PrometheusRule", "NetworkPolicy"} {
		if len(least[kind]) > 0 {
			t.Errorf("there is a %s that nobody asked for", kind)
		}
	}
	if n := len(most["StorageClass"]); n != 2 {
		t.Errorf("%d classes", n)
	}
}

// The binary knows every flag that the chart gives it.
func TestFlags(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "holdfast")
	build := exec.Command("go", "build", "-tags", "grpcnotrace", "-o", binary, "./cmd/holdfast")
	build.Dir, build.Env = "../../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	all := objects(t, with(chartutil.CoalesceTables(values{"logDebug": true, "logJSON": true}, target(nil))))
	containers := all["Deployment"][0].(*appsv1.Deployment).Spec.Template.Spec.Containers[:1]
	for _, o := range all["DaemonSet"] {
		pod := o.(*appsv1.DaemonSet).Spec.Template.Spec
		containers = append(append(containers, pod.Containers[0]), pod.InitContainers...)
	}
	for _, c := range containers {
		if c.Name != "init" && !slices.Contains(c.Args, "--log-json") {
			t.Errorf("%v", c.Args)
		}
		if out, err := exec.Command(binary, append(c.Args, "--help")...).CombinedOutput(); err != nil {
			t.Errorf("holdfast %s: %v\n%s", strings.Join(c.Args, " "), err, out)
		}
	}
}

// target makes storage hosts of nodes.
func target(more values) values {
	return values{"target": chartutil.CoalesceTables(more, values{"enabled": true, "pools": []any{values{"name": "fast", "path": "/srv/fast"}, values{"name": "slow", "path": "/srv/slow", "port": 4500}}})}
}

// A node that is a storage host is set up as one outside of the cluster, and finds its
// pools where they are on the node.
func TestTarget(t *testing.T) {
	if n := len(objects(t, least())["DaemonSet"]); n != 1 {
		t.Errorf("%d DaemonSets that nobody asked for", n-1)
	}
	for _, o := range objects(t, with(target(nil)))["DaemonSet"] {
		set := o.(*appsv1.DaemonSet)
		if set.Name != "hf-target" {
			continue
		}
		pod := set.Spec.Template.Spec
		init := strings.Join(pod.InitContainers[0].Args, " ")
		for _, want := range []string{"--pool=fast=/srv/fast", "--pool=slow=/srv/slow,4500", "--join=/invitation/join.yaml", "--if-needed", "--host=$(NODE_NAME)"} {
			if !strings.Contains(init+" ", want+" ") {
				t.Errorf("init does not have %s: %s", want, init)
			}
		}
		for _, c := range []corev1.Container{pod.InitContainers[0], pod.Containers[0]} {
			for _, path := range []string{"/srv/fast", "/srv/slow", "/etc/holdfast", "/var/lib/holdfast"} {
				if !slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == path && !m.ReadOnly }) {
					t.Errorf("%s has no %s", c.Name, path)
				}
			}
		}
		for _, c := range []corev1.Container{pod.InitContainers[0], pod.Containers[0]} {
			if !*c.SecurityContext.Privileged {
				t.Errorf("%s is not privileged", c.Name)
			}
			at := slices.IndexFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == "/srv/fast" })
			if p := c.VolumeMounts[at].MountPropagation; p == nil || *p != corev1.MountPropagationHostToContainer {
				t.Errorf("%s does not see a pool that is mounted late", c.Name)
			}
		}
		for _, v := range pod.Volumes {
			if s := v.Secret; s != nil && (*s.DefaultMode != 0o400 || !*s.Optional) {
				t.Errorf("%+v", s)
			}
			if h := v.HostPath; h != nil && strings.HasPrefix(h.Path, "/srv") && *h.Type != corev1.HostPathDirectory {
				t.Errorf("a pool's directory is made where there is none: %+v", h)
			}
		}
		if pod.NodeSelector["holdfast.io/storage"] != "true" || !pod.HostNetwork {
			t.Errorf("%v, network of the node: %v", pod.NodeSelector, pod.HostNetwork)
		}
		return
	}
	t.Error("there is none")
}

// Where nodes differ the scheduler heeds room, and only there.
func TestTopology(t *testing.T) {
	zoned := with(values{"hosts": []any{values{"name": "a", "address": "10.0.0.2:9700", "topology": values{"zone": "a"}}, values{"name": "b", "address": "10.0.0.3:9700"}}})
	for name, v := range map[string]values{"alike": least(), "zoned": zoned} {
		all := objects(t, v)
		want := name == "zoned"
		if got := *all["CSIDriver"][0].(*storagev1.CSIDriver).Spec.StorageCapacity; got != want {
			t.Errorf("%s: storageCapacity is %v", name, got)
		}
		containers := all["Deployment"][0].(*appsv1.Deployment).Spec.Template.Spec.Containers
		provisioner := containers[slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == "provisioner" })]
		if got := slices.Contains(provisioner.Args, "--enable-capacity"); got != want || (len(provisioner.Env) == 2) != want {
			t.Errorf("%s: %v %v", name, provisioner.Args, provisioner.Env)
		}
		if got := strings.Contains(all["ConfigMap"][0].(*corev1.ConfigMap).Data["hosts.yaml"], "zone: a"); got != want {
			t.Errorf("%s: %v", name, all["ConfigMap"][0])
		}
	}
}

// Nobody may read secrets, and the node, which runs everywhere, little else.
func TestRights(t *testing.T) {
	all := objects(t, least())
	for _, o := range all["ClusterRole"] {
		role := o.(*rbacv1.ClusterRole)
		for _, r := range role.Rules {
			if slices.Contains(r.Resources, "secrets") || slices.Contains(r.Resources, "*") || slices.Contains(r.Verbs, "*") {
				t.Errorf("%s may %v %v", role.Name, r.Verbs, r.Resources)
			}
			allowed := []string{"get"}
			switch {
			case slices.Equal(r.Resources, []string{"events"}):
				allowed = []string{"create"}
			case slices.Equal(r.Resources, []string{"volumeattachments"}):
				allowed = []string{"get", "list"}
			}
			if role.Name == "hf-node" && !slices.Equal(r.Verbs, allowed) {
				t.Errorf("the node may %v %v", r.Verbs, r.Resources)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		values values
		want   string
	}{
		{"nothing given", values{}, "clusterID"},
		{"no storage host", values{"clusterID": "c1", "hosts": []any{}}, "hosts"},
		{"address without port", with(values{"hosts": []any{values{"name": "a", "address": "10.0.0.1"}}}), "address"},
		{"unknown key", with(values{"nodes": values{}}), "nodes"},
		{"unknown key further in", with(values{"node": values{"kubeletDirectory": "/x"}}), "kubeletDirectory"},
		{"no duration", with(values{"node": values{"withdrawnGrace": "30"}}), "withdrawnGrace"},
		{"relative directory", with(values{"node": values{"kubeletDir": "var/lib/kubelet"}}), "kubeletDir"},
		{"a target without a pool", with(values{"target": values{"enabled": true}}), "pools"},
		{"a target on every node", with(values{"target": values{"enabled": true, "nodeSelector": nil, "pools": []any{values{"name": "fast", "path": "/srv/fast"}}}}), "nodeSelector"},
		{"a pool's relative directory", with(target(values{"pools": []any{values{"name": "fast", "path": "srv"}}})), "path"},
		{"unknown guard", with(values{"storageClasses": []any{values{"name": "a", "parameters": values{"guard": "md"}}}}), "guard"},
	} {
		if _, err := render(t, c.values); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want something about %s", c.name, err, c.want)
		}
	}
}
