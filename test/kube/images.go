//go:build linux

package kube

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/holdfast-csi/holdfast/test/cluster"
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

// makeImages makes the images that a cluster needs, with the product's own builder
// for Holdfast's.
func makeImages(ctx context.Context, bin Bin) (*images, error) {
	dir := filepath.Join(root(), "build", "image-test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	out := &images{pkg: filepath.Join(dir, "holdfast_0~test_amd64.deb")}
	pause, err := cluster.Build(ctx, "test/cmd/pause")
	if err != nil {
		return nil, err
	}
	ackio, err := cluster.Build(ctx, "test/cmd/ackio")
	if err != nil {
		return nil, err
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
		image{name: sandbox, entry: "/pause", files: map[string]string{"/pause": pause}},
		image{name: TestImage, entry: "/bin/sh", files: map[string]string{"/bin/busybox": busybox, "/bin/ackio": ackio}, links: links},
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
	err := runBuilder(ctx, ".", "--arch", "amd64", "--version", "test", "--tag", holdfastImage, "--out", dir)
	return filepath.Join(dir, "holdfast-amd64.tar"), err
}

// runBuilder runs a command of the module that builds images.
func runBuilder(ctx context.Context, command string, args ...string) error {
	return run(ctx, "go", append([]string{"-C", filepath.Join(root(), "hack", "image"), "run", command}, args...)...)
}

// PostgresImage makes an image of PostgreSQL, of the packages of the distribution, and
// gives it to the nodes.
func (c *Cluster) PostgresImage(ctx context.Context) (name string, err error) {
	const image = "localhost/postgres:1"
	to := filepath.Join(c.dir, "postgres.tar")
	args := []string{"--tag", image, "--out", to, "--user", "999:postgres", "--busybox",
		"--package", "postgresql-" + postgresVersion, "--package", "postgresql-client-" + postgresVersion, "--package", "tzdata", "--package", "libc-bin",
		"--tree", postgresLib + "/lib", "--without", "llvmjit.so", "--without", "bitcode", "--without", "pgxs",
		"--tree", "/usr/share/postgresql/" + postgresVersion, "--without", "man",
		"--tree", "/usr/share/zoneinfo", "--without", "localtime", "--without", "posix", "--without", "right"}
	for _, program := range []string{"postgres", "initdb", "psql", "pgbench", "pg_isready"} {
		args = append(args, "--program", postgresLib+"/bin/"+program)
	}
	if err := runBuilder(ctx, "./cmd/debimage", args...); err != nil {
		return "", err
	}
	return image, c.load(ctx, to)
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
