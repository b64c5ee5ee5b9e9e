package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// writeTree makes an unpacked kernel of which the module index is as given.
func writeTree(t *testing.T, dir, release string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, strings.ReplaceAll(name, "REL", release))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

const modulesDep = `kernel/drivers/nvme/host/nvme-tcp.ko.xz: kernel/drivers/nvme/host/nvme-fabrics.ko.xz kernel/drivers/nvme/common/nvme-auth.ko.xz
kernel/drivers/nvme/host/nvme-fabrics.ko.xz: kernel/drivers/nvme/common/nvme-auth.ko.xz
kernel/drivers/nvme/common/nvme-auth.ko.xz:
kernel/fs/xfs/xfs.ko.xz: kernel/lib/libcrc32c.ko.xz
kernel/lib/libcrc32c.ko.xz:
kernel/crypto/crc32c_generic.ko.xz:
`

func tree() map[string]string {
	return map[string]string{
		"boot/vmlinuz-REL":                "kernel",
		"lib/modules/REL/modules.dep":     modulesDep,
		"lib/modules/REL/modules.builtin": "kernel/fs/ext4/ext4.ko\nkernel/drivers/virtio/virtio_pci.ko\n",
		"lib/modules/REL/modules.softdep": "# comment\nsoftdep libcrc32c pre: crc32c\nsoftdep libcrc32c post: crc32c-generic\n",
	}
}

func TestIndex(t *testing.T) {
	dir := t.TempDir()
	k := &Kernel{Release: "6.12.1", dir: dir}
	writeTree(t, dir, k.Release, tree())
	ix, err := k.Index()
	if err != nil {
		t.Fatal(err)
	}
	const nvme = "kernel/drivers/nvme/"
	want := []string{nvme + "common/nvme-auth.ko.xz", nvme + "host/nvme-fabrics.ko.xz", nvme + "host/nvme-tcp.ko.xz"}
	if got := ix.Order([]string{"nvme_tcp", "nvme-fabrics", "ext4", "none"}, false); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	want = []string{"kernel/lib/libcrc32c.ko.xz", "kernel/crypto/crc32c_generic.ko.xz", "kernel/fs/xfs/xfs.ko.xz"}
	if got := ix.Order([]string{"xfs"}, true); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := k.missing([]string{"ext4", "virtio-pci", "xfs", "zfs", "btrfs"}); !slices.Equal(got, []string{"zfs", "btrfs"}) {
		t.Errorf("missing %q", got)
	}
	if got := ix.Below("drivers/nvme"); len(got) != 3 {
		t.Errorf("below nvme: %q", got)
	}
}

// fakeDebian downloads and unpacks what it is given.
type fakeDebian struct {
	t         *testing.T
	downloads []string
	lacks     string // package without xfs
	stale     bool   // until update
}

func (d *fakeDebian) run(_ context.Context, dir string, argv ...string) ([]byte, error) {
	switch argv[0] {
	case "apt-cache":
		name := argv[len(argv)-1]
		if release, ok := map[string]string{
			"linux-image-6.12-cloud-amd64": "6.12.9-cloud-amd64", "linux-image-6.12-amd64": "6.12.9-amd64",
		}[name]; ok {
			return []byte("Depends: linux-image-" + release + "\n"), nil
		}
		return nil, errors.New("no packages found")
	case "apt-get":
		pkg := argv[len(argv)-1]
		if pkg == "update" {
			d.stale = false
			return nil, nil
		}
		if d.stale {
			return nil, errors.New("404 Not Found")
		}
		d.downloads = append(d.downloads, pkg)
		return nil, os.WriteFile(filepath.Join(dir, pkg+"_1_amd64.deb"), []byte(pkg), 0o644)
	case "dpkg-deb":
		pkg, _, _ := strings.Cut(filepath.Base(argv[2]), "_")
		files := tree()
		if pkg == d.lacks {
			files["lib/modules/REL/modules.dep"] = ""
		}
		writeTree(d.t, argv[3], strings.TrimPrefix(pkg, packagePrefix), files)
		return nil, nil
	case "depmod":
		return nil, nil
	}
	return nil, errors.New("not expected: " + strings.Join(argv, " "))
}

func TestGet(t *testing.T) {
	dir, debian := t.TempDir(), &fakeDebian{t: t, stale: true}
	get := func(needed ...string) (*Kernel, error) { return Get(t.Context(), debian.run, dir, "6.12", needed) }
	k, err := get("xfs")
	if err != nil || k.Release != "6.12.9-cloud-amd64" {
		t.Fatalf("got %+v, %v", k, err)
	}
	if raw, err := os.ReadFile(k.Image()); err != nil || string(raw) != "kernel" {
		t.Errorf("image %q, %v", raw, err)
	}
	if _, err := get("xfs"); err != nil || len(debian.downloads) != 1 {
		t.Errorf("second time: %v, downloads %q", err, debian.downloads)
	}
	// A package that is not what apt verified is not used.
	if err := os.WriteFile(filepath.Join(dir, k.Deb), []byte("tampered"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := get("xfs"); err != nil || len(debian.downloads) != 2 {
		t.Errorf("after tampering: %v, downloads %q", err, debian.downloads)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".fetch-*")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestGetPassesOverKernelWithoutModule(t *testing.T) {
	debian := &fakeDebian{t: t, lacks: "linux-image-6.12.9-cloud-amd64"}
	k, err := Get(t.Context(), debian.run, t.TempDir(), "6.12", []string{"xfs"})
	if err != nil || k.Release != "6.12.9-amd64" {
		t.Errorf("got %+v, %v", k, err)
	}
	_, err = Get(t.Context(), debian.run, t.TempDir(), "6.12", []string{"zfs"})
	if err == nil || !strings.Contains(err.Error(), "linux-image-6.12.9-amd64 lacks zfs") {
		t.Errorf("no kernel has it: %v", err)
	}
}

func TestPayload(t *testing.T) {
	image := make([]byte, 4096)
	image[setupSectorsAt] = 1
	copy(image[magicAt:], "HdrS")
	binary.LittleEndian.PutUint32(image[payloadOffsetAt:], 100)
	binary.LittleEndian.PutUint32(image[payloadLengthAt:], 24)
	copy(image[2*sectorSize+100:], "\x28\xb5\x2f\xfd16 bytes in all.")
	binary.LittleEndian.PutUint32(image[2*sectorSize+120:], 777)
	payload, size, err := payloadOf(image)
	if err != nil || size != 777 || !bytes.Equal(payload, []byte("\x28\xb5\x2f\xfd16 bytes in all.")) {
		t.Errorf("got %q, %d, %v", payload, size, err)
	}
	binary.LittleEndian.PutUint32(image[payloadLengthAt:], 1<<31)
	if _, _, err := payloadOf(image); err == nil {
		t.Error("accepted a payload beyond the end")
	}
	if _, _, err := payloadOf([]byte("MZ")); err == nil {
		t.Error("accepted a file that is no kernel")
	}
}

func TestHasNote(t *testing.T) {
	note := func(name string, kind uint32, desc string) []byte {
		b := binary.LittleEndian.AppendUint32(nil, uint32(len(name)+1))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(desc)))
		b = binary.LittleEndian.AppendUint32(b, kind)
		for _, s := range []string{name + "\x00", desc} {
			b = append(b, s...)
			b = append(b, make([]byte, (4-len(s)%4)%4)...)
		}
		return b
	}
	notes := append(note("Linux", 18, "abcde"), note("Xen", 18, "1234")...)
	if !hasNote(notes, "Xen", 18) || hasNote(notes, "Xen", 5) || hasNote(notes[:len(notes)-1], "Xen", 18) {
		t.Error("wrong note found, or none")
	}
}
