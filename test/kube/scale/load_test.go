//go:build linux && k8s && long

package scale_test

import (
	"encoding/json"
	"fmt"
	"strings"
)

const (
	// batch is how many claims and pods are made by one kubectl.
	batch = 100
	// waiting is how many claims may be without a volume before more are made: enough
	// to keep everybody busy, and few enough that the scheduler does not look at
	// thousands of pods again and again.
	waiting = 500
)

// claimAndPod asks the scheduler for a node of its choice: all nodes together have
// just room for all pods. The pod stays whatever befalls its node, so that a node that
// is late with its lease on a busy machine moves no volume.
const claimAndPod = `---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: v%[1]d}
spec:
  storageClassName: holdfast
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 32Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: p%[1]d}
spec:
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
  tolerations: [{operator: Exists}]
  containers: [{name: main, image: none, volumeMounts: [{name: data, mountPath: /data}]}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: v%[1]d}}]
`

func (s *trial) addNodes() {
	s.Helper()
	perNode := (*volumes + *nodes - 1) / *nodes
	ids, err := s.cluster.AddNodes(s.ctx, *nodes, perNode)
	s.must(err)
	s.nodeIDs = ids
}

// makeVolumes makes claims and their pods, and kills the driver on the way.
func (s *trial) makeVolumes() {
	s.Helper()
	points := killPoints()
	for from := 0; from < *volumes; from += batch {
		to := min(from+batch, *volumes)
		var objects strings.Builder
		for i := from; i < to; i++ {
			fmt.Fprintf(&objects, claimAndPod, i)
		}
		s.must(s.cluster.Create(s.ctx, objects.String()))
		s.await("volumes are made", func() (bool, string) {
			there := s.count("persistentvolumes")
			if len(points) > 0 && there >= points[0] {
				s.killDriver()
				points = points[1:]
			}
			left := to - there
			return left == 0 || to < *volumes && left <= waiting, fmt.Sprintf("%d of %d", there, *volumes)
		})
	}
}

// awaitAttached waits until every claim is bound, every attachment attached and every
// pod runs.
func (s *trial) awaitAttached() {
	s.Helper()
	for _, what := range []struct{ resource, column, want string }{
		{"persistentvolumeclaims", ".status.phase", "Bound"}, {"pods", ".status.phase", "Running"}, {"volumeattachments", ".status.attached", "true"},
	} {
		s.await(what.resource+" are "+what.want, func() (bool, string) {
			n := strings.Count(s.kubectl("get", what.resource, "--no-headers", "-o", "custom-columns=X:"+what.column), what.want)
			return n == *volumes, fmt.Sprintf("%d of %d", n, *volumes)
		})
	}
}

// deleteVolumes deletes pods and claims at once, as a user does who deletes a
// namespace, and kills the driver on the way.
func (s *trial) deleteVolumes() {
	s.Helper()
	gone := make(chan error, 1)
	go func() {
		_, err := s.cluster.Kubectl(s.ctx, "delete", "pods,persistentvolumeclaims", "--all", "--wait=false")
		gone <- err
	}()
	points := killPoints()
	s.await("volumes are deleted", func() (bool, string) {
		left := s.count("persistentvolumes")
		if len(points) > 0 && *volumes-left >= points[0] {
			s.killDriver()
			points = points[1:]
		}
		return left == 0, fmt.Sprintf("%d left", left)
	})
	s.must(<-gone)
	for _, resource := range []string{"volumeattachments", "persistentvolumeclaims", "pods"} {
		s.await(resource+" are gone", func() (bool, string) {
			n := s.count(resource)
			return n == 0, fmt.Sprintf("%d left", n)
		})
	}
}

var paths = map[string]string{
	"persistentvolumes":      "/api/v1/persistentvolumes",
	"persistentvolumeclaims": "/api/v1/persistentvolumeclaims",
	"pods":                   "/api/v1/pods",
	"volumeattachments":      "/apis/storage.k8s.io/v1/volumeattachments",
}

// count is the number of objects, for which only one of them is sent.
func (s *trial) count(resource string) int {
	s.Helper()
	var list struct {
		Metadata struct{ RemainingItemCount int }
		Items    []struct{}
	}
	s.must(json.Unmarshal([]byte(s.kubectl("get", "--raw", paths[resource]+"?limit=1")), &list))
	return list.Metadata.RemainingItemCount + len(list.Items)
}
