package debian

import (
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/hack/image/internal/debian/debiantest"
)

// extensible is Small, and a program that opens shared objects which it does not name.
func extensible() *debiantest.Archive {
	const lib = "/usr/lib/x86_64-linux-gnu/"
	a := debiantest.Small()
	a.Packages["db"] = debiantest.Package{Depends: []string{"libxml2", "libllvm14", "libc6"}, Files: map[string]string{
		"/usr/lib/db/xml.so": debiantest.Library("libxml2.so.2"), "/usr/lib/db/jit.so": debiantest.Library("libLLVM-14.so.1"),
		"/usr/lib/db/jit/types.bc": "BC", "/usr/lib/dbx/other.so": debiantest.Library("libLLVM-14.so.1"),
		"/usr/share/db/sql": "select", "/usr/share/db/one": "-> /usr/lib/db-one/real.so", "/usr/lib/db-one/real.so": debiantest.Library("libc.so.6"),
		"/usr/share/db/nowhere": "-> /etc/localtime", "/usr/share/db/dir": "-> ../../lib/dbx", "/usr/share/dbdata": "-> db",
		"/usr/share/doc/db/copyright": "c",
	}}
	a.Packages["libxml2"] = debiantest.Package{Files: map[string]string{
		lib + "libxml2.so.2": debiantest.Library(), "/usr/share/doc/libxml2/copyright": "c",
	}}
	a.Packages["libllvm14"] = debiantest.Package{Files: map[string]string{
		lib + "libLLVM-14.so.1": debiantest.Library(), "/usr/share/doc/libllvm14/copyright": "c",
	}}
	return a
}

func TestTrees(t *testing.T) {
	const lib = "/usr/lib/x86_64-linux-gnu/"
	const llvm = lib + "libLLVM-14.so.1"
	for name, c := range map[string]struct {
		trees, without, has, hasNot []string
	}{
		"all": {trees: []string{"/usr/lib/db"},
			has:    []string{"/usr/lib/db/xml.so", "/usr/lib/db/jit.so", "/usr/lib/db/jit/types.bc", lib + "libxml2.so.2", llvm},
			hasNot: []string{"/usr/lib/dbx", "/usr/share/db"}},
		"without": {trees: []string{"/usr/lib/db"}, without: []string{"jit.so", "jit", "db", "nothing"},
			has: []string{"/usr/lib/db/xml.so"}, hasNot: []string{"/usr/lib/db/jit.so", "/usr/lib/db/jit", llvm}},
		"links": {trees: []string{"/usr/share/db"},
			has:    []string{"/usr/share/db/sql", "/usr/share/db/one", "/usr/lib/db-one/real.so", "/usr/share/db/nowhere", "/usr/share/db/dir", lib + "libc.so.6"},
			hasNot: []string{"/usr/lib/dbx/other.so", llvm, "/etc/localtime"}},
		"through a link": {trees: []string{"/usr/share/dbdata"}, has: []string{"/usr/share/dbdata", "/usr/share/db/sql"}},
		"a file":         {trees: []string{"/usr/share/db/sql"}, has: []string{"/usr/share/db/sql"}, hasNot: []string{"/usr/share/db/one"}},
		"two":            {trees: []string{"/usr/share/db/sql", "/lib/db"}, without: []string{"jit.so"}, has: []string{"/usr/share/db/sql", "/usr/lib/db/xml.so"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := Request{Packages: []string{"db"}, Trees: c.trees, Without: c.without}
			got, err := Pick(t.Context(), extensible(), "amd64", r)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range c.has {
				if _, ok := got.Tree.Get(name); !ok {
					t.Errorf("no %s", name)
				}
			}
			for _, name := range c.hasNot {
				if _, ok := got.Tree.Get(name); ok {
					t.Errorf("there is %s", name)
				}
			}
			if has, want := slices.Contains(names(got), "libllvm14"), slices.Contains(c.has, llvm); has != want {
				t.Errorf("packages %q", names(got))
			}
		})
	}
}

func TestTreesFail(t *testing.T) {
	for name, c := range map[string]struct {
		tree, program, want string
	}{
		"no such tree":    {"/usr/share/nothing", "", "tree /usr/share/nothing of package db or e2fsprogs"},
		"no such program": {"/usr/share/db", "/usr/bin/nothing", "program /usr/bin/nothing of package db or e2fsprogs"},
		"of its library":  {"/usr/lib/x86_64-linux-gnu", "", "tree /usr/lib/x86_64-linux-gnu of package db"},
	} {
		r := Request{Packages: []string{"db", "e2fsprogs", "db"}, Trees: []string{c.tree}}
		if c.program != "" {
			r.Programs = []Program{{Path: c.program}}
		}
		if _, err := Pick(t.Context(), extensible(), "amd64", r); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
