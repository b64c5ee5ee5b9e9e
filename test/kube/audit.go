//go:build linux

package kube

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

// Request is one that the API server has answered, as its audit log tells.
type Request struct {
	Verb           string
	UserAgent      string
	User           struct{ Username string }
	ObjectRef      struct{ Resource, Subresource, Name string }
	ResponseStatus struct{ Code int }
	StageTimestamp time.Time
}

// What was done to what: "patch volumeattachments/status".
func (r Request) What() string {
	what := r.Verb + " " + r.ObjectRef.Resource
	if r.ObjectRef.Subresource != "" {
		what += "/" + r.ObjectRef.Subresource
	}
	return what
}

// Account is the service account that asked, if it is one of a namespace.
func (r Request) Account(namespace string) (name string, ok bool) {
	return strings.CutPrefix(r.User.Username, "system:serviceaccount:"+namespace+":")
}

// ReadAudit reads an audit log in its order.
func ReadAudit(path string, each func(Request)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r Request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return fmt.Errorf("audit log: %w", err)
		}
		each(r)
	}
	return lines.Err()
}

// Requests counts what the service accounts of a namespace have asked the API server
// for since the cluster began, by account, verb and resource: "holdfast-node create
// events".
func (c *Cluster) Requests(namespace string) (map[string]int, error) {
	out := map[string]int{}
	err := ReadAudit(c.control.auditLog(), func(r Request) {
		if account, ours := r.Account(namespace); ours {
			out[account+" "+r.What()]++
		}
	})
	return out, err
}
