package giveup

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// world is a cluster and a node with volumes that wait.
type world struct {
	waiting     []Waiting
	annotations map[string]map[string]string
	later       map[string]map[string]string // from the second question on, if there are any
	failure     error
	asked       int
	abandoned   []string
	cannot      error
	log         bytes.Buffer
}

func (w *world) loop() *Loop {
	return New(Options{
		Waiting: func() []Waiting { return w.waiting },
		Annotations: func(_ context.Context, pv string) (map[string]string, error) {
			w.asked++
			if w.later != nil && w.asked > 1 {
				return w.later[pv], w.failure
			}
			return w.annotations[pv], w.failure
		},
		Abandon: func(_ context.Context, id string) error {
			w.abandoned = append(w.abandoned, id)
			return w.cannot
		},
		Log: slog.New(slog.NewTextHandler(&w.log, nil)),
	})
}

// runs lets the loop run for d of a bubble's time.
func (w *world) runs(t *testing.T, d time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		w.loop().Run(ctx)
	})
}

func TestGiveUp(t *testing.T) {
	t.Parallel()
	one := []Waiting{{"box1:1", "pvc-1", time.Time{}}}
	says := func(pv, value string) map[string]map[string]string {
		return map[string]map[string]string{pv: {Annotation: value}}
	}
	for name, c := range map[string]struct {
		world
		abandoned []string
		said      []string // in the log
		lines     int
	}{
		"no annotation":        {world{waiting: one}, nil, nil, 0},
		"another's annotation": {world{waiting: one, later: says("pvc-2", "box1:1")}, nil, nil, 0},
		"the handle":           {world{waiting: one, later: says("pvc-1", "box1:1")}, []string{"box1:1", "box1:1"}, []string{"is given up"}, 2},
		"yes, then the handle": {world{waiting: one, annotations: says("pvc-1", "yes"), later: says("pvc-1", "box1:1")}, []string{"box1:1", "box1:1"}, []string{"is given up"}, 3},
		"it was there before":  {world{waiting: one, annotations: says("pvc-1", "box1:1")}, nil, []string{"was there already"}, 1},
		"yes":                  {world{waiting: one, annotations: says("pvc-1", "yes")}, nil, []string{"has to be the volume's handle", "value=yes", Annotation}, 1},
		"empty":                {world{waiting: one, annotations: says("pvc-1", "")}, nil, []string{"has to be the volume's handle"}, 1},
		"no answer":            {world{waiting: one, failure: errors.New("forbidden")}, nil, []string{"goes on waiting", "forbidden"}, 1},
		"cannot":               {world{waiting: one, later: says("pvc-1", "box1:1"), cannot: errors.New("busy")}, []string{"box1:1", "box1:1"}, []string{"is tried again"}, 4},
		"nothing waits":        {world{later: says("pvc-1", "box1:1")}, nil, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := c.world
			w.runs(t, 35*time.Second)
			if diff := cmp.Diff(c.abandoned, w.abandoned); diff != "" {
				t.Errorf("abandoned: -want +got:\n%s", diff)
			}
			log := w.log.String()
			for _, s := range c.said {
				if !strings.Contains(log, s) {
					t.Errorf("the log does not say %q", s)
				}
			}
			if got := strings.Count(log, "\n"); got != c.lines {
				t.Errorf("%d lines, want %d:\n%s", got, c.lines, log)
			}
			if len(w.waiting) == 0 && w.asked > 0 {
				t.Errorf("asked %d times about nothing", w.asked)
			}
		})
	}
}

// What was put there in one outage does not hold for the next.
func TestNextOutage(t *testing.T) {
	t.Parallel()
	w := &world{annotations: map[string]map[string]string{}}
	l := w.loop()
	at := func(since time.Duration, value string) {
		w.waiting = []Waiting{{"v", "pvc", time.Unix(0, 0).Add(since)}}
		w.annotations["pvc"] = map[string]string{Annotation: value}
		l.round(t.Context())
	}
	at(0, "x")
	at(0, "v")
	at(time.Minute, "v")
	at(time.Minute, "v")
	if len(w.abandoned) != 1 {
		t.Errorf("given up %d times", len(w.abandoned))
	}
}

// Two hundred volumes that wait are a few questions a second, not a burst.
func TestPace(t *testing.T) {
	t.Parallel()
	w := &world{}
	for range 200 {
		w.waiting = append(w.waiting, Waiting{VolumeID: "v", PersistentVolume: "pvc"})
	}
	w.runs(t, time.Minute)
	if w.asked < 200 || w.asked > 500 {
		t.Errorf("asked %d times in a minute", w.asked)
	}
}

func TestPersistentVolumeOf(t *testing.T) {
	t.Parallel()
	const root = "/var/lib/kubelet"
	for name, c := range map[string]struct {
		paths []string
		want  string
	}{
		"mount":             {[]string{root + "/plugins/kubernetes.io/csi/csi.holdfast.io/0f3a/globalmount", root + "/pods/8c5b/volumes/kubernetes.io~csi/pvc-1/mount"}, "pvc-1"},
		"block":             {[]string{root + "/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-1/8c5b"}, "pvc-1"},
		"block, staged":     {[]string{root + "/plugins/kubernetes.io/csi/volumeDevices/staging/pvc-1"}, "pvc-1"},
		"two pods":          {[]string{root + "/pods/1/volumes/kubernetes.io~csi/pvc-1/mount", root + "/pods/2/volumes/kubernetes.io~csi/pvc-1/mount"}, "pvc-1"},
		"another root":      {[]string{"/data/k/pods/1/volumes/kubernetes.io~csi/static.nvme/mount"}, "static.nvme"},
		"they disagree":     {[]string{root + "/pods/1/volumes/kubernetes.io~csi/pvc-1/mount", root + "/pods/2/volumes/kubernetes.io~csi/pvc-2/mount"}, ""},
		"not the kubelet's": {[]string{"/mnt/x", "/volumes/kubernetes.io~csi/pvc-1", "/volumes/kubernetes.io~csi/a/b/mount"}, ""},
		"another plugin's":  {[]string{root + "/pods/1/volumes/kubernetes.io~nfs/pvc-1/mount"}, ""},
		"none":              {nil, ""},
	} {
		if got := PersistentVolumeOf(c.paths); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
