//go:build linux

package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// root is the top of the source tree.
func root() string { return cluster.Root() }

// cache is where programs are kept between runs.
func cache() string {
	if dir := os.Getenv("HOLDFAST_CACHE"); dir != "" {
		return filepath.Join(dir, "k8s")
	}
	return filepath.Join(root(), "build", "cache", "k8s")
}

// program is one that is built from a module of this source tree.
type program struct {
	name, pkg string
	cgo       bool
	tags      string
}

const (
	k8s    = "k8s.io/kubernetes/"
	csiOrg = "github.com/kubernetes-csi/"
	ctd    = "github.com/containerd/containerd/v2/cmd/"
	cni    = "github.com/containernetworking/plugins/plugins/"
)

// What a cluster consists of, by the directory of its module.
var (
	toolsModule   = "test/k8s/tools"
	runtimeModule = "test/k8s/runtime"
	chartModule   = "test/k8s"
	kwokModule    = "test/k8s/kwok"
	clusterParts  = map[string][]program{
		toolsModule: {
			{name: "etcd", pkg: "go.etcd.io/etcd/server/v3"},
			{name: "kube-apiserver", pkg: k8s + "cmd/kube-apiserver"},
			{name: "kube-controller-manager", pkg: k8s + "cmd/kube-controller-manager"},
			{name: "kube-scheduler", pkg: k8s + "cmd/kube-scheduler"},
			{name: "kubelet", pkg: k8s + "cmd/kubelet"},
			{name: "kubectl", pkg: k8s + "cmd/kubectl"},
			{name: "csi-provisioner", pkg: csiOrg + "external-provisioner/v6/cmd/csi-provisioner"},
			{name: "csi-attacher", pkg: csiOrg + "external-attacher/v4/cmd/csi-attacher"},
		},
		runtimeModule: {
			{name: "containerd", pkg: ctd + "containerd"},
			{name: "containerd-shim-runc-v2", pkg: ctd + "containerd-shim-runc-v2"},
			{name: "ctr", pkg: ctd + "ctr"},
			{name: "bridge", pkg: cni + "main/bridge"},
			{name: "loopback", pkg: cni + "main/loopback"},
			{name: "host-local", pkg: cni + "ipam/host-local"},
			{name: "runc", pkg: "github.com/opencontainers/runc", cgo: true, tags: "seccomp"},
		},
		chartModule: {{name: "helm", pkg: "helm.sh/helm/v3/cmd/helm"}},
	}
	// suiteParts are what the Kubernetes project's own tests of storage need beyond.
	suiteParts = map[string][]program{toolsModule: {
		{name: "e2e.test", pkg: k8s + "test/e2e"},
		{name: "agnhost", pkg: k8s + "test/images/agnhost"},
		{name: "csi-sanity", pkg: csiOrg + "csi-test/v5/cmd/csi-sanity"},
	}}
	// simulatedParts are what a cluster without machines needs beyond.
	simulatedParts = map[string][]program{kwokModule: {{name: "kwok", pkg: "sigs.k8s.io/kwok/cmd/kwok"}}}
)

// Bin are built programs, by name.
type Bin map[string]string

// Build makes the programs of a cluster that are not in the cache.
func Build(ctx context.Context, log func(string, ...any)) error {
	for _, parts := range []map[string][]program{clusterParts, suiteParts} {
		if _, err := build(ctx, parts, log); err != nil {
			return err
		}
	}
	return nil
}

// build makes all programs that are not in the cache. The first time takes twenty
// minutes on two processors, of which Kubernetes itself takes fifteen.
func build(ctx context.Context, parts map[string][]program, log func(string, ...any)) (Bin, error) {
	if err := os.MkdirAll(cache(), 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(cache(), "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	defer lock.Close() // and the lock with it
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, err
	}
	forget(cache())
	bin := Bin{}
	for _, module := range []string{runtimeModule, toolsModule, chartModule, kwokModule} {
		if len(parts[module]) == 0 {
			continue
		}
		if err := buildModule(ctx, module, parts[module], bin, log); err != nil {
			return nil, err
		}
	}
	return bin, nil
}

func buildModule(ctx context.Context, module string, programs []program, bin Bin, log func(string, ...any)) error {
	dir, err := moduleCache(module)
	if err != nil {
		return err
	}
	for _, p := range programs {
		out := filepath.Join(dir, p.name)
		bin[p.name] = out
		if _, err := os.Stat(out); err == nil {
			continue
		}
		start := time.Now()
		if err := compile(ctx, module, p, out); err != nil {
			return err
		}
		log("built %s in %.0f s", p.name, time.Since(start).Seconds())
	}
	return nil
}

// moduleCache is the directory for what a module builds: what it names exactly
// decides, and the compiler.
func moduleCache(module string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version())
	for _, f := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(root(), module, f))
		if err != nil {
			return "", err
		}
		h.Write(b)
	}
	dir := filepath.Join(cache(), filepath.Base(module)+"-"+hex.EncodeToString(h.Sum(nil))[:12])
	now := time.Now()
	return dir, errors.Join(os.MkdirAll(dir, 0o755), os.Chtimes(dir, now, now))
}

// keepUnused is how long programs that no cluster has used stay.
const keepUnused = 7 * 24 * time.Hour

func forget(dir string) {
	entries, _ := os.ReadDir(dir) // tidying only
	for _, e := range entries {
		if info, err := e.Info(); err == nil && e.IsDir() && time.Since(info.ModTime()) > keepUnused {
			_ = os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
}

func compile(ctx context.Context, module string, p program, out string) error {
	args := []string{"build"}
	if strings.HasSuffix(p.name, ".test") {
		args = []string{"test", "-c"}
	}
	args = append(args, "-trimpath", "-buildvcs=false", "-o", out+".part")
	flags, env := "-s -w", "CGO_ENABLED=0"
	if strings.HasPrefix(p.pkg, k8s) {
		v, err := version(ctx, module, "k8s.io/kubernetes")
		if err != nil {
			return err
		}
		flags += versionFlags(v)
	}
	if p.cgo {
		flags, env = flags+" -extldflags -static", "CGO_ENABLED=1"
	}
	if p.tags != "" {
		args = append(args, "-tags", p.tags+",netgo,osusergo")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "-ldflags", flags, p.pkg)...)
	cmd.Dir, cmd.Env = filepath.Join(root(), module), append(os.Environ(), env)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s of %s: %w\n%s", p.pkg, module, err, text)
	}
	return os.Rename(out+".part", out)
}

// version is the one of a module that another one uses.
func version(ctx context.Context, module, of string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", of)
	cmd.Dir = filepath.Join(root(), module)
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("version of %s: %w", of, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// versionFlags make Kubernetes' programs say their version, which their own build
// sets, and which is compared with what clients may be used with.
func versionFlags(v string) string {
	const pkg = " -X k8s.io/component-base/version."
	parts := strings.Split(strings.TrimPrefix(v, "v"), ".")
	return pkg + "gitVersion=" + v + pkg + "gitMajor=" + parts[0] + pkg + "gitMinor=" + parts[1]
}
