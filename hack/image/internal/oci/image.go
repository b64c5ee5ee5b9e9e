// Package oci makes an image of trees: the same bytes for the same trees. It writes none to disk and pushes none.
package oci

import (
	"fmt"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/holdfast-csi/holdfast/hack/image/internal/rootfs"
)

// Layer is a tree, and what the image's history says of it.
type Layer struct {
	Tree    *rootfs.Tree
	Comment string
}

// Spec is what an image is made of.
type Spec struct {
	Arch   string
	When   time.Time // of every file, and of the image
	Config v1.Config
	Layers []Layer // the lowest first
}

// Image returns the image.
func Image(s Spec) (v1.Image, error) {
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, l := range s.Layers {
		layer, err := rootfs.Layer(l.Tree, s.When)
		if err != nil {
			return nil, err
		}
		history := v1.History{Created: v1.Time{Time: s.When}, CreatedBy: "hack/image", Comment: l.Comment}
		if image, err = mutate.Append(image, mutate.Addendum{Layer: layer, History: history}); err != nil {
			return nil, fmt.Errorf("add layer: %w", err)
		}
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", s.Arch, v1.Time{Time: s.When}
	config.Config = s.Config
	return mutate.ConfigFile(image, config)
}
