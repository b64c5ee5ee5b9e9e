//go:build linux

package kube

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// Requests counts what the service accounts of a namespace have asked the API server
// for since the cluster began, by account, verb and resource: "holdfast-node create
// events".
func (c *Cluster) Requests(namespace string) (map[string]int, error) {
	f, err := os.Open(c.control.auditLog())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	prefix, out := "system:serviceaccount:"+namespace+":", map[string]int{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			Verb      string                                 `json:"verb"`
			User      struct{ Username string }              `json:"user"`
			ObjectRef struct{ Resource, Subresource string } `json:"objectRef"`
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("audit log: %w", err)
		}
		account, ours := strings.CutPrefix(e.User.Username, prefix)
		if !ours {
			continue
		}
		resource := e.ObjectRef.Resource
		if e.ObjectRef.Subresource != "" {
			resource += "/" + e.ObjectRef.Subresource
		}
		out[account+" "+e.Verb+" "+resource]++
	}
	return out, lines.Err()
}
