package main

import (
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/holdfast-csi/holdfast/hack/image/internal/debian"
	"github.com/holdfast-csi/holdfast/hack/image/internal/oci"
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
	return oci.Image(oci.Spec{
		Arch: p.arch, When: p.when,
		Config: v1.Config{
			Entrypoint: []string{"/usr/local/bin/holdfast"},
			Env:        []string{"PATH=" + debian.Search},
			WorkingDir: "/",
			Labels:     labels(p.version),
		},
		Layers: []oci.Layer{
			{Tree: p.programs, Comment: "programs and libraries of Debian"},
			{Tree: p.product, Comment: "holdfast " + p.version},
		},
	})
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
