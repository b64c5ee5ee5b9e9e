package rootfs

import (
	"bytes"
	"fmt"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// compression is gzip's level. It is part of what decides the digest, as is the version of Go's compress/gzip.
const compression = 6

// Layer returns the tree as a layer of an image. It is compressed once, and kept in memory.
func Layer(t *Tree, when time.Time) (v1.Layer, error) {
	var archive bytes.Buffer
	if err := t.WriteTar(&archive, when); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil }
	layer, err := tarball.LayerFromOpener(open,
		tarball.WithCompressionLevel(compression), tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
	if err != nil {
		return nil, fmt.Errorf("compress layer: %w", err)
	}
	return layer, nil
}
