package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/holdfast-csi/holdfast"

// pkg is what go list says of a package, with paths cut to begin below the
// module.
type pkg struct {
	Name, ImportPath, Dir              string
	GoFiles                            []string
	Imports, TestImports, XTestImports []string
}

// load lists every package, those behind the build tag of the virtual machines
// included.
func load(t *testing.T) map[string]pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-tags", "vm", "-json=Name,ImportPath,Dir,GoFiles,Imports,TestImports,XTestImports", module+"/...")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v: %s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	all := map[string]pkg{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, list := range []*[]string{&p.Imports, &p.TestImports, &p.XTestImports} {
			for i := range *list {
				(*list)[i] = strings.TrimPrefix((*list)[i], module+"/")
			}
		}
		for _, f := range append(p.GoFiles, ".") {
			// So that a cached result of this test ends when a file changes.
			if _, err := os.Stat(filepath.Join(p.Dir, f)); err != nil {
				t.Fatal(err)
			}
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, module+"/")
		all[p.ImportPath] = p
	}
	if len(all) < 40 {
		t.Fatalf("only %d packages", len(all))
	}
	return all
}

// isTest tells the packages that only tests use: everything below test, and the
// fakes and contracts beside what they stand for (agenttest, nodetest, …).
func isTest(name string) bool {
	return name == "test" || strings.HasPrefix(name, "test/") || strings.HasSuffix(path.Base(name), "test")
}

// matches says whether name is pattern, or below it if pattern ends with "/...".
func matches(pattern, name string) bool {
	above, deep := strings.CutSuffix(pattern, "/...")
	return name == above || deep && strings.HasPrefix(name, above+"/")
}

func anyMatch(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, name) })
}

// reserved are packages that only some may import. Tests may import all of
// them: they look at the inside.
var reserved = []struct {
	what string
	by   []string
	why  string
}{
	{
		"google.golang.org/grpc/...",
		[]string{"internal/app", "pkg/driver", "internal/agent", "internal/agent/agentpb", "internal/rpcerr", "internal/agentclient", "internal/registration"},
		"gRPC is how the parts speak to each other; the workflows must not depend on it, or they could not be tested and embedded without",
	},
	{
		"google.golang.org/genproto/...", []string{"internal/rpcerr"},
		"one package chooses codes and their details",
	},
	{
		"github.com/container-storage-interface/spec/...", []string{"internal/app", "pkg/driver"},
		"CSI is one way in; what lies behind it knows volumes, not requests",
	},
	{
		"os/exec", []string{"internal/command"},
		"programs are run at one place, with one locale, a bound on their output, and an end",
	},
	{
		"go.etcd.io/bbolt/...", []string{"internal/store"},
		"how records are kept is nobody else's business",
	},
	{
		"github.com/google/nftables/...", []string{"internal/gate"},
		"the firewall is touched at one place",
	},
	{
		"github.com/godbus/dbus/v5/...", []string{"internal/shutdown"},
		"the host's services are spoken to at one place",
	},
	{
		"github.com/moby/sys/mount/...", []string{"internal/filesystem"},
		"mounts are made at one place",
	},
	{
		"github.com/spf13/cobra/...", []string{"internal/app"},
		"the command line is the shell around the parts",
	},
	{
		"internal/app", []string{"cmd/holdfast"},
		"it builds everything and is a part of nothing",
	},
}

func TestReserved(t *testing.T) {
	t.Parallel()
	all := load(t)
	for _, rule := range reserved {
		used := false
		for _, p := range all {
			if isTest(p.ImportPath) {
				continue
			}
			for _, i := range p.Imports {
				if !matches(rule.what, i) {
					continue
				}
				used = true
				if !anyMatch(rule.by, p.ImportPath) && !matches(rule.what, p.ImportPath) {
					t.Errorf("%s imports %s, which only %v may: %s", p.ImportPath, i, rule.by, rule.why)
				}
			}
		}
		if !used {
			t.Errorf("nobody imports %s any more: take the rule away", rule.what)
		}
		for _, by := range rule.by {
			wantPackage(t, all, by)
		}
	}
}

// wantPackage: a rule about a package that is not there guards nothing.
func wantPackage(t *testing.T, all map[string]pkg, name string) {
	t.Helper()
	if _, ok := all[name]; !ok {
		t.Errorf("a rule names %s, and there is no such package: the rule has to follow it", name)
	}
}

// barred are imports that a package must not have.
var barred = []struct {
	who  string
	what []string
	why  string
}{
	{
		"internal/node", []string{"internal/backend", "internal/agent/...", "internal/agentclient", "pkg/driver", "internal/watch", "internal/config"},
		"the workflows are given an attachment and somebody to ask; they neither find storage hosts nor know CSI",
	},
	{
		"internal/watch", []string{"internal/node", "internal/agentclient", "pkg/driver"},
		"the watch looks and decides alone; what acts is given to it, and runs beside its loop",
	},
	{
		"internal/backend", []string{"internal/agent/...", "internal/agentclient", "internal/node"},
		"it is given its hosts, and opens no connection",
	},
	{
		"internal/agent", []string{"internal/node", "internal/initiator", "internal/filesystem", "internal/backend", "internal/agentclient", "pkg/driver"},
		"the storage host and the node are different machines",
	},
	{
		"pkg/driver", []string{"internal/agent/...", "internal/agentclient", "internal/store", "internal/nvmet", "internal/gate", "internal/pool/..."},
		"the CSI services see a storage host as volume.Backend only",
	},
	{
		"internal/rpcerr", []string{"internal/agent/...", "pkg/driver", "internal/node"},
		"the table of codes is below everybody who answers with them",
	},
}

func TestBarred(t *testing.T) {
	t.Parallel()
	all := load(t)
	for _, rule := range barred {
		wantPackage(t, all, rule.who)
		for _, what := range rule.what {
			wantPackage(t, all, strings.TrimSuffix(what, "/..."))
		}
		for _, i := range all[rule.who].Imports {
			if anyMatch(rule.what, i) {
				t.Errorf("%s imports %s: %s", rule.who, i, rule.why)
			}
		}
	}
}

// leaves may import nothing of the project but what is listed.
var leaves = []struct {
	who string
	may []string
	why string
}{
	{"internal/volume", nil, "the words of the domain are below everything"},
	{"pkg/nvme", nil, "it is pure, and usable without the rest"},
	{"pkg/utils", nil, "it is usable without the rest"},
	{"internal/nvmesysfs", []string{"internal/volume", "pkg/nvme"}, "it reads what the kernel shows, whoever asks"},
	{"internal/nvmet", []string{"internal/volume", "pkg/nvme"}, "from a desired state to steps, whoever desires it"},
	{"internal/gate", []string{"internal/volume", "pkg/nvme"}, "it closes and opens ports, whoever asks"},
	{"internal/command", []string{"internal/volume"}, "it runs programs, whoever asks"},
	{"internal/pause", nil, "it waits, whoever is in no hurry"},
	{"internal/keylock", []string{"internal/volume"}, "a lock knows nothing of what is locked"},
	{"internal/shutdown", nil, "it hears of the machine's end, whoever has to act"},
	{"internal/ownership", nil, "it writes down whose a controller is, whoever asks"},
	{"internal/wholefile", nil, "it writes files, whatever is in them"},
	{"internal/statefile", []string{"internal/volume", "internal/wholefile"}, "it keeps records and does not know of what"},
	{"internal/rpcerr", []string{"internal/volume"}, "the table of codes is below everybody who answers with them"},
	{"internal/config", []string{"internal/volume", "pkg/nvme"}, "it reads files, and opens and starts nothing"},
	{"internal/pki", []string{"internal/volume", "internal/wholefile"}, "it issues and reads certificates, and makes no connection"},
	{"internal/store", []string{"internal/volume", "internal/wholefile"}, "it keeps records, and does nothing about them"},
	{"internal/backend", []string{"internal/volume"}, "it is given its hosts, and opens no connection"},
}

func TestLeaves(t *testing.T) {
	t.Parallel()
	all := load(t)
	for _, rule := range leaves {
		wantPackage(t, all, rule.who)
		for _, may := range rule.may {
			wantPackage(t, all, may)
		}
		for _, i := range all[rule.who].Imports {
			if _, ours := all[i]; ours && !anyMatch(rule.may, i) {
				t.Errorf("%s imports %s and may import only %v of the project: %s", rule.who, i, rule.may, rule.why)
			}
		}
	}
}

// TestTestPackages: what is made for tests gets into no program.
func TestTestPackages(t *testing.T) {
	t.Parallel()
	all := load(t)
	for _, p := range all {
		if isTest(p.ImportPath) {
			continue
		}
		for _, i := range p.Imports {
			if _, ours := all[i]; ours && isTest(i) || i == "testing" {
				t.Errorf("%s imports %s outside of its tests", p.ImportPath, i)
			}
		}
	}
}

// vague are names that say nothing of what a package is for, so that everything
// ends up in it.
var vague = []string{"util", "utils", "common", "helper", "helpers", "misc", "base", "lib", "shared", "core", "types"}

func TestNames(t *testing.T) {
	t.Parallel()
	all := load(t)
	const asked = "pkg/utils" // its name was given from outside
	wantPackage(t, all, asked)
	for _, p := range all {
		if p.ImportPath == asked {
			continue
		}
		for _, name := range append(strings.Split(p.ImportPath, "/"), p.Name) {
			if slices.Contains(vague, name) {
				t.Errorf("%s: %q says nothing of what is in it", p.ImportPath, name)
			}
		}
	}
}
