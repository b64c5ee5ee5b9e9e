package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"path"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/holdfast-csi/holdfast/hack/image/internal/cli"
	"github.com/holdfast-csi/holdfast/hack/image/internal/deb"
	"github.com/holdfast-csi/holdfast/hack/image/internal/debian"
)

const help = `Makes a container image of Debian's programs for tests, for this architecture: no daemon, no root.

It needs apt and dpkg-deb, which Debian and Ubuntu have, and writes an archive for docker load and ctr images import.
With the same flags, versions of packages, Go and SOURCE_DATE_EPOCH (seconds since 1970; default 0) it is the same byte
for byte. What is to be in the image is given by paths that the packages named have; libraries come from the packages
that these depend on. Relative paths of --out and the like start at the directory that this runs in: with go -C that is
hack/image.

Examples, at the root of the repository:
  go -C hack/image run ./cmd/debimage --tag localhost/busybox:test --out /path/of/busybox.tar --busybox

  pg=/usr/lib/postgresql/15 share=/usr/share/postgresql/15   # the version that Debian 12 has
  go -C hack/image run ./cmd/debimage --tag localhost/postgres:test --out /path/of/postgres.tar \
    --package postgresql-15 --package postgresql-client-15 --package tzdata --package libc-bin \
    --program $pg/bin/postgres --program $pg/bin/initdb --program $pg/bin/pg_ctl --program $pg/bin/pg_isready \
    --program $pg/bin/psql --program $pg/bin/pgbench --program /usr/bin/locale --busybox \
    --tree $pg/lib --without llvmjit.so --without bitcode --without pgxs --tree $share --without man \
    --tree /usr/share/zoneinfo --without localtime --without posix --without right --tree /usr/lib/locale/C.utf8 \
    --user 999:postgres --dir /run/postgresql

Flags; those with (...) can be given several times:
  --tag REF        name in the archive
  --out FILE       the archive
  --package NAME   (...) a package to take something from
  --program PATH   (...) a program, with the libraries that it needs; its directory is in the PATH of the image
  --tree PATH      (...) a directory or a file as it is, with the libraries that programs and libraries in it need
  --without NAME   (...) leave out what is called so in a directory of --tree, if anything is
  --dir PATH       (...) make a directory that everybody may write to, as /tmp and /run are
  --user UID:NAME  have a user, a group, and their home /var/lib/NAME, which is nobody else's
  --busybox        have a shell, and what else busybox can be, in /bin; from Debian's busybox-static
  --cache DIR      where packages and apt's lists are kept (build/cache/image)
  --sources FILE   have apt use this sources file, .list or .sources, and not the machine's
  --refresh        get apt's lists although those of the cache are younger than a day

The image has no entry point, and root is its user: who runs it says what is run, and as whom. LANG is C.
`

// options are the flags, checked. Paths are absolute.
type options struct {
	tag     name.Tag
	arch    string // this machine's
	out     string
	cache   string
	sources string // "" for the machine's
	refresh bool
	busybox bool
	dirs    []string // everybody's
	request debian.Request
	when    time.Time // of every file, and of the image
}

// raw are the flags as they were written.
type raw struct {
	tag, out, cache, sources, user           string
	packages, programs, trees, without, dirs []string
	refresh, busybox                         bool
}

// parseOptions returns flag.ErrHelp if help is asked for.
func parseOptions(args []string, env func(string) (string, bool)) (*options, error) {
	r, err := parseFlags(args)
	if err != nil {
		return nil, err
	}
	root, err := cli.Root()
	if err != nil {
		return nil, err
	}
	return r.options(root, env)
}

func parseFlags(args []string) (raw, error) {
	var r raw
	flags := flag.NewFlagSet("debimage", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // errors are printed once, by cli
	for name, to := range map[string]*string{
		"tag": &r.tag, "out": &r.out, "cache": &r.cache, "sources": &r.sources, "user": &r.user,
	} {
		flags.StringVar(to, name, "", "")
	}
	for name, to := range map[string]*[]string{
		"package": &r.packages, "program": &r.programs, "tree": &r.trees, "without": &r.without, "dir": &r.dirs,
	} {
		flags.Func(name, "", func(value string) error {
			*to = append(*to, value)
			return nil
		})
	}
	flags.BoolVar(&r.refresh, "refresh", false, "")
	flags.BoolVar(&r.busybox, "busybox", false, "")
	if err := flags.Parse(args); err != nil {
		return r, err
	}
	if flags.NArg() > 0 {
		return r, fmt.Errorf("argument %q: there are only flags", flags.Arg(0))
	}
	return r, nil
}

// options checks; it reads nothing and makes nothing.
func (r raw) options(root string, env func(string) (string, bool)) (*options, error) {
	o := &options{arch: runtime.GOARCH, refresh: r.refresh, busybox: r.busybox, dirs: r.dirs}
	var err error
	if o.tag, err = cli.Tag("--tag", r.tag); err != nil {
		return nil, err
	}
	if r.out == "" {
		return nil, errors.New("--out: want a file to write")
	}
	if o.when, err = cli.Epoch(env); err != nil {
		return nil, err
	}
	for _, p := range []struct {
		to            *string
		value, preset string
	}{{&o.out, r.out, ""}, {&o.cache, r.cache, cli.Cache(root)}, {&o.sources, r.sources, ""}} {
		if *p.to, err = cli.Path(p.value, p.preset); err != nil {
			return nil, err
		}
	}
	if err := checkPaths("--dir", r.dirs); err != nil {
		return nil, err
	}
	o.request, err = r.request()
	return o, err
}

// request is what the flags ask of Debian.
func (r raw) request() (debian.Request, error) {
	q := debian.Request{Packages: r.packages, Trees: r.trees, Without: r.without}
	if err := errors.Join(checkPaths("--program", r.programs), checkPaths("--tree", r.trees)); err != nil {
		return q, err
	}
	for _, p := range q.Packages {
		if !deb.IsName(p) {
			return q, fmt.Errorf("--package %q: want a name of lower-case letters, digits and any of .+-", p)
		}
	}
	for _, p := range r.programs {
		q.Programs = append(q.Programs, debian.Program{Path: p})
	}
	for _, n := range q.Without {
		if n == "" || strings.Contains(n, "/") {
			return q, fmt.Errorf("--without %q: want the name of a file, without a directory", n)
		}
	}
	if r.busybox {
		q.Programs = append(q.Programs, debian.Program{Path: busyboxPath, Package: busyboxPackage})
	}
	if len(q.Programs)+len(q.Trees) == 0 {
		return q, errors.New("the image would be empty: want --program, --tree or --busybox")
	}
	if r.user == "" {
		return q, nil
	}
	user, err := parseUser(r.user)
	q.Users = []debian.User{user}
	return q, err
}

// checkPaths wants paths as the image has them. Those of programs get into its PATH, where a colon ends one.
func checkPaths(flagName string, paths []string) error {
	for _, p := range paths {
		if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.Contains(p, ":") {
			return fmt.Errorf("%s %q: want an absolute path in the image, without a colon, and with nothing like // or .. in it",
				flagName, p)
		}
	}
	return nil
}

// userForm is what can be a name in /etc/passwd and of a directory.
var userForm = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)

func parseUser(text string) (debian.User, error) {
	number, user, _ := strings.Cut(text, ":")
	id, err := strconv.ParseUint(number, 10, 31)
	if err != nil || id == 0 || !userForm.MatchString(user) || user == "root" {
		return debian.User{}, fmt.Errorf("--user %q: want UID:NAME, neither of them root's", text)
	}
	return debian.User{Name: user, ID: int(id), Home: "/var/lib/" + user}, nil
}
