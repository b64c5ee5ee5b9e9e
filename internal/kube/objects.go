package kube

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Patch says what becomes of a map: nil takes a key away.
type Patch map[string]*string

// ConfigMap is the data of one in the pod's own namespace; volume.ErrNotFound. Needs
// the right to get it.
func (c *Client) ConfigMap(ctx context.Context, name string) (map[string]string, error) {
	path, err := c.configMap(name)
	var object struct {
		Data map[string]string `json:"data"`
	}
	if err == nil {
		err = c.get(ctx, path, plain, &object)
	}
	if err != nil {
		return nil, fmt.Errorf("kubernetes: ConfigMap %s: %w", name, err)
	}
	return object.Data, nil
}

// PatchConfigMap changes the data of one in the pod's own namespace. Needs the right
// to patch it.
func (c *Client) PatchConfigMap(ctx context.Context, name string, data Patch) error {
	path, err := c.configMap(name)
	if err == nil {
		err = c.patch(ctx, path, map[string]any{"data": data})
	}
	if err != nil {
		return fmt.Errorf("kubernetes: ConfigMap %s: %w", name, err)
	}
	return nil
}

func (c *Client) configMap(name string) (string, error) {
	namespace, err := os.ReadFile(filepath.Join(c.dir, "namespace"))
	return "/api/v1/namespaces/" + url.PathEscape(strings.TrimSpace(string(namespace))) + "/configmaps/" + url.PathEscape(name), err
}

// Annotate changes annotations of a PersistentVolume. Needs the right to patch
// persistentvolumes.
func (c *Client) Annotate(ctx context.Context, persistentVolume string, annotations Patch) error {
	change := map[string]any{"metadata": map[string]any{"annotations": annotations}}
	if err := c.patch(ctx, "/api/v1/persistentvolumes/"+url.PathEscape(persistentVolume), change); err != nil {
		return fmt.Errorf("kubernetes: PersistentVolume %s: %w", persistentVolume, err)
	}
	return nil
}

// mergePatch is RFC 7386.
const mergePatch = "application/merge-patch+json"

func (c *Client) patch(ctx context.Context, path string, change any) error {
	var changed struct{}
	return c.call(ctx, request{http.MethodPatch, path, plain, mergePatch, change}, &changed)
}

// PersistentVolume is what is asked for of one.
type PersistentVolume struct {
	Name, Phase, Size string
	Handle            string // spec.csi.volumeHandle
	Claim             string // NAMESPACE/NAME; "" if it is bound to none
	Annotations       map[string]string
}

// Attachment is what is asked for of a VolumeAttachment.
type Attachment struct {
	Name, UID              string
	PersistentVolume, Node string
	Attached               bool // the driver has said so
	Deleted                bool // it goes as soon as the driver has detached the volume
	// Metadata is what the driver answered when the volume was attached.
	Metadata map[string]string
}

// pageSize is how many are listed at a time: maxAnswer holds them all.
const pageSize = 100

// PersistentVolumes lists those of a driver. Needs the right to list
// persistentvolumes.
func (c *Client) PersistentVolumes(ctx context.Context, driver string) ([]PersistentVolume, error) {
	all, err := list[volumeObject](ctx, c, "/api/v1/persistentvolumes")
	if err != nil {
		return nil, fmt.Errorf("kubernetes: PersistentVolumes: %w", err)
	}
	var out []PersistentVolume
	for _, v := range all {
		if v.Spec.CSI.Driver == driver {
			out = append(out, v.short())
		}
	}
	return out, nil
}

// Attachments lists those of a driver. Needs the right to list volumeattachments.
func (c *Client) Attachments(ctx context.Context, driver string) ([]Attachment, error) {
	all, err := list[attachmentObject](ctx, c, "/apis/storage.k8s.io/v1/volumeattachments")
	if err != nil {
		return nil, fmt.Errorf("kubernetes: VolumeAttachments: %w", err)
	}
	var out []Attachment
	for _, a := range all {
		if a.Spec.Attacher == driver {
			out = append(out, a.short())
		}
	}
	return out, nil
}

// Attachment is one of a name; volume.ErrNotFound. Needs the right to get
// volumeattachments.
func (c *Client) Attachment(ctx context.Context, name string) (Attachment, error) {
	var object attachmentObject
	if err := c.get(ctx, "/apis/storage.k8s.io/v1/volumeattachments/"+url.PathEscape(name), plain, &object); err != nil {
		return Attachment{}, fmt.Errorf("kubernetes: VolumeAttachment %s: %w", name, err)
	}
	return object.short(), nil
}

// list reads all pages.
func list[T any](ctx context.Context, c *Client, path string) (all []T, err error) {
	for next := ""; ; {
		var page struct {
			Metadata struct {
				Continue string `json:"continue"`
			} `json:"metadata"`
			Items []T `json:"items"`
		}
		query := url.Values{"limit": {strconv.Itoa(pageSize)}, "continue": {next}}
		if err := c.get(ctx, path+"?"+query.Encode(), plain, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if next = page.Metadata.Continue; next == "" {
			return all, nil
		}
	}
}

type attachmentObject struct {
	Metadata struct {
		Name              string  `json:"name"`
		UID               string  `json:"uid"`
		DeletionTimestamp *string `json:"deletionTimestamp"`
	} `json:"metadata"`
	Spec struct {
		Attacher string `json:"attacher"`
		NodeName string `json:"nodeName"`
		Source   struct {
			PersistentVolumeName string `json:"persistentVolumeName"`
		} `json:"source"`
	} `json:"spec"`
	Status struct {
		Attached           bool              `json:"attached"`
		AttachmentMetadata map[string]string `json:"attachmentMetadata"`
	} `json:"status"`
}

func (a attachmentObject) short() Attachment {
	return Attachment{
		Name: a.Metadata.Name, UID: a.Metadata.UID, PersistentVolume: a.Spec.Source.PersistentVolumeName, Node: a.Spec.NodeName,
		Attached: a.Status.Attached, Deleted: a.Metadata.DeletionTimestamp != nil, Metadata: a.Status.AttachmentMetadata,
	}
}

type volumeObject struct {
	Metadata struct {
		Name        string            `json:"name"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		Capacity map[string]string `json:"capacity"`
		ClaimRef *Reference        `json:"claimRef"`
		CSI      struct {
			Driver       string `json:"driver"`
			VolumeHandle string `json:"volumeHandle"`
		} `json:"csi"`
	} `json:"spec"`
	Status struct {
		Phase string `json:"phase"`
	} `json:"status"`
}

func (v volumeObject) short() PersistentVolume {
	out := PersistentVolume{Name: v.Metadata.Name, Phase: v.Status.Phase, Size: v.Spec.Capacity["storage"], Handle: v.Spec.CSI.VolumeHandle, Annotations: v.Metadata.Annotations}
	if claim := v.Spec.ClaimRef; claim != nil {
		out.Claim = claim.Namespace + "/" + claim.Name
	}
	return out
}
