//go:build linux && k8s && long

package scale_test

import (
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/test/cluster"
	"github.com/holdfast-csi/holdfast/test/kube"
)

// object is what matters here of one that the chart makes.
type object struct {
	Kind string
	Data map[string]string
	Spec struct {
		Template struct {
			Spec struct{ Containers []container }
		}
	}
}

// container is one of the controller's pod.
type container struct {
	Name string
	Args []string
	Env  []struct{ Name, Value string }
}

// programs are what the containers run, by name.
var programs = map[string]string{"holdfast": "holdfast", "provisioner": "csi-provisioner", "attacher": "csi-attacher"}

// install applies the chart but for its pods, and runs the containers of one pod of
// the controller as processes, with the chart's arguments and as its service account.
// Every call is logged, which is how it is known how long they took.
func (s *trial) install() {
	s.Helper()
	rendered, err := s.cluster.Helm(s.ctx, "template", "holdfast", filepath.Join(cluster.Root(), "deploy", "chart", "holdfast"),
		"-n", kube.Namespace, "--validate", "-f", s.boxes[len(s.boxes)-1].values(), "--set", "logDebug=true,logJSON=true")
	s.must(err)
	var objects strings.Builder
	var containers []container
	for text := range strings.SplitSeq(rendered, "\n---\n") {
		var o object
		s.must(yaml.Unmarshal([]byte(text), &o))
		switch o.Kind {
		case "Deployment":
			containers = o.Spec.Template.Spec.Containers
		case "DaemonSet", "PodDisruptionBudget":
		default:
			objects.WriteString("\n---\n" + text)
		}
		if hosts := o.Data["hosts.yaml"]; hosts != "" {
			s.writeHosts(hosts)
		}
	}
	s.kubectl("create", "namespace", kube.Namespace)
	s.must(s.cluster.Apply(s.ctx, objects.String()))
	run, env, err := s.cluster.Credentials(s.ctx, kube.Namespace, "holdfast-controller")
	s.must(err)
	for _, c := range containers {
		p := kube.Program{Name: c.Name, Path: programs[c.Name], Run: run, Env: env}
		for _, e := range c.Env {
			p.Env = append(p.Env, e.Name+"="+s.here(e.Value))
		}
		for _, arg := range c.Args {
			p.Args = append(p.Args, s.here(arg))
		}
		s.pod = append(s.pod, p)
	}
	s.runPod()
}

// here replaces what is mounted into containers by where it is on this machine.
func (s *trial) here(text string) string {
	dir := s.cluster.Dir()
	return strings.NewReplacer("unix:///csi/", "unix://"+dir+"/csi/", "=/csi/", "="+dir+"/csi/", "/etc/holdfast/", dir+"/mounted/").Replace(text)
}

// writeHosts puts where the pod would find them the hosts file and the certificate of
// the role controller.
func (s *trial) writeHosts(text string) {
	s.Helper()
	mounted := filepath.Join(s.cluster.Dir(), "mounted")
	for _, dir := range []string{"hosts", "tls"} {
		s.must(os.MkdirAll(filepath.Join(mounted, dir), 0o700))
	}
	s.must(os.WriteFile(filepath.Join(mounted, "hosts", "hosts.yaml"), []byte(s.here(text)), 0o600))
	for from, to := range map[string]string{"ca.crt": "ca.crt", "controller.crt": "tls.crt", "controller.key": "tls.key"} {
		b, err := os.ReadFile(filepath.Join(s.boxes[0].dir, "etc", "tls", from))
		s.must(err)
		s.must(os.WriteFile(filepath.Join(mounted, "tls", to), b, 0o600))
	}
}

func (s *trial) runPod() {
	s.Helper()
	for _, p := range s.pod {
		s.must(s.cluster.Run(p))
	}
}
