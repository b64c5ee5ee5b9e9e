package filesystem

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// option is a flag of a mkfs and the values that it may have. A value that is a list
// (mke2fs(8) -O, mkfs.xfs(8) -m) is checked element by element.
type option struct {
	list  bool
	value *regexp.Regexp
}

func one(pattern string) option  { return option{value: regexp.MustCompile("^(" + pattern + ")$")} }
func many(pattern string) option { return option{true, regexp.MustCompile("^(" + pattern + ")$")} }

// allowed is what a class may ask of mkfs: what every volume can have, whatever its
// size, and every kernel from 6.1 on mounts without a module more. The block size is not
// here, because that of a pool may be as large; nor what names another device, makes the
// file system smaller than the volume, or takes the journal or the checks of metadata
// away, because the rest of the driver counts on them.
var allowed = map[Kind]map[string]option{
	Ext4: {
		"-i": one("4096|8192|16384|32768|65536|131072|262144|524288|1048576|2097152|4194304"),
		"-I": one("256|512|1024"), // 128 has no room for times after 2038
		"-m": one(`([0-9]|[1-4][0-9])(\.[0-9]+)?`),
		"-T": one("default|small|news|largefile|largefile4|big|huge"),
		"-O": many(`\^?(64bit|dir_index|dir_nlink|extra_isize|flex_bg|huge_file|large_dir|metadata_csum_seed|orphan_file)`),
	},
	XFS: {
		"-i": many(`size=(512|1024|2048)|maxpct=([0-9]|[1-9][0-9]|100)`),
		"-m": many(`(finobt|inobtcount|reflink|rmapbt)=[01]`),
		"-n": one("size=(4096|8192|16384|32768|65536)"),
	},
}

// maxFormatOptions bounds the text, in bytes.
const maxFormatOptions = 512

// ParseFormatOptions reads options of mkfs as a class gives them: flags with their
// values, separated by blanks ("-m 0 -i 65536"). No shell sees them. volume.ErrInvalid
// names the flag, the value and what is possible.
func ParseFormatOptions(kind Kind, text string) ([]string, error) {
	if len(text) > maxFormatOptions {
		return nil, fmt.Errorf("%.40q…: at most %d bytes: %w", text, maxFormatOptions, volume.ErrInvalid)
	}
	words := strings.Fields(text)
	for i := 0; i < len(words); i += 2 {
		o, known := allowed[kind][words[i]]
		switch {
		case !known:
			return nil, fmt.Errorf("option %q is not one of those for %s (%s): %w", words[i], kind, strings.Join(slices.Sorted(maps.Keys(allowed[kind])), " "), volume.ErrInvalid)
		case i+1 == len(words):
			return nil, fmt.Errorf("option %q of %s has no value: %w", words[i], kind, volume.ErrInvalid)
		case slices.Contains(words[:i], words[i]):
			return nil, fmt.Errorf("option %q of %s is there twice: %w", words[i], kind, volume.ErrInvalid)
		case !o.takes(words[i+1]):
			return nil, fmt.Errorf("option %q of %s: value %q: want %s: %w", words[i], kind, words[i+1], o.value, volume.ErrInvalid)
		}
	}
	return words, nil
}

func (o option) takes(value string) bool {
	values := []string{value}
	if o.list {
		values = strings.Split(value, ",")
	}
	return !slices.ContainsFunc(values, func(v string) bool { return !o.value.MatchString(v) })
}
