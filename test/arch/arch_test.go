// Package arch holds the rules of who may import whom, each with its reason. It
// looks at imports only.
package arch

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/holdfast-csi/holdfast/"

// rule: only the packages named (below the module) may import what begins with
// imports. Test code is free.
type rule struct {
	imports string
	only    []string
	reason  string
}

var rules = []rule{
	{"google.golang.org/grpc", []string{"internal/app", "pkg/driver", "internal/agent", "internal/agent/agentpb", "internal/agent/agenttest", "internal/rpcerr", "internal/agentclient"},
		"codes and transports are the edge's business"},
	{"github.com/container-storage-interface/", []string{"internal/app", "pkg/driver"}, "CSI is translated in one place"},
	{"os/exec", []string{"internal/command"}, "programs are run by one runner, with a deadline and without secrets"},
	{module + "pkg/driver", []string{"internal/app"}, "the RPC layer is the outside; nothing inside leans on it"},
	{module + "internal/app", []string{"cmd/holdfast"}, "what puts the parts together is used by none of them"},
	{module + "internal/node", []string{"internal/app", "pkg/driver", "internal/node/nodetest"}, "workflows are driven by CSI alone"},
	{module + "internal/agent", []string{"internal/app", "internal/agent/agenttest", "internal/agentclient"}, "the storage host's side is reached over its contract"},
	{module + "internal/store", []string{"internal/agent", "internal/agent/agenttest", "internal/app"}, "records are the agent's"},
}

func TestWhoImportsWhom(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"internal/...", module+"pkg/...", module+"cmd/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		pkg := strings.TrimPrefix(fields[0], module)
		seen[pkg] = true
		for _, imported := range fields[1:] {
			check(t, pkg, imported)
		}
	}
	for _, r := range rules {
		for _, p := range r.only {
			if !seen[p] {
				t.Errorf("a rule names package %s, which does not exist", p)
			}
		}
	}
}

func check(t *testing.T, pkg, imported string) {
	t.Helper()
	if pkg == "internal/volume" && strings.HasPrefix(imported, module) {
		t.Errorf("internal/volume imports %s: it is the inside and imports nothing of the project", imported)
	}
	for _, r := range rules {
		matches := imported == r.imports || strings.HasPrefix(imported, strings.TrimSuffix(r.imports, "/")+"/") && !strings.HasPrefix(r.imports, module)
		if matches && !slices.Contains(r.only, pkg) {
			t.Errorf("%s imports %s: %s", pkg, imported, r.reason)
		}
	}
}
