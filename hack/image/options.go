package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/holdfast-csi/holdfast/hack/image/internal/cli"
	"github.com/holdfast-csi/holdfast/hack/image/internal/command"
)

const help = `Builds Holdfast's container image for linux/amd64 and linux/arm64: no daemon, no root.

It needs Go, and apt and dpkg-deb, which Debian and Ubuntu have. It writes

  oci/                an OCI image layout with one index of all architectures
  holdfast-ARCH.tar   the same image for docker load and ctr images import
  packages-ARCH.txt   what is in it from Debian: package, version, sha256

With the same commit, version, packages, Go and SOURCE_DATE_EPOCH (seconds since 1970; default 0) all of it is the same
byte for byte. Relative paths start at the directory that this runs in: with go -C that is hack/image.

Examples, at the root of the repository:
  go -C hack/image run .                                         build both, under build/image
  go -C hack/image run . --version 0.3.0 --push ghcr.io/you/holdfast:0.3.0
  go -C hack/image run . --arch amd64 --tag registry.local/holdfast:test
  go -C hack/image run . --version 0.3.0 --packages /path/of/release-0.3.0   build a release again
  ctr -n k8s.io images import build/image/holdfast-amd64.tar

Flags:
  --arch LIST      architectures, with commas between (amd64,arm64)
  --version V      what holdfast --version says (what git describe says, or dev)
  --tag REF        name in the archives (holdfast-csi/holdfast:VERSION)
  --out DIR        where the result goes (build/image)
  --cache DIR      where packages, apt's lists and binaries are kept (build/cache/image)
  --packages DIR   take exactly the packages in that directory's packages-ARCH.txt
  --sources FILE   have apt use this sources file, .list or .sources, and not the machine's
  --refresh        get apt's lists although those of the cache are younger than a day
  --push REF       push the index there, with the credentials that docker login or crane auth login left
  --check          run each program inside the image of this machine's architecture: done if this machine can, and said
                   if not; --check insists, --check=false leaves it out
`

// checkMode is whether the result is tried.
type checkMode int

const (
	checkIfPossible checkMode = iota
	checkAlways
	checkNever
)

// options are the flags, checked. Paths are absolute.
type options struct {
	root    string // of the repository
	version string
	tag     name.Tag
	archs   []string
	out     string
	cache   string
	pins    string // directory of packages-ARCH.txt; "" for what apt finds
	sources string // "" for the machine's
	refresh bool
	push    *name.Tag // nil to push nowhere
	check   checkMode
	when    time.Time // of every file, and of the image
}

// raw are the flags as they were written.
type raw struct {
	version, tag, arch, out, cache, pins, sources, push string
	refresh, check, checkSet                            bool
}

// parseOptions returns flag.ErrHelp if help is asked for.
func parseOptions(ctx context.Context, args []string, env func(string) (string, bool)) (*options, error) {
	r, err := parseFlags(args)
	if err != nil {
		return nil, err
	}
	root, err := cli.Root()
	if err != nil {
		return nil, err
	}
	if r.version == "" {
		r.version = describe(ctx, root)
	}
	return r.options(root, env)
}

func parseFlags(args []string) (raw, error) {
	var r raw
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // errors are printed once, by run
	flags.StringVar(&r.version, "version", "", "")
	flags.StringVar(&r.tag, "tag", "", "")
	flags.StringVar(&r.arch, "arch", "amd64,arm64", "")
	flags.StringVar(&r.out, "out", "", "")
	flags.StringVar(&r.cache, "cache", "", "")
	flags.StringVar(&r.pins, "packages", "", "")
	flags.StringVar(&r.sources, "sources", "", "")
	flags.StringVar(&r.push, "push", "", "")
	flags.BoolVar(&r.refresh, "refresh", false, "")
	flags.BoolVar(&r.check, "check", true, "")
	if err := flags.Parse(args); err != nil {
		return r, err
	}
	if flags.NArg() > 0 {
		return r, fmt.Errorf("argument %q: there are only flags", flags.Arg(0))
	}
	flags.Visit(func(f *flag.Flag) { r.checkSet = r.checkSet || f.Name == "check" })
	return r, nil
}

// options checks; it reads nothing and makes nothing.
func (r raw) options(root string, env func(string) (string, bool)) (*options, error) {
	o := &options{root: root, version: r.version, refresh: r.refresh, check: r.checkMode()}
	var err error
	if !versionForm.MatchString(o.version) {
		return nil, fmt.Errorf("--version %q: want letters, digits and any of ._+-, and a letter or digit first", o.version)
	}
	if o.archs, err = parseArchs(r.arch); err != nil {
		return nil, err
	}
	if r.tag == "" {
		r.tag = "holdfast-csi/holdfast:" + o.version
	}
	if o.tag, err = cli.Tag("--tag", r.tag); err != nil {
		return nil, err
	}
	if r.push != "" {
		push, err := parsePush(r.push)
		if err != nil {
			return nil, err
		}
		o.push = &push
	}
	if o.when, err = cli.Epoch(env); err != nil {
		return nil, err
	}
	return o, o.setPaths(r)
}

func (r raw) checkMode() checkMode {
	switch {
	case !r.check:
		return checkNever
	case r.checkSet:
		return checkAlways
	default:
		return checkIfPossible
	}
}

func (o *options) setPaths(r raw) error {
	for _, p := range []struct {
		to            *string
		value, preset string
	}{
		{&o.out, r.out, filepath.Join(o.root, "build", "image")},
		{&o.cache, r.cache, cli.Cache(o.root)},
		{&o.pins, r.pins, ""},
		{&o.sources, r.sources, ""},
	} {
		var err error
		if *p.to, err = cli.Path(p.value, p.preset); err != nil {
			return err
		}
	}
	if o.out == o.cache {
		return fmt.Errorf("--out and --cache are both %s: want two directories", o.out)
	}
	return nil
}

// versionForm keeps what would end the flag of the linker that the version goes into.
var versionForm = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._+-]*$`)

func parseArchs(list string) ([]string, error) {
	var archs []string
	for arch := range strings.SplitSeq(list, ",") {
		if arch != "amd64" && arch != "arm64" {
			return nil, fmt.Errorf("--arch %q: %q is neither amd64 nor arm64", list, arch)
		}
		if !slices.Contains(archs, arch) {
			archs = append(archs, arch)
		}
	}
	slices.Sort(archs) // the index does not depend on the order of the flag
	return archs, nil
}

// dockerHub is how everybody calls what the library calls index.docker.io.
const dockerHub = "docker.io"

// parsePush wants a registry too: nothing goes to Docker Hub because a name was left out.
func parsePush(text string) (name.Tag, error) {
	tag, err := cli.Tag("--push", text)
	if err != nil {
		return tag, err
	}
	if !strings.HasPrefix(text, tag.RegistryStr()+"/") && !strings.HasPrefix(text, dockerHub+"/") {
		return tag, fmt.Errorf("--push %q: want REGISTRY/REPOSITORY:TAG, and there is no registry", text)
	}
	return tag, nil
}

// describe returns what git says of the commit, or dev if there is no git to ask.
func describe(ctx context.Context, root string) string {
	out, err := command.Run(ctx, root, "git", "describe", "--tags", "--always", "--dirty")
	if said := strings.TrimSpace(string(out)); err == nil && said != "" {
		return said
	}
	return "dev"
}
