package agentclient

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/pkg/utils"
)

// questionBackoff carries a node's question over a restart of the agent, which
// takes a second or two: 0.1, 0.2, 0.4, 0.8 and 1.6 s between the attempts.
var questionBackoff = wait.Backoff{Steps: 6, Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.1}

// Patient asks again when the agent does not answer. All three questions may be
// repeated: the second answer is the first one's.
func Patient(a volume.FormatAuthority) volume.FormatAuthority { return patient{a} }

type patient struct{ agent volume.FormatAuthority }

func (p patient) Status(ctx context.Context, ref volume.PublicationRef) (st volume.PublicationStatus, err error) {
	err = utils.RetryWithBackoff(ctx, questionBackoff, func() (err error) {
		st, err = p.agent.Status(ctx, ref)
		return err
	})
	return st, err
}

func (p patient) BeginFormat(ctx context.Context, ref volume.PublicationRef) error {
	return utils.RetryWithBackoff(ctx, questionBackoff, func() error { return p.agent.BeginFormat(ctx, ref) })
}

func (p patient) EndFormat(ctx context.Context, ref volume.PublicationRef) error {
	return utils.RetryWithBackoff(ctx, questionBackoff, func() error { return p.agent.EndFormat(ctx, ref) })
}
