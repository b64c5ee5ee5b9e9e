package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

func pointer(s string) *string { return &s }

// What is sent is a merge patch of what is named, and nothing else.
func TestPatches(t *testing.T) {
	t.Parallel()
	var got []string
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = []string{r.Method, r.URL.EscapedPath(), r.Header.Get("Content-Type"), string(body)}
		_, _ = w.Write([]byte(`{}`))
	})
	if err := os.WriteFile(filepath.Join(c.dir, "namespace"), []byte("storage"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		do   func() error
		want []string
	}{
		{
			func() error { return c.PatchConfigMap(t.Context(), "x", Patch{"a": pointer("b"), "c": nil}) },
			[]string{"PATCH", "/api/v1/namespaces/storage/configmaps/x", "application/merge-patch+json", `{"data":{"a":"b","c":null}}` + "\n"},
		},
		{
			func() error { return c.Annotate(t.Context(), "pvc/1", Patch{"a/b": pointer("c")}) },
			[]string{"PATCH", "/api/v1/persistentvolumes/pvc%2F1", "application/merge-patch+json", `{"metadata":{"annotations":{"a/b":"c"}}}` + "\n"},
		},
	} {
		if err := x.do(); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(x.want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
}

func TestConfigMap(t *testing.T) {
	t.Parallel()
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/namespaces/storage/configmaps/x" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write([]byte(`{"kind":"ConfigMap","data":{"a":"b"}}`))
	})
	if _, err := c.ConfigMap(t.Context(), "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a namespace: %v", err)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "namespace"), []byte("storage\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := c.ConfigMap(t.Context(), "x"); err != nil || got["a"] != "b" {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := c.ConfigMap(t.Context(), "y"); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

// All pages are read, and of each what belongs to the driver.
func TestPersistentVolumes(t *testing.T) {
	t.Parallel()
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		at, next := 0, ""
		if r.URL.Query().Get("continue") == "more" {
			at = 2
		} else {
			next = "more"
		}
		items := []string{}
		for i := at; i < at+2; i++ {
			items = append(items, fmt.Sprintf(`{"metadata":{"name":"pvc-%d"},"spec":{"capacity":{"storage":"1Gi"},"claimRef":{"namespace":"a","name":"c%d"},"csi":{"driver":"d","volumeHandle":"box1:%d"}},"status":{"phase":"Bound"}}`, i, i, i))
		}
		items = append(items, `{"metadata":{"name":"other"},"spec":{"csi":{"driver":"e"}}}`, `{"metadata":{"name":"nfs"},"spec":{"nfs":{}}}`, `{"metadata":{"name":"free"},"spec":{"csi":{"driver":"d"}}}`)
		list := json.RawMessage("[")
		for i, item := range items {
			if i > 0 {
				list = append(list, ',')
			}
			list = append(list, item...)
		}
		_, _ = fmt.Fprintf(w, `{"metadata":{"continue":%q},"items":%s]}`, next, list)
	})
	got, err := c.PersistentVolumes(t.Context(), "d")
	if err != nil {
		t.Fatal(err)
	}
	want := []PersistentVolume{}
	for i := range 4 {
		want = append(want, PersistentVolume{Name: fmt.Sprintf("pvc-%d", i), Phase: "Bound", Size: "1Gi", Handle: fmt.Sprintf("box1:%d", i), Claim: fmt.Sprintf("a/c%d", i)})
		if i%2 == 1 {
			want = append(want, PersistentVolume{Name: "free"})
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
