package elfdep

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/hack/image/internal/elfdep/elftest"
	"github.com/holdfast-csi/holdfast/hack/image/internal/rootfs"
)

// tree has files, and links where the content starts with "-> ".
func tree(t *testing.T, files map[string]string) *rootfs.Tree {
	t.Helper()
	tr := &rootfs.Tree{}
	for _, name := range []string{"lib", "lib64"} {
		if err := errors.Join(tr.Directory("/usr/"+name, 0o755), tr.Link("usr/"+name, "/"+name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range files {
		put := func() error { return tr.Bytes(name, []byte(content), 0o755) }
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			put = func() error { return tr.Link(target, name) }
		}
		if err := put(); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

func build(f elftest.File) string { return string(elftest.Build(f)) }

const linker = "/lib64/ld-linux-x86-64.so.2"

var errNone = errors.New("there is no more")

func none(string, string) error { return errNone }

func TestClosure(t *testing.T) {
	const lib = "/usr/lib/x86_64-linux-gnu/"
	tr := tree(t, map[string]string{
		"/usr/sbin/mke2fs":                    build(elftest.File{Interpreter: linker, Needs: []string{"liba.so.1", "libc.so.6"}}),
		"/usr/sbin/mkfs":                      "-> mke2fs",
		"/usr/sbin/static":                    build(elftest.File{}),
		lib + "liba.so.1":                     "-> liba.so.1.2",
		lib + "liba.so.1.2":                   build(elftest.File{Needs: []string{"libb.so.1", "libc.so.6"}}),
		"/lib/libb.so.1":                      build(elftest.File{Needs: []string{"liba.so.1"}}), // a circle
		lib + "libc.so.6":                     build(elftest.File{Needs: []string{"ld-linux-x86-64.so.2"}}),
		lib + "ld-linux-x86-64.so.2":          build(elftest.File{}),
		"/usr/lib64/ld-linux-x86-64.so.2":     "-> /lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
		lib + "libunused.so.1":                build(elftest.File{}),
		"/usr/lib/aarch64-linux-gnu/liba.so1": build(elftest.File{Machine: elf.EM_AARCH64}),
	})
	got, err := Closure(tr, "amd64", []string{"/usr/sbin/mkfs", "/usr/sbin/static"}, none)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"/lib", "/lib64", "/usr/lib/libb.so.1", lib + "ld-linux-x86-64.so.2", lib + "liba.so.1", lib + "liba.so.1.2",
		lib + "libc.so.6", "/usr/lib64/ld-linux-x86-64.so.2", "/usr/sbin/mke2fs", "/usr/sbin/mkfs", "/usr/sbin/static",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestClosureFails(t *testing.T) {
	for name, c := range map[string]struct {
		arch  string
		files map[string]string
		want  []string // in the error
	}{
		"library missing": {"amd64", map[string]string{"/usr/sbin/x": build(elftest.File{Needs: []string{"libz.so.1"}})},
			[]string{"/usr/sbin/x needs libz.so.1", errNone.Error()}},
		"library of a library missing": {"amd64", map[string]string{
			"/usr/sbin/x":        build(elftest.File{Needs: []string{"liba.so.1"}}),
			"/usr/lib/liba.so.1": build(elftest.File{Needs: []string{"libz.so.1"}}),
		}, []string{"/usr/lib/liba.so.1 needs libz.so.1"}},
		"linker missing": {"amd64", map[string]string{"/usr/sbin/x": build(elftest.File{Interpreter: linker})},
			[]string{"/usr/sbin/x needs " + linker}},
		"other machine": {"arm64", map[string]string{"/usr/sbin/x": build(elftest.File{})}, []string{"EM_X86_64", "arm64"}},
		"unknown":       {"mips", map[string]string{"/usr/sbin/x": build(elftest.File{})}, []string{`"mips"`, "amd64 or arm64"}},
		"script":        {"amd64", map[string]string{"/usr/sbin/x": "#!/bin/sh\n"}, []string{"/usr/sbin/x", "not an ELF file"}},
		"no program":    {"amd64", nil, []string{"/usr/sbin/x", "not exist"}},
		"empty":         {"amd64", map[string]string{"/usr/sbin/x": ""}, []string{"/usr/sbin/x"}},
		"cut short":     {"amd64", map[string]string{"/usr/sbin/x": build(elftest.File{Needs: []string{"libz.so.1"}})[:100]}, []string{"/usr/sbin/x"}},
		"link to itself": {"amd64", map[string]string{
			"/usr/sbin/x": build(elftest.File{Needs: []string{"libz.so.1"}}), "/usr/lib/libz.so.1": "-> libz.so.1",
		}, []string{"libz.so.1", "symbolic links"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Closure(tree(t, c.files), c.arch, []string{"/usr/sbin/x"}, none)
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %q in it", err, want)
				}
			}
		})
	}
}

// TestProvide has a library come with the second package that is put into the tree.
func TestProvide(t *testing.T) {
	tr := tree(t, map[string]string{"/usr/sbin/x": build(elftest.File{Needs: []string{"libz.so.1"}})})
	var asked []string
	got, err := Closure(tr, "amd64", []string{"/usr/sbin/x"}, func(needer, library string) error {
		asked = append(asked, needer+" "+library)
		if len(asked) == 1 {
			return nil
		}
		return tr.Bytes("/usr/lib/libz.so.1", elftest.Build(elftest.File{}), 0o644)
	})
	if err != nil || !slices.Equal(got, []string{"/usr/lib/libz.so.1", "/usr/sbin/x"}) {
		t.Errorf("got %q, %v", got, err)
	}
	if !slices.Equal(asked, []string{"/usr/sbin/x libz.so.1", "/usr/sbin/x libz.so.1"}) {
		t.Errorf("asked %q", asked)
	}
}

func TestUnwinder(t *testing.T) {
	for function, want := range map[string]bool{"pthread_cancel": true, "backtrace": true, "pthread_create": false} {
		n, err := read(elftest.Build(elftest.File{Imports: []string{"write", function}}))
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(n.libraries, unwinder); got != want {
			t.Errorf("%s: needs %q", function, n.libraries)
		}
	}
}

func TestOpened(t *testing.T) {
	for text, want := range map[string][]string{
		"": nil,
		`[{"feature":"xz","description":"x","priority":"recommended","soname":["liblzma.so.5"]}]`: {"liblzma.so.5"},
		`[{"soname":["liba.so.1","libb.so.1"]},{"priority":"required","soname":["libc.so.1"]}]`:   {"liba.so.1", "libc.so.1"},
		`[{"priority":"suggested","soname":["libd.so.1"]},{"priority":"required"}]`:               nil,
	} {
		n, err := read(elftest.Build(elftest.File{Opens: text}))
		if err != nil || !slices.Equal(n.libraries, want) {
			t.Errorf("%s: %q, %v, want %q", text, n.libraries, err, want)
		}
	}
	if n, err := read(elftest.Build(elftest.File{Opens: "{"})); err == nil || !strings.Contains(err.Error(), "opened") {
		t.Errorf("no JSON: %q, %v", n.libraries, err)
	}
}

// TestNotesHostile: whatever the sizes say, and wherever the section ends, nothing beyond its end is read.
func TestNotesHostile(t *testing.T) {
	whole := []byte("\x04\x00\x00\x00\x10\x00\x00\x00\x03\x00\x00\x00GNU\x00build identifier" +
		"\x04\x00\x00\x00\x02\x00\x00\x00\x0a\x0c\x7c\x40FDO\x00[]\x00\x00")
	count := func(data []byte) (n int) {
		for range notes(data, binary.LittleEndian) {
			n++
		}
		return n
	}
	if n := count(whole); n != 1 {
		t.Fatalf("%d notes, want 1", n)
	}
	for end := range whole {
		count(whole[:end])
	}
	for at := range whole {
		for _, b := range []byte{0x00, 0x7f, 0xff} {
			odd := slices.Clone(whole)
			odd[at] = b
			count(odd)
		}
	}
}

// TestRealProgram follows this machine's own shell, so that what elftest makes is not all that was ever read.
func TestRealProgram(t *testing.T) {
	m, ok := machines[runtime.GOARCH]
	if !ok {
		t.Skipf("no image is built for %s", runtime.GOARCH)
	}
	shell, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Skipf("this machine's programs are elsewhere: %v", err)
	}
	tr := tree(t, map[string]string{"/usr/bin/sh": string(shell)})
	got, err := Closure(tr, runtime.GOARCH, []string{"/usr/bin/sh"}, func(_, library string) error {
		for _, dir := range []string{"/lib/" + m.triplet, "/lib64", "/lib"} {
			if data, err := os.ReadFile(filepath.Join(dir, filepath.Base(library))); err == nil {
				if !filepath.IsAbs(library) {
					library = filepath.Join("/usr/lib", library)
				}
				return tr.Bytes(library, data, 0o755)
			}
		}
		return errNone
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the shell needs %q", got)
}
