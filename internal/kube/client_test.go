package kube

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// server answers in the forms that the API's documentation gives.
func server(t *testing.T, answer http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewTLSServer(answer)
	t.Cleanup(s.Close)
	dir := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	err := errors.Join(os.WriteFile(filepath.Join(dir, "ca.crt"), ca, 0o600), os.WriteFile(filepath.Join(dir, "token"), []byte("secret\n"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	c, err := newClient(s.URL, dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAnnotations(t *testing.T) {
	t.Parallel()
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		got := []string{r.Method, r.URL.EscapedPath(), r.Header.Get("Authorization"), r.Header.Get("Accept")}
		want := []string{"GET", "/api/v1/persistentvolumes/pvc-1", "Bearer secret", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		_, _ = w.Write([]byte(`{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"pvc-1","annotations":{"a/b":"c"}}}`))
	})
	got, err := c.Annotations(t.Context(), "pvc-1")
	if diff := cmp.Diff(map[string]string{"a/b": "c"}, got); diff != "" || err != nil {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "token"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Annotations(t.Context(), "pvc-1"); err != nil {
		t.Errorf("with a new token: %v", err)
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		body   string
		want   error
		text   string
	}{
		"none":         {200, `{"metadata":{"name":"x"}}`, nil, ""},
		"not found":    {404, `{"kind":"Status","message":"persistentvolumes \"x\" not found","code":404}`, volume.ErrNotFound, "PersistentVolume x"},
		"forbidden":    {403, `{"kind":"Status","message":"persistentvolumes \"x\" is forbidden: User cannot get","code":403}`, volume.ErrUnavailable, "is forbidden"},
		"unauthorized": {401, `{"kind":"Status","message":"Unauthorized"}`, volume.ErrUnavailable, "Unauthorized"},
		"a proxy":      {502, `<html>bad gateway</html>`, volume.ErrUnavailable, "bad gateway"},
		"no JSON":      {200, `<html>`, nil, "invalid character"},
		"odd":          {200, `{"metadata":{"annotations":["x"]}}`, nil, "cannot unmarshal"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := server(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(c.status); _, _ = w.Write([]byte(c.body)) })
			got, err := k.Annotations(t.Context(), "x")
			switch {
			case c.text == "" && (err != nil || len(got) != 0):
				t.Errorf("got %v, %v", got, err)
			case c.text != "" && (err == nil || !strings.Contains(err.Error(), c.text) || c.want != nil && !errors.Is(err, c.want)):
				t.Errorf("got %v", err)
			}
		})
	}
}

// A name never leaves its place in the path.
func TestHostileName(t *testing.T) {
	t.Parallel()
	k := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.EscapedPath() != "/api/v1/persistentvolumes/..%2F..%2Fsecrets%3Fx=1" {
			t.Errorf("path %s", r.URL.EscapedPath())
		}
		w.WriteHeader(http.StatusNotFound)
	})
	if _, err := k.Annotations(t.Context(), "../../secrets?x=1"); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestNotInCluster(t *testing.T) {
	t.Setenv(hostVariable, "")
	if _, err := InCluster(); !errors.Is(err, ErrNotInCluster) {
		t.Errorf("got %v", err)
	}
	t.Setenv(hostVariable, "192.0.2.1")
	t.Setenv(portVariable, "443")
	if _, err := InCluster(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without credentials: %v", err)
	}
}

func TestBadCA(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), []byte("no"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newClient("https://192.0.2.1", dir); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

func TestNodeLabels(t *testing.T) {
	t.Parallel()
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/nodes/node1" {
			t.Errorf("asked %s", r.URL.Path)
		}
		_, _ = w.Write([]byte(`{"metadata":{"labels":{"topology.kubernetes.io/zone":"a"}}}`))
	})
	got, err := c.NodeLabels(t.Context(), "node1")
	if diff := cmp.Diff(map[string]string{"topology.kubernetes.io/zone": "a"}, got); diff != "" || err != nil {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
}

func TestClaim(t *testing.T) {
	t.Parallel()
	answer := `{"kind":"PersistentVolume","spec":{"claimRef":{"kind":"PersistentVolumeClaim","namespace":"db","name":"data-0","uid":"u-1","resourceVersion":"7"}}}`
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Method + " " + r.URL.Path + " " + r.Header.Get("Accept"); got != "GET /api/v1/persistentvolumes/pvc-1 application/json" {
			t.Errorf("asked %s", got)
		}
		_, _ = w.Write([]byte(answer))
	})
	got, err := c.Claim(t.Context(), "pvc-1")
	want := Reference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: "db", Name: "data-0", UID: "u-1"}
	if err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	answer = `{"kind":"PersistentVolume","spec":{}}`
	if _, err := c.Claim(t.Context(), "pvc-1"); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("not bound: %v", err)
	}
}

func TestWrite(t *testing.T) {
	t.Parallel()
	var path string
	var sent map[string]any
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		path = r.Method + " " + r.URL.Path
		sent = map[string]any{}
		if err := json.NewDecoder(r.Body).Decode(&sent); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write([]byte(`{"kind":"Event"}`))
	})
	claim := Reference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: "db", Name: "data-0", UID: "u-1"}
	if err := c.Write(t.Context(), Event{About: claim, Warning: true, Reason: "VolumeWaiting", Message: strings.Repeat("x", 2000), From: "csi.holdfast.io", Host: "node1"}); err != nil {
		t.Fatal(err)
	}
	about, _ := sent["involvedObject"].(map[string]any)
	metadata, _ := sent["metadata"].(map[string]any)
	name, _ := metadata["name"].(string)
	message, _ := sent["message"].(string)
	if path != "POST /api/v1/namespaces/db/events" || about["uid"] != "u-1" || sent["type"] != "Warning" || len(message) != longestMessage ||
		!strings.HasPrefix(name, "data-0.") || name != strings.ToLower(name) {
		t.Errorf("%s: %v", path, sent)
	}
	if err := c.Write(t.Context(), Event{About: Node("node1"), Reason: "StorageReconnected"}); err != nil {
		t.Fatal(err)
	}
	about, _ = sent["involvedObject"].(map[string]any)
	if path != "POST /api/v1/namespaces/default/events" || about["uid"] != "node1" || sent["type"] != "Normal" {
		t.Errorf("%s: %v", path, sent)
	}
}
