//go:build linux && k8s && long

package scale_test

import (
	"fmt"
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

func (s *trial) readAudit() *audit {
	s.Helper()
	a := &audit{map[string][]time.Time{}, map[string]int{}, map[string]time.Time{}, map[string]time.Time{}, map[string]time.Time{}}
	s.must(kube.ReadAudit(s.cluster.AuditLog(), a.add))
	for _, at := range a.when {
		slices.SortFunc(at, time.Time.Compare)
	}
	return a
}

// attachDetach makes attachments, in the controller-manager.
const attachDetach = "attachdetach-controller"

const firstRefusal = 400

func (a *audit) add(r kube.Request) {
	name, what := r.ObjectRef.Name, r.What()
	if account, _ := r.Account("kube-system"); account == attachDetach && what == "create volumeattachments" {
		a.made[name] = r.StageTimestamp
	}
	if _, ours := r.Account(kube.Namespace); !ours {
		return
	}
	program, _, _ := strings.Cut(r.UserAgent, "/")
	key := program + " " + what
	if r.ResponseStatus.Code >= firstRefusal {
		a.refused[fmt.Sprintf("%s: %d", key, r.ResponseStatus.Code)]++
		return
	}
	a.when[key] = append(a.when[key], r.StageTimestamp)
	// The sidecars do some things twice, before they see that they have done them.
	if _, before := a.done[name]; !before && strings.HasSuffix(what, " volumeattachments/status") {
		a.done[name] = r.StageTimestamp
	}
	if what == "delete persistentvolumes" {
		a.deleted[name] = r.StageTimestamp
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
