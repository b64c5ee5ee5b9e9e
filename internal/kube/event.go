package kube

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// Reference names the object that an event is about.
type Reference struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
	UID        string `json:"uid,omitempty"`
}

// Node refers to a node. The kubelet gives its events the node's name for a UID, and
// those who list the events of a node look for that.
func Node(name string) Reference {
	return Reference{APIVersion: "v1", Kind: "Node", Name: name, UID: name}
}

// Claim is the PersistentVolumeClaim that a PersistentVolume is bound to;
// volume.ErrNotFound if there is none. Needs the right to get persistentvolumes.
func (c *Client) Claim(ctx context.Context, persistentVolume string) (Reference, error) {
	var object struct {
		Spec struct {
			ClaimRef *Reference `json:"claimRef"`
		} `json:"spec"`
	}
	if err := c.get(ctx, "/api/v1/persistentvolumes/"+url.PathEscape(persistentVolume), plain, &object); err != nil {
		return Reference{}, fmt.Errorf("kubernetes: PersistentVolume %s: %w", persistentVolume, err)
	}
	claim := object.Spec.ClaimRef
	if claim == nil {
		return Reference{}, fmt.Errorf("kubernetes: PersistentVolume %s is bound to no claim: %w", persistentVolume, volume.ErrNotFound)
	}
	claim.APIVersion, claim.Kind = "v1", "PersistentVolumeClaim"
	return *claim, nil
}

// Event is what happened to an object.
type Event struct {
	About   Reference
	Warning bool
	Reason  string
	Message string
	// From and Host say who saw it, and where.
	From, Host string
}

// longestMessage is what the API server takes (Kubernetes, validation of events).
const longestMessage = 1024

// Write writes an event. Needs the right to create events.
func (c *Client) Write(ctx context.Context, e Event) error {
	namespace := e.About.Namespace
	if namespace == "" {
		namespace = "default" // where events of what has no namespace go
	}
	var made struct{}
	if err := c.call(ctx, request{http.MethodPost, "/api/v1/namespaces/" + url.PathEscape(namespace) + "/events", plain, plain, e.object(namespace, time.Now())}, &made); err != nil {
		return fmt.Errorf("kubernetes: event %s of %s %s: %w", e.Reason, e.About.Kind, e.About.Name, err)
	}
	return nil
}

// object is a core/v1 Event.
func (e Event) object(namespace string, now time.Time) map[string]any {
	kind, at := "Normal", now.UTC().Format(time.RFC3339)
	if e.Warning {
		kind = "Warning"
	}
	return map[string]any{
		"apiVersion": "v1", "kind": "Event",
		"metadata":       map[string]any{"name": fmt.Sprintf("%.200s.%s", e.About.Name, strings.ToLower(rand.Text()[:16])), "namespace": namespace},
		"involvedObject": e.About, "type": kind, "reason": e.Reason, "message": fmt.Sprintf("%.*s", longestMessage, e.Message),
		"source":         map[string]any{"component": e.From, "host": e.Host},
		"firstTimestamp": at, "lastTimestamp": at, "count": 1,
		"reportingComponent": e.From, "reportingInstance": e.Host,
	}
}
