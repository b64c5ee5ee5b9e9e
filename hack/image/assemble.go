package main

import (
	"fmt"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/holdfast-csi/holdfast/hack/image/internal/debian"
	"github.com/holdfast-csi/holdfast/hack/image/internal/rootfs"
)

// parts are what an image of one architecture is made of.
type parts struct {
	arch     string
	version  string
	when     time.Time
	programs *rootfs.Tree // changes rarely, so it is the lower layer
	product  *rootfs.Tree
}

// assemble returns the image. It has no user: the node plugin must be root, and who runs the controller says as whom.
func assemble(p parts) (v1.Image, error) {
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, l := range []struct {
		tree *rootfs.Tree
		what string
	}{{p.programs, "programs and libraries of Debian"}, {p.product, "holdfast " + p.version}} {
		layer, err := rootfs.Layer(l.tree, p.when)
		if err != nil {
			return nil, err
		}
		history := v1.History{Created: v1.Time{Time: p.when}, CreatedBy: "hack/image", Comment: l.what}
		if image, err = mutate.Append(image, mutate.Addendum{Layer: layer, History: history}); err != nil {
			return nil, fmt.Errorf("add layer: %w", err)
		}
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", p.arch, v1.Time{Time: p.when}
	config.Config = v1.Config{
		Entrypoint: []string{"/usr/local/bin/holdfast"},
		Env:        []string{"PATH=" + debian.Search},
		WorkingDir: "/",
		Labels:     labels(p.version),
	}
	return mutate.ConfigFile(image, config)
}

func labels(version string) map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":       "holdfast",
		"org.opencontainers.image.description": "Kubernetes volumes over NVMe/TCP",
		"org.opencontainers.image.version":     version,
		"org.opencontainers.image.source":      "https://github.com/holdfast-csi/holdfast",
		// Of Holdfast; those of the other programs are in /usr/share/doc.
		"org.opencontainers.image.licenses": "Apache-2.0",
	}
}

// plain is an image and no artifact. The library would otherwise give the type of the configuration as artifactType, by
// which tools tell signatures and the like from images.
type plain struct{ v1.Image }

// ArtifactType is none.
func (plain) ArtifactType() (string, error) { return "", nil }

// index returns what lets a runtime choose the image of its architecture.
func index(archs []string, images map[string]v1.Image) v1.ImageIndex {
	all := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range archs {
		all = mutate.AppendManifests(all, mutate.IndexAddendum{
			Add:        plain{images[arch]},
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	return all
}
