package deb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/hack/image/internal/command"
)

// Apt is apt with lists, state and cache of its own. The caller holds a lock on Dir.
type Apt struct {
	Run     command.Runner
	Dir     string // absolute
	Arch    string // Debian's name, which for those we build is Go's too
	Sources string // absolute path of a sources file, .list or .sources; "" has apt use the machine's
	Refresh bool   // get new lists, however young those of the cache are

	updated bool
}

// maxAge is how old lists may be before they are got again.
const maxAge = 24 * time.Hour

// configuration makes apt work in a directory of its own. The machine's own settings come before it, so that proxies
// and the like still hold, but what they hook to an update is about the machine's lists and is cleared. Lists of
// translations and of desktop software are left out. apt works as who runs it, for the user that it would become may
// not enter the directory.
const configuration = `Dir::State "%[1]s/state";
Dir::State::status "%[1]s/status";
Dir::Cache "%[1]s/cache";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "srcpkgcache.bin";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "%[2]s";
#clear APT::Architectures;
APT::Architectures "%[2]s";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Update::Error-Mode "any";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Debug::NoLocking "true";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
`

const sourcesConfiguration = `Dir::Etc::sourcelist "%s";
Dir::Etc::sourceparts "/dev/null";
`

// Prepare makes the directory what apt expects.
func (a *Apt) Prepare() error {
	if strings.ContainsAny(a.Dir+a.Sources, "\"\n") {
		return fmt.Errorf("apt's directory %q, sources %q: neither may contain a quote or a line break", a.Dir, a.Sources)
	}
	for _, dir := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.Dir, dir), 0o755); err != nil {
			return err
		}
	}
	text := fmt.Sprintf(configuration, a.Dir, a.Arch)
	if a.Sources != "" {
		text += fmt.Sprintf(sourcesConfiguration, a.Sources)
	}
	return errors.Join(
		os.WriteFile(filepath.Join(a.Dir, "status"), nil, 0o644), // nothing is installed
		os.WriteFile(filepath.Join(a.Dir, "apt.conf"), []byte(text), 0o644),
	)
}

// stamp is a file that is as old as the lists.
func (a *Apt) stamp() string { return filepath.Join(a.Dir, "updated") }

func (a *Apt) fresh() bool {
	info, err := os.Stat(a.stamp())
	return err == nil && time.Since(info.ModTime()).Abs() < maxAge
}

func (a *Apt) update(ctx context.Context) error {
	if _, err := a.run(ctx, "", "apt-get", "-q", "update"); err != nil {
		return fmt.Errorf("get package lists for %s: %w", a.Arch, err)
	}
	a.updated = true
	return os.WriteFile(a.stamp(), nil, 0o644)
}

func (a *Apt) run(ctx context.Context, dir, program string, args ...string) ([]byte, error) {
	return a.Run(ctx, dir, append([]string{program, "-c", filepath.Join(a.Dir, "apt.conf")}, args...)...)
}

// try does what needs lists. If it fails with lists that are not of this run, they are got anew and it is tried once
// more: old lists name versions that are gone, and do not know those that have come.
func (a *Apt) try(ctx context.Context, do func() error) error {
	if !a.updated && (a.Refresh || !a.fresh()) {
		if err := a.update(ctx); err != nil {
			return err
		}
	}
	err := do()
	if err == nil || a.updated || ctx.Err() != nil {
		return err
	}
	if updateErr := a.update(ctx); updateErr != nil {
		return errors.Join(err, updateErr)
	}
	return do()
}

// Resolve returns the packages named and all that they depend on, in the versions that apt would install together.
func (a *Apt) Resolve(ctx context.Context, names []string) ([]Package, error) {
	var packages []Package
	err := a.try(ctx, func() error {
		out, err := a.run(ctx, "", "apt-get", append([]string{"-q", "-s", "install"}, names...)...)
		if err != nil {
			return err
		}
		versions, err := parseSimulation(string(out))
		if err != nil {
			return err
		}
		if out, err = a.run(ctx, "", "apt-cache", append([]string{"-q", "show"}, versions...)...); err != nil {
			return err
		}
		packages, err = parseStanzas(string(out))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ask apt for %s of %s: %w", strings.Join(names, ", "), a.Arch, err)
	}
	return packages, nil
}

// download gets the .deb into a directory that is empty, and returns its path.
func (a *Apt) download(ctx context.Context, dir string, p Package) (string, error) {
	err := a.try(ctx, func() error {
		_, err := a.run(ctx, dir, "apt-get", "-q", "download", p.Name+"="+p.Version)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("download %s for %s, which apt's sources may no longer have: %w", p, a.Arch, err)
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("download %s for %s: %d files came instead of one", p, a.Arch, len(debs))
	}
	return debs[0], nil
}
