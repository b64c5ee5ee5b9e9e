//go:build linux && k8s && long

package scale_test

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// maxSaid is how many faults of one kind are told one by one.
const maxSaid = 10

// faults tells the first of a kind, and how many there are.
func (s *trial) faults(what string, list []string) {
	s.Helper()
	for i, f := range list {
		if i == maxSaid {
			break
		}
		s.Errorf("%s: %s", what, f)
	}
	if len(list) > maxSaid {
		s.Errorf("%s: %d in all", what, len(list))
	}
}

// wantAllThere compares what the API has with what is on the storage hosts: each
// volume and each publication is there once, and its node would find it.
func (s *trial) wantAllThere() {
	s.Helper()
	handles, wantNode := s.inTheAPI()
	var faults []string
	fault := func(text ...string) { faults = append(faults, strings.Join(text, " ")) }
	volumesThere, publicationsThere, names := map[string]bool{}, map[string]bool{}, map[string]string{}
	for _, b := range s.boxes {
		state := s.state(b)
		visible := map[string]bool{}
		for _, e := range state.Visible {
			visible[b.name+":"+e.Volume] = true
		}
		for _, v := range state.Volumes {
			handle := b.name + ":" + v.UUID
			if other := names[v.Name]; other != "" {
				fault(v.Name, "is there twice:", other, "and", handle)
			}
			if v.State != "ready" || handles[v.Name] != handle {
				fault(handle, v.Name, "is", v.State, "and in the API", handles[v.Name])
			}
			names[v.Name], volumesThere[handle] = handle, true
		}
		for _, p := range state.Publications {
			handle := b.name + ":" + p.Volume
			if p.State != "published" || p.Node != wantNode[handle] || !visible[handle] || publicationsThere[handle] {
				fault(handle, "is", p.State, "to", p.Node, "and in the API attached to", wantNode[handle])
			}
			publicationsThere[handle] = true
		}
		if len(state.Files) != len(state.Volumes) || len(state.Visible) != len(state.Publications) {
			s.Errorf("%s: %d volumes and %d files, %d publications and %d namespaces to be found", b.name, len(state.Volumes), len(state.Files), len(state.Publications), len(state.Visible))
		}
	}
	s.faults("on the storage hosts", faults)
	if len(volumesThere) != *volumes || len(publicationsThere) != *volumes {
		s.Errorf("%d volumes and %d publications on the storage hosts, want %d", len(volumesThere), len(publicationsThere), *volumes)
	}
}

// inTheAPI are the handles of all volumes by their names, and for each handle the ID
// of the node that it is attached to.
func (s *trial) inTheAPI() (handles, nodeOf map[string]string) {
	s.Helper()
	handles, nodeOf = map[string]string{}, map[string]string{}
	for line := range strings.Lines(s.kubectl("get", "persistentvolumes", "--no-headers", "-o", "custom-columns=N:.metadata.name,H:.spec.csi.volumeHandle")) {
		f := strings.Fields(line)
		if _, err := volume.ParseID(f[1]); err != nil {
			s.Error(err)
		}
		handles[f[0]] = f[1]
	}
	for line := range strings.Lines(s.kubectl("get", "volumeattachments", "--no-headers", "-o", "custom-columns=V:.spec.source.persistentVolumeName,N:.spec.nodeName")) {
		f := strings.Fields(line)
		nodeOf[handles[f[0]]] = s.nodeIDs[f[1]]
	}
	return handles, nodeOf
}

// wantNothing: no record, no file, nothing in the target.
func (s *trial) wantNothing() {
	s.Helper()
	for _, b := range s.boxes {
		state := s.state(b)
		if n := len(state.Volumes) + len(state.Publications) + state.Sessions + len(state.Files) + len(state.Target); n > 0 {
			s.Errorf("left on %s: %+v", b.name, state)
		}
	}
}

// noWarnings: no pod and no claim was told of a failure. A pod that waits for its
// volume to be made is none.
func (s *trial) noWarnings() {
	s.Helper()
	var faults []string
	for line := range strings.Lines(s.kubectl("get", "events", "--no-headers", "--field-selector", "type=Warning", "-o", "custom-columns=R:.reason,O:.involvedObject.name,M:.message")) {
		if !strings.HasPrefix(line, "FailedScheduling") {
			faults = append(faults, strings.TrimSpace(line))
		}
	}
	s.faults("event", faults)
}

// logged is a line of the controller's or an agent's log.
type logged struct {
	Time   time.Time
	Msg    string
	Method string
	Took   time.Duration
	Code   string
	Err    string
}

// eachLogged reads a log of JSON lines. What libraries and a killed process's last
// words make of a line is passed over.
func (s *trial) eachLogged(name string, see func(logged)) {
	s.Helper()
	f, err := os.Open(s.cluster.Log(name))
	s.must(err)
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var l logged
		if json.Unmarshal(lines.Bytes(), &l) == nil {
			see(l)
		}
	}
	s.must(lines.Err())
}

// afterKill is how long after a kill calls that lost their caller may fail at the
// agents.
const afterKill = 10 * time.Second

// noFailedCalls: the controller failed no call, and the agents none but of a
// controller that was killed.
func (s *trial) noFailedCalls() {
	s.Helper()
	var faults []string
	s.eachLogged("holdfast", func(l logged) {
		if l.Msg == "call failed" {
			faults = append(faults, l.Method+" "+l.Code+": "+l.Err)
		}
	})
	s.faults("the controller", faults)
	for _, b := range s.boxes {
		faults = nil
		s.eachLogged(b.name, func(l logged) {
			if l.Msg == "call failed" && !s.justKilled(l.Time) {
				faults = append(faults, l.Method+" "+l.Code+": "+l.Err)
			}
		})
		s.faults(b.name, faults)
	}
}

func (s *trial) justKilled(at time.Time) bool {
	for _, k := range s.killed {
		if at.Sub(k).Abs() < afterKill {
			return true
		}
	}
	return false
}
