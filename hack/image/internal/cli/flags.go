package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
)

// Tag wants a tag that is written out: latest is not what anybody means who forgot it.
func Tag(flagName, text string) (name.Tag, error) {
	tag, err := name.NewTag(text)
	if err != nil {
		return name.Tag{}, fmt.Errorf("%s %q: want REPOSITORY:TAG: %w", flagName, text, err)
	}
	if strings.Contains(text, "//") { // the library takes https: for a registry
		return name.Tag{}, fmt.Errorf("%s %q: want REPOSITORY:TAG, not an address", flagName, text)
	}
	if !strings.HasSuffix(text, ":"+tag.TagStr()) {
		return name.Tag{}, fmt.Errorf("%s %q: want REPOSITORY:TAG, and there is no tag", flagName, text)
	}
	return tag, nil
}

// Epoch returns the time that SOURCE_DATE_EPOCH gives to all that is built.
func Epoch(env func(string) (string, bool)) (time.Time, error) {
	text, ok := env("SOURCE_DATE_EPOCH")
	if !ok || text == "" {
		return time.Unix(0, 0).UTC(), nil
	}
	seconds, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH %q: want seconds since 1970, a number below 2^32", text)
	}
	return time.Unix(int64(seconds), 0).UTC(), nil
}

// Path makes a path absolute; preset is for a flag that is not set. No path stays no path.
func Path(value, preset string) (string, error) {
	if value == "" {
		value = preset
	}
	if value == "" {
		return "", nil
	}
	return filepath.Abs(value)
}

// Cache is where packages and apt's lists are kept, below the root of the repository: one for all commands.
func Cache(root string) string { return filepath.Join(root, "build", "cache", "image") }

const productModule = "module github.com/holdfast-csi/holdfast"

// Root returns the directory of the product's module, at or above the current one.
func Root() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && slices.Contains(strings.Split(string(text), "\n"), productModule) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("directory %s: neither it nor one above it has a go.mod with %q", start, productModule)
		}
	}
}
