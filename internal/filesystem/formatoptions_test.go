package filesystem

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/internal/command"
	"github.com/holdfast-csi/holdfast/internal/volume"
)

func TestParseFormatOptions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind Kind
		text string
		want string // "" for refused
		says string
	}{
		{Ext4, "-m 0", "-m 0", ""},
		{Ext4, "  -m  1.5\t-i 65536 ", "-m 1.5 -i 65536", ""},
		{Ext4, "-O ^64bit,large_dir,orphan_file -T largefile4", "-O ^64bit,large_dir,orphan_file -T largefile4", ""},
		{Ext4, "-I 512", "-I 512", ""},
		{XFS, "-m reflink=1,rmapbt=0 -i size=1024,maxpct=25", "-m reflink=1,rmapbt=0 -i size=1024,maxpct=25", ""},
		{XFS, "-n size=8192", "-n size=8192", ""},
		// A pool's blocks may be larger, and a volume too small.
		{Ext4, "-b 1024", "", `"-b"`},
		{Ext4, "-N 100000", "", `"-N"`},
		{Ext4, "-i 5000", "", "5000"},
		{XFS, "-b size=1024", "", `"-b"`},
		{XFS, "-d su=64k", "", `"-d"`},
		{XFS, "-l size=1g", "", `"-l"`},
		// Not every kernel mounts it, or not without a module more.
		{Ext4, "-O quota", "", "quota"},
		{Ext4, "-O casefold", "", "casefold"},
		{XFS, "-m bigtime=0", "", "bigtime"},
		// The journal, checksums and errors are what the rest counts on.
		{Ext4, "-O ^has_journal", "", "^has_journal"},
		{Ext4, "-O 64bit,^metadata_csum", "", "metadata_csum"},
		{Ext4, "-O ", "", "no value"},
		{Ext4, "-O 64bit,", "", "64bit,"},
		{Ext4, "-e continue", "", `"-e"`},
		{Ext4, "-E discard", "", `"-E"`},
		{Ext4, "-J device=/dev/sda", "", `"-J"`},
		{Ext4, "-F", "", `"-F"`},
		{Ext4, "/dev/sda", "", "/dev/sda"},
		{Ext4, "-m 0 /dev/sda 1", "", "/dev/sda"},
		{Ext4, "-m", "", "no value"},
		{Ext4, "-m 60", "", `"60"`},
		{Ext4, "-m -1", "", `"-1"`},
		{Ext4, "-m 0 -m 1", "", "twice"},
		{Ext4, "-I 128", "", `"128"`},
		{Ext4, "-m $(reboot)", "", "reboot"},
		{Ext4, "-m 0;reboot", "", "reboot"},
		{Ext4, "-m 0\x00", "", `"0\x00"`},
		{Ext4, "-i 65536 -m 0 x", "", `"x"`},
		{XFS, "-m crc=0", "", "crc=0"},
		{XFS, "-l logdev=/dev/sda", "", `"-l"`},
		{XFS, "-r rtdev=/dev/sda", "", `"-r"`},
		{XFS, "-d file,name=/x", "", `"-d"`},
		{XFS, "-K", "", `"-K"`},
		{XFS, "-m 0", "", `"0"`},
		{Ext4, "-m " + strings.Repeat("0", 600), "", "512"},
		{Other, "-m 0", "", "other"},
	} {
		got, err := ParseFormatOptions(c.kind, c.text)
		switch {
		case c.want != "" && (err != nil || strings.Join(got, " ") != c.want):
			t.Errorf("%s %q: %v, %v", c.kind, c.text, got, err)
		case c.want == "" && (!errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s %q: %v, %v; want something about %s", c.kind, c.text, got, err, c.says)
		}
	}
	if got, err := ParseFormatOptions(Ext4, ""); len(got) > 0 || err != nil {
		t.Errorf("none: %v, %v", got, err)
	}
}

// What is allowed is what the programs take, and what comes of it is recognised.
func TestFormatWithOptions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind Kind
		size int64
		text string
	}{
		{Ext4, 64 << 20, "-i 4096 -I 512 -m 0 -O ^64bit,large_dir,^orphan_file"},
		{Ext4, 64 << 20, "-i 4194304 -I 1024 -m 49.5 -O metadata_csum_seed,^dir_index,^flex_bg,^huge_file,^extra_isize,^dir_nlink"},
		{Ext4, 64 << 20, "-T huge"},
		{XFS, xfsBytes, "-i size=1024,maxpct=10 -m rmapbt=1,reflink=1,finobt=1,inobtcount=1 -n size=65536"},
		{XFS, xfsBytes, "-i size=2048,maxpct=0 -m rmapbt=0,reflink=0,finobt=0,inobtcount=0"},
	} {
		path := sparse(t, c.size)
		options, err := ParseFormatOptions(c.kind, c.text)
		if err == nil {
			// As on a pool whose blocks have 4096 bytes.
			err = Format(t.Context(), sectors4096{}, path, c.kind, options)
		}
		if err != nil {
			t.Errorf("%s %s: %v", c.kind, c.text, err)
			continue
		}
		if got := probeFile(t, path); got.Kind != c.kind || got.NeedsCheck {
			t.Errorf("%s %s: %+v", c.kind, c.text, got)
		}
	}
}

// sectors4096 has the programs take a file for a device with blocks of 4096 bytes.
type sectors4096 struct{}

func (sectors4096) Run(ctx context.Context, name string, args ...string) ([]byte, error) {
	if name == "mkfs.xfs" {
		args = append([]string{"-s", "size=4096"}, args...)
	} else {
		args = append([]string{"MKE2FS_DEVICE_SECTSIZE=4096", name}, args...)
		name = "env"
	}
	return command.Exec{}.Run(ctx, name, args...)
}

// Nothing passes that is not a known flag with a value, whatever is given.
func FuzzFormatOptions(f *testing.F) {
	for _, text := range []string{"-m 0", "-O ^64bit,large_dir", "-m reflink=1,rmapbt=0", "/dev/sda", "-m 0 -m 1", "-m\x00 0"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, kind := range []Kind{Ext4, XFS} {
			got, err := ParseFormatOptions(kind, text)
			if err != nil {
				continue
			}
			for i := 0; i < len(got); i += 2 {
				if _, known := allowed[kind][got[i]]; !known || strings.HasPrefix(got[i+1], "-") || strings.ContainsAny(got[i+1], "/ \x00;$") {
					t.Errorf("%q passes as %q", text, got)
				}
			}
			if again, err := ParseFormatOptions(kind, strings.Join(got, " ")); err != nil || !slices.Equal(again, got) {
				t.Errorf("%q: then %q, %v", got, again, err)
			}
		}
	})
}
