package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// ErrNotInCluster says that the process does not run in a pod.
var ErrNotInCluster = errors.New("not in a cluster")

// serviceAccount is where a pod finds its credentials, and the variables below are
// how it finds the API server (Kubernetes documentation, "Accessing the Kubernetes
// API from a Pod").
const (
	serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"
	hostVariable   = "KUBERNETES_SERVICE_HOST"
	portVariable   = "KUBERNETES_SERVICE_PORT"
)

// callTime bounds one question.
const callTime = 5 * time.Second

// maxAnswer is more than the metadata of any object: etcd takes 1.5 MiB of the
// whole by default.
const maxAnswer = 2 << 20

// Client talks to one API server.
type Client struct {
	base string // https://HOST:PORT
	dir  string // with ca.crt and token
	http *http.Client
}

// InCluster returns a client with the credentials of the pod; ErrNotInCluster.
func InCluster() (*Client, error) {
	host, port := os.Getenv(hostVariable), os.Getenv(portVariable)
	if host == "" || port == "" {
		return nil, ErrNotInCluster
	}
	return newClient("https://"+net.JoinHostPort(host, port), serviceAccount)
}

func newClient(base, dir string) (*Client, error) {
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("kubernetes: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("kubernetes: %s holds no certificate: %w", filepath.Join(dir, "ca.crt"), volume.ErrInvalid)
	}
	t := &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}, ForceAttemptHTTP2: true,
		MaxIdleConns: 1, IdleConnTimeout: time.Minute,
	}
	return &Client{base: base, dir: dir, http: &http.Client{Transport: t, Timeout: callTime}}, nil
}

// userAgent is who asks, in the API server's audit log.
const userAgent = "holdfast"

// metadataOnly asks for nothing but the metadata (Kubernetes API concepts,
// "Alternate representations of resources").
const metadataOnly = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"

// plain is the whole object.
const plain = "application/json"

// Annotations are those of a PersistentVolume; volume.ErrNotFound if there is none
// of the name. Needs the right to get persistentvolumes.
func (c *Client) Annotations(ctx context.Context, persistentVolume string) (map[string]string, error) {
	m, err := c.metadata(ctx, "/api/v1/persistentvolumes/"+url.PathEscape(persistentVolume))
	if err != nil {
		return nil, fmt.Errorf("kubernetes: PersistentVolume %s: %w", persistentVolume, err)
	}
	return m.Annotations, nil
}

// NodeLabels are those of a node; volume.ErrNotFound. Needs the right to get nodes.
func (c *Client) NodeLabels(ctx context.Context, node string) (map[string]string, error) {
	m, err := c.metadata(ctx, "/api/v1/nodes/"+url.PathEscape(node))
	if err != nil {
		return nil, fmt.Errorf("kubernetes: Node %s: %w", node, err)
	}
	return m.Labels, nil
}

// metadata is what is asked for of an object's.
type metadata struct {
	Annotations map[string]string `json:"annotations"`
	Labels      map[string]string `json:"labels"`
}

func (c *Client) metadata(ctx context.Context, path string) (metadata, error) {
	var object struct {
		Metadata metadata `json:"metadata"`
	}
	err := c.get(ctx, path, metadataOnly, &object)
	return object.Metadata, err
}

// get decodes an object; accept says in which form.
func (c *Client) get(ctx context.Context, path, accept string, into any) error {
	return c.call(ctx, request{method: http.MethodGet, path: path, accept: accept}, into)
}

// request is one question or order; object, if there is one, is of the content type.
type request struct {
	method, path, accept, contentType string
	object                            any
}

// call asks once; what is not OK is an error.
func (c *Client) call(ctx context.Context, r request, into any) (err error) {
	token, err := os.ReadFile(filepath.Join(c.dir, "token")) // the kubelet replaces it
	if err != nil {
		return err
	}
	var body bytes.Buffer
	if r.object != nil {
		if err := json.NewEncoder(&body).Encode(r.object); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, r.method, c.base+r.path, &body)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Accept", r.accept)
	if r.object != nil {
		req.Header.Set("Content-Type", r.contentType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusCreated:
		return json.Unmarshal(answer, into)
	case http.StatusNotFound:
		return volume.ErrNotFound
	default:
		return fmt.Errorf("the API server says %s: %s: %w", resp.Status, message(answer), volume.ErrUnavailable)
	}
}

// message is what a Status object says, or the beginning of whatever else came.
func message(body []byte) string {
	var status struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &status) == nil && status.Message != "" {
		return status.Message
	}
	return fmt.Sprintf("%.200q", body)
}
