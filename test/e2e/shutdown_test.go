//go:build vm

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/cluster"
	"github.com/holdfast-csi/holdfast/test/vm"
)

const busSocket = "/run/dbus/system_bus_socket"

const busConf = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=` + busSocket + `</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/><allow user="*"/></policy></busconfig>`

// TestNodeShutdown: the machine is about to go down while one volume is
// unreachable and another lives. No unmount hangs, what lives loses nothing, and
// when the plugin has ended a lost path is an error and no wait. The bus is real,
// and what stands for logind is not.
func TestNodeShutdown(t *testing.T) {
	b := newBench(t, 3*time.Minute)
	logind, end := b.withLogind()
	defer end()
	f := b.target("shutdown", 4421)
	b.on("truncate -s 24M /data/shutdown")
	f.namespace(1, b.on("losetup -f --show /data/shutdown"))
	live, away := f.static("ext4", 24, "nsid", "1", "formatIfZero", "true"), b.volume("ext4", 16)
	b.attach(live)
	live.Publish = map[string]string{"nqn": f.nqn}
	b.use(away)
	w := b.write(live)
	b.must(b.storage.Refuse(b.ctx, 4420))
	b.awaitState(10*time.Second, away, "connecting")
	b.hangs(fmt.Sprintf("echo never synced >%s/lost; sync -f %[1]s", away.Target()), 3*time.Second)

	b.must(logind.Signal(b.ctx, syscall.SIGUSR1))
	b.awaitLog(logind, 10*time.Second, `released after [0-4]\.`)
	b.wantHealth(away, "Failed")
	b.wantHealth(live, "")
	b.ends("umount "+away.Target(), 5*time.Second)
	before := time.Now()
	w.acked(5*time.Second, before)

	b.must(b.node.Terminate(b.ctx, "holdfast"))
	b.within(30*time.Second, "the plugin ends", func(ctx context.Context) error {
		if log := b.node.PluginLog(ctx); !strings.Contains(log, "I/O fails when a path is lost") {
			return fmt.Errorf("%s", log[max(0, len(log)-500):])
		}
		return nil
	})
	w.acked(10*time.Second, time.Now()) // the volume lives on
	w.stop()
	b.must(b.storage.Refuse(b.ctx, 4421)) // the network goes
	b.awaitState(20*time.Second, live, "connecting")
	began := time.Now()
	b.ends(fmt.Sprintf("(echo too late >%s/late)", live.Target()), 20*time.Second)
	b.ends("sync -f "+live.Target(), 20*time.Second)
	b.ends("umount "+live.Target(), 20*time.Second)
	b.Logf("after the network went: unmounted in %s", seconds(time.Since(began)))

	b.must(b.storage.Unrefuse(b.ctx, 4420))
	b.must(b.storage.Unrefuse(b.ctx, 4421))
	b.must(logind.Signal(b.ctx, syscall.SIGUSR2))
	b.must(b.node.StartPlugin(b.ctx))
	b.must(b.c.Drop(b.ctx, away, b.node))
	b.must(b.c.Delete(b.ctx, away))
	for _, step := range []func(context.Context, *cluster.Volume) error{b.node.UnpublishVolume, b.node.UnstageVolume} {
		b.within(20*time.Second, "the volume is taken down", func(ctx context.Context) error { return step(ctx, live) })
	}
	b.must(b.c.Detach(b.ctx, live, b.node))
	w.verify()
	f.remove()
	b.on("losetup -D; rm /data/shutdown")
}

// withLogind gives the node a system bus with a logind that shuts nothing down,
// and waits until the plugin has taken its lock.
func (b *bench) withLogind() (logind *vm.Process, end func()) {
	b.Helper()
	program, err := cluster.Build(b.ctx, "test/cmd/logind")
	b.must(err)
	b.must(b.node.Put(b.ctx, program, "/run/logind", 0o755))
	b.must(b.node.PutBytes(b.ctx, []byte(busConf), "/run/bus/bus.conf", 0o644))
	b.putDaemon("/run/bus")
	b.sh("mkdir -p /run/dbus")
	bus, err := b.node.Start(b.ctx, "dbus", "/usr/bin/env", "LD_LIBRARY_PATH=/run/bus", "/run/bus/dbus-daemon", "--config-file=/run/bus/bus.conf", "--nofork", "--nopidfile")
	b.must(err)
	logind, err = b.node.Start(b.ctx, "logind", "/run/logind", busSocket)
	b.must(err)
	b.awaitLog(logind, 15*time.Second, "serving")
	b.must(b.node.KillPlugin(b.ctx))
	b.must(b.node.StartPlugin(b.ctx))
	b.awaitLog(logind, 15*time.Second, "lock taken by Holdfast")
	return logind, func() {
		_ = logind.Kill(b.ctx)
		_ = bus.Kill(b.ctx)
		b.sh("rm -rf /run/bus /run/dbus /run/logind")
	}
}

var library = regexp.MustCompile(`=> (/\S+)`)

// putDaemon copies dbus-daemon with its libraries to a directory of the node.
func (b *bench) putDaemon(dir string) {
	b.Helper()
	path, err := exec.LookPath("dbus-daemon")
	b.must(err)
	out, err := exec.CommandContext(b.ctx, "ldd", path).Output()
	b.must(err)
	files := []string{path}
	for _, m := range library.FindAllStringSubmatch(string(out), -1) {
		files = append(files, m[1])
	}
	for _, file := range files {
		if !strings.HasPrefix(filepath.Base(file), "libc.so") {
			b.must(b.node.Put(b.ctx, file, filepath.Join(dir, filepath.Base(file)), os.FileMode(0o755)))
		}
	}
}

func (b *bench) awaitLog(p *vm.Process, limit time.Duration, pattern string) {
	b.Helper()
	want := regexp.MustCompile(pattern)
	b.within(limit, "a log says "+pattern, func(ctx context.Context) error {
		text, err := p.Log(ctx)
		if err == nil && !want.MatchString(text) {
			err = fmt.Errorf("it says %q", text)
		}
		return err
	})
}

// hangs fails the test if a command ends within the time; it stays behind.
func (b *bench) hangs(command string, limit time.Duration) {
	b.Helper()
	out := b.sh("(%s >/dev/null 2>&1; echo ended >/run/hung) </dev/null & sleep %.1f; cat /run/hung 2>/dev/null || true; rm -f /run/hung", command, limit.Seconds())
	if out != "" {
		b.Errorf("%s did not hang", command)
	}
}

// ends fails the test if a command hangs. How it ends is its own business.
func (b *bench) ends(command string, limit time.Duration) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, limit)
	defer cancel()
	out, err := b.node.Shell(ctx, command+" 2>&1 || true")
	if ctx.Err() != nil {
		b.Fatalf("%s hangs: %v", command, err)
	}
	b.Logf("%s: %q", command, out)
}
