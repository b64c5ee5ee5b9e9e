package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// uncertain is for errors after something is on record: the caller must come
// again and must not take the call for one that left nothing behind. An error
// that says something final keeps its text and loses its meaning.
func uncertain(err error) error {
	if err == nil {
		return nil
	}
	for _, final := range []error{
		volume.ErrInvalid, volume.ErrOutOfRange, volume.ErrNotFound, volume.ErrExists, volume.ErrNoSpace, volume.ErrInUse, volume.ErrPublishedElsewhere,
		volume.ErrPrecondition, volume.ErrNotBlank, volume.ErrEnded, volume.ErrDenied, volume.ErrUnsupported, volume.ErrDataLoss, context.Canceled,
	} {
		if errors.Is(err, final) {
			return fmt.Errorf("%v: %w", err, volume.ErrUnavailable)
		}
	}
	return err
}
