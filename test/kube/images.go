//go:build linux

package kube

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// TestImage has a shell with the usual programs (busybox) and ackio.
const TestImage = "localhost/holdfast-test:1"

// Names that the README has: Holdfast's image as a user pushed it, and what the
// first pod runs.
const (
	holdfastImage = "registry.example.com/holdfast:v1"
	firstPodImage = "docker.io/library/busybox:1.36"
)

// images are archives, in the order in which they are loaded.
type images struct {
	archives []string
	pkg      string // Debian package of the same source, for storage hosts
}

func (i *images) all() []string { return i.archives }

// makeImages makes the images that a cluster needs, with the product's own builder
// for Holdfast's.
func makeImages(ctx context.Context, bin Bin) (*images, error) {
	dir := filepath.Join(root(), "build", "image-test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	out := &images{pkg: filepath.Join(dir, "holdfast_0~test_amd64.deb")}
	for _, program := range []string{"pause", "ackio"} {
		if err := goBuild(ctx, "./test/cmd/"+program, filepath.Join(dir, program)); err != nil {
			return nil, err
		}
	}
	if err := run(ctx, filepath.Join(root(), "hack", "package"), "test", dir, "amd64"); err != nil {
		return nil, err
	}
	sidecars, err := sidecarImages(ctx, bin)
	if err != nil {
		return nil, err
	}
	busybox, links, err := busybox(ctx)
	if err != nil {
		return nil, err
	}
	for _, i := range append(sidecars,
		image{name: sandbox, entry: "/pause", files: map[string]string{"/pause": filepath.Join(dir, "pause")}},
		image{name: TestImage, entry: "/bin/sh", files: map[string]string{"/bin/busybox": busybox, "/bin/ackio": filepath.Join(dir, "ackio")}, links: links},
		image{name: firstPodImage, entry: "/bin/sh", files: map[string]string{"/bin/busybox": busybox}, links: links},
	) {
		to := filepath.Join(dir, strings.NewReplacer("/", "_", ":", "_").Replace(i.name)+".tar")
		if err := i.write(to); err != nil {
			return nil, err
		}
		out.archives = append(out.archives, to)
	}
	own, err := makeHoldfastImage(ctx, dir)
	if err != nil {
		return nil, err
	}
	out.archives = append(out.archives, own)
	return out, nil
}

// makeHoldfastImage builds the product's image as a user would, but for pushing it.
func makeHoldfastImage(ctx context.Context, dir string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "run", ".", "--arch", "amd64", "--version", "test", "--tag", holdfastImage, "--out", dir)
	cmd.Dir = filepath.Join(root(), "hack", "image")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the image: %w\n%s", err, out)
	}
	return filepath.Join(dir, "holdfast-amd64.tar"), nil
}

// PostgresImage makes an image of PostgreSQL, of the packages of the distribution, and
// gives it to the nodes.
func (c *Cluster) PostgresImage(ctx context.Context) (name string, err error) {
	const image = "localhost/postgres:1"
	to := filepath.Join(c.dir, "postgres.tar")
	args := []string{"run", "./cmd/debimage", "--tag", image, "--out", to, "--user", "999:postgres", "--busybox",
		"--package", "postgresql-" + postgresVersion, "--package", "postgresql-client-" + postgresVersion, "--package", "tzdata", "--package", "libc-bin",
		"--tree", postgresLib + "/lib", "--without", "llvmjit.so", "--without", "bitcode", "--without", "pgxs",
		"--tree", "/usr/share/postgresql/" + postgresVersion, "--without", "man",
		"--tree", "/usr/share/zoneinfo", "--without", "localtime", "--without", "posix", "--without", "right"}
	for _, program := range []string{"postgres", "initdb", "psql", "pgbench", "pg_isready"} {
		args = append(args, "--program", postgresLib+"/bin/"+program)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(root(), "hack", "image")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("image of PostgreSQL: %w\n%s", err, out)
	}
	for _, n := range c.Nodes {
		if err := n.load(ctx, to); err != nil {
			return "", err
		}
	}
	return image, nil
}

// postgresVersion is Debian 12's.
const (
	postgresVersion = "15"
	postgresLib     = "/usr/lib/postgresql/" + postgresVersion
)

// sidecarImages have the names that the chart asks for: those of the versions that
// were built.
func sidecarImages(ctx context.Context, bin Bin) ([]image, error) {
	var out []image
	for name, module := range map[string]string{"csi-provisioner": csiOrg + "external-provisioner/v6", "csi-attacher": csiOrg + "external-attacher/v4"} {
		v, err := version(ctx, toolsModule, module)
		if err != nil {
			return nil, err
		}
		out = append(out, image{name: "registry.k8s.io/sig-storage/" + name + ":" + v, entry: "/" + name, files: map[string]string{"/" + name: bin[name]}})
	}
	return out, nil
}

func goBuild(ctx context.Context, pkg, to string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, pkg)
	cmd.Dir, cmd.Env = root(), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// busybox is this machine's own, which is linked statically, and a link for each of
// its applets.
func busybox(ctx context.Context) (path string, links map[string]string, err error) {
	if path, err = exec.LookPath("busybox"); err != nil {
		return "", nil, fmt.Errorf("run hack/install-deps: %w", err)
	}
	out, err := exec.CommandContext(ctx, path, "--list").Output()
	if err != nil {
		return "", nil, fmt.Errorf("busybox --list: %w", err)
	}
	links = map[string]string{}
	for applet := range strings.FieldsSeq(string(out)) {
		if applet != "busybox" {
			links["/bin/"+applet] = "busybox"
		}
	}
	return path, links, nil
}
