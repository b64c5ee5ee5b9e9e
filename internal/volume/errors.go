package volume

import "errors"

// The errors of the domain. Every layer wraps one of them with %w, adding the
// object and the rule, and nobody invents another convention: "not there" is
// always ErrNotFound, never a nil value.
var (
	// ErrInvalid: the request itself breaks a rule; repeating it cannot help.
	ErrInvalid = errors.New("invalid request")
	// ErrOutOfRange: no volume has a size as it is asked for.
	ErrOutOfRange = errors.New("size out of range")
	// ErrNotFound: the named object does not exist.
	ErrNotFound = errors.New("not found")
	// ErrExists: an object of that name exists and differs from the one asked for.
	ErrExists = errors.New("already exists with different properties")
	// ErrNoSpace: the pool cannot hold it.
	ErrNoSpace = errors.New("not enough space")
	// ErrInUse: a volume that is still published cannot be deleted.
	ErrInUse = errors.New("in use")
	// ErrPublishedElsewhere: a single-node volume is published to another node.
	ErrPublishedElsewhere = errors.New("published to another node")
	// ErrPrecondition: the object exists but its state forbids the operation,
	// and repeating it without a change cannot help.
	ErrPrecondition = errors.New("precondition failed")
	// ErrNotBlank: a format was asked for and nothing proves that the volume
	// was never written.
	ErrNotBlank = errors.New("volume is not proven blank")
	// ErrEnded: the publication named by the caller has ended, or a newer
	// generation of it exists. This is a positive statement of the agent.
	ErrEnded = errors.New("publication has ended")
	// ErrDenied: the caller is known and may not do this.
	ErrDenied = errors.New("permission denied")
	// ErrBusy: another operation on the same object is under way.
	ErrBusy = errors.New("operation in progress")
	// ErrPending: begun and not finished; the outcome is not known yet and the
	// same call has to be repeated.
	ErrPending = errors.New("not finished yet")
	// ErrUnavailable: something that has to answer does not; repeat later.
	ErrUnavailable = errors.New("unavailable")
	// ErrUnsupported: this build, kernel or backend cannot do it.
	ErrUnsupported = errors.New("unsupported")
	// ErrDataLoss: bytes that should be there are not readable.
	ErrDataLoss = errors.New("data loss")
)
