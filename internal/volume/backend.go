package volume

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// Backend is one storage host as the controller sees it. Methods tell the
// plain truth with the sentinels of this package. Delete and Unpublish of
// something that is not there are ErrNotFound; Create of an existing name
// returns the existing volume when it fits the request, else ErrExists. All of
// them may be called again after any error; ErrPending and ErrUnavailable mean
// that the outcome is unknown.
type Backend interface {
	Info(ctx context.Context) (HostInfo, error)
	Create(ctx context.Context, req CreateRequest) (Volume, error)
	Get(ctx context.Context, id uuid.UUID) (Volume, error)
	// FindByName returns ErrNotFound if no volume of the host has that name.
	FindByName(ctx context.Context, name string) (Volume, error)
	Delete(ctx context.Context, id uuid.UUID) error
	Publish(ctx context.Context, req PublishRequest) (Publication, error)
	// Unpublish fences before it answers: from then on no write of that node
	// lands. node "" means every node.
	Unpublish(ctx context.Context, id uuid.UUID, node string) error
}

// Lister is implemented by backends that can enumerate.
type Lister interface {
	// List returns volumes ordered by UUID, those after the given one, at most
	// limit (0 = all).
	List(ctx context.Context, after uuid.UUID, limit int) ([]Volume, error)
	Publications(ctx context.Context) ([]Publication, error)
}

// Retiree is a storage host that can be told that it was declared gone for good.
// A declaration is known by the time at which it was made.
type Retiree interface {
	// Retire withdraws every publication, also one that a crash interrupts, and
	// makes Create and Publish fail with ErrPrecondition until Admit. One that was
	// admitted changes nothing; one that is older than what the host knows is
	// ErrPrecondition.
	Retire(ctx context.Context, declared time.Time) error
	// Admit takes the host into service again after that declaration and all older
	// ones. Publications do not come back.
	Admit(ctx context.Context, declared time.Time) error
}

// FormatAuthority is the agent as a node sees it: it answers about the
// caller's own publication and nothing else.
type FormatAuthority interface {
	Status(ctx context.Context, ref PublicationRef) (PublicationStatus, error)
	// BeginFormat records durably that the volume is being formatted. It is
	// refused with ErrNotBlank unless the pool proves that nothing was ever
	// written, or a format is already recorded; with ErrEnded if the
	// publication has ended.
	BeginFormat(ctx context.Context, ref PublicationRef) error
	// EndFormat removes the record. Calling it again is no error.
	EndFormat(ctx context.Context, ref PublicationRef) error
}
