//go:build linux && k8s && long

package scale_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/test/kube"
)

// audit is what the driver's pod asked the API server for.
type audit struct {
	when    map[string][]time.Time // by "program verb resource", in the order of time
	refused map[string]int         // by the same and the code
	made    map[string]time.Time   // attachments, by name
	done    map[string]time.Time   // those that were told to be attached, by name
	deleted map[string]time.Time   // volumes, by name
}

// event is a line of the audit log.
type event struct {
	Verb           string
	UserAgent      string
	User           struct{ Username string }
	ObjectRef      struct{ Resource, Subresource, Name string }
	ResponseStatus struct{ Code int }
	StageTimestamp time.Time
}

func (s *trial) readAudit() *audit {
	s.Helper()
	f, err := os.Open(s.cluster.AuditLog())
	s.must(err)
	defer f.Close()
	a := &audit{map[string][]time.Time{}, map[string]int{}, map[string]time.Time{}, map[string]time.Time{}, map[string]time.Time{}}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event
		s.must(json.Unmarshal(lines.Bytes(), &e))
		a.add(e)
	}
	s.must(lines.Err())
	for _, at := range a.when {
		slices.SortFunc(at, time.Time.Compare)
	}
	return a
}

// The account of what makes attachments, of the controller-manager.
const attachDetach = "system:serviceaccount:kube-system:attachdetach-controller"

const firstRefusal = 400

func (a *audit) add(e event) {
	resource := e.ObjectRef.Resource
	if e.ObjectRef.Subresource != "" {
		resource += "/" + e.ObjectRef.Subresource
	}
	if e.User.Username == attachDetach && e.Verb == "create" && resource == "volumeattachments" {
		a.made[e.ObjectRef.Name] = e.StageTimestamp
	}
	if !strings.HasPrefix(e.User.Username, "system:serviceaccount:"+kube.Namespace+":") {
		return
	}
	program, _, _ := strings.Cut(e.UserAgent, "/")
	key := program + " " + e.Verb + " " + resource
	if e.ResponseStatus.Code >= firstRefusal {
		a.refused[fmt.Sprintf("%s: %d", key, e.ResponseStatus.Code)]++
		return
	}
	a.when[key] = append(a.when[key], e.StageTimestamp)
	// The sidecars do some things twice, before they see that they have done them.
	if _, before := a.done[e.ObjectRef.Name]; !before && resource == "volumeattachments/status" {
		a.done[e.ObjectRef.Name] = e.StageTimestamp
	}
	if e.Verb == "delete" && resource == "persistentvolumes" {
		a.deleted[e.ObjectRef.Name] = e.StageTimestamp
	}
}

// attaching is how long attachments took.
func (a *audit) attaching() (all []time.Duration) {
	for name, at := range a.done {
		if made, ok := a.made[name]; ok {
			all = append(all, at.Sub(made))
		}
	}
	return all
}
