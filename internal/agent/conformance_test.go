package agent_test

import (
	"testing"

	"github.com/holdfast-csi/holdfast/internal/agent/agenttest"
)

func TestBackend(t *testing.T) {
	agenttest.TestBackend(t, func(t *testing.T) agenttest.Subject {
		return agenttest.New(t, "fast").StartServing(t)
	})
}
