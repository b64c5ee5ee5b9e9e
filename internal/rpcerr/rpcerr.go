// Package rpcerr is the one table between the errors of internal/volume and
// gRPC status codes, in both directions. Nothing else in the tree chooses a
// code.
//
// The codes follow what callers make of them. The external-attacher takes
// Canceled, DeadlineExceeded, Unavailable, ResourceExhausted and Aborted for
// "may still be in progress" and everything else, Internal included, for
// "certainly not attached"; the kubelet forgets a stage that failed with a
// final code and never unstages it. So an uncertain outcome never gets a final
// code, and an error that wraps no sentinel counts as uncertain.
//
// It does not log, and it does not decide what is retried.
package rpcerr

import (
	"context"
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// domain marks our ErrorInfo details.
const domain = volume.DriverName

// ErrAborted is for the few requests to which CSI itself assigns Aborted, such
// as a listing token that is not valid.
var ErrAborted = errors.New("start over")

// unnamed is the reason of an error that is none of internal/volume.
const unnamed = "UNNAMED"

type row struct {
	err    error
	code   codes.Code
	reason string
}

// table is ordered: the first sentinel that an error wraps decides.
var table = []row{
	{ErrAborted, codes.Aborted, "START_OVER"},
	{volume.ErrInvalid, codes.InvalidArgument, "INVALID"},
	{volume.ErrOutOfRange, codes.OutOfRange, "OUT_OF_RANGE"},
	{volume.ErrNotFound, codes.NotFound, "NOT_FOUND"},
	{volume.ErrExists, codes.AlreadyExists, "EXISTS"},
	{volume.ErrNoSpace, codes.ResourceExhausted, "NO_SPACE"},
	{volume.ErrInUse, codes.FailedPrecondition, "IN_USE"},
	{volume.ErrPublishedElsewhere, codes.FailedPrecondition, "PUBLISHED_ELSEWHERE"},
	{volume.ErrPrecondition, codes.FailedPrecondition, "PRECONDITION"},
	{volume.ErrNotBlank, codes.FailedPrecondition, "NOT_BLANK"},
	{volume.ErrEnded, codes.FailedPrecondition, "ENDED"},
	{volume.ErrDenied, codes.PermissionDenied, "DENIED"},
	{volume.ErrBusy, codes.Aborted, "BUSY"},
	{volume.ErrPending, codes.DeadlineExceeded, "PENDING"},
	{volume.ErrUnavailable, codes.Unavailable, "UNAVAILABLE"},
	{volume.ErrUnsupported, codes.Unimplemented, "UNSUPPORTED"},
	{volume.ErrDataLoss, codes.DataLoss, "DATA_LOSS"},
	{context.DeadlineExceeded, codes.DeadlineExceeded, "DEADLINE"},
	{context.Canceled, codes.Canceled, "CANCELED"},
}

// Code returns the gRPC code for err; OK for nil and Unavailable for an error
// that is none of ours, because its outcome is not known.
func Code(err error) codes.Code {
	if err == nil {
		return codes.OK
	}
	if r, ok := find(err); ok {
		return r.code
	}
	if st, ok := status.FromError(err); ok {
		return st.Code()
	}
	return codes.Unavailable
}

// ToStatus turns err into a gRPC status error with an ErrorInfo detail that
// names the sentinel. It returns nil for nil and leaves a status error as it is.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	r, ok := find(err)
	if !ok {
		if _, isStatus := status.FromError(err); isStatus {
			return err
		}
		r = row{code: codes.Unavailable, reason: unnamed}
	}
	st, detailErr := status.New(r.code, err.Error()).WithDetails(&errdetails.ErrorInfo{Reason: r.reason, Domain: domain})
	if detailErr != nil {
		return status.Error(r.code, err.Error())
	}
	return st.Err()
}

// FromStatus reads an error that came over gRPC back into the domain: the
// result wraps the sentinel that the server named, or the one that the code
// stands for. Codes that say nothing certain become ErrUnavailable.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	return &remoteError{msg: st.Message(), sentinel: sentinelOf(st), status: err}
}

// remoteError keeps the server's words and wraps both the sentinel and the
// status it came as.
type remoteError struct {
	msg      string
	sentinel error
	status   error
}

func (e *remoteError) Error() string   { return e.msg }
func (e *remoteError) Unwrap() []error { return []error{e.sentinel, e.status} }

// Retryable: nobody answered, or somebody else holds the object for a moment.
func (e *remoteError) Retryable() bool {
	return errors.Is(e.sentinel, volume.ErrUnavailable) || errors.Is(e.sentinel, volume.ErrBusy)
}

// Unanswered says that err is of a call to which the other side said nothing: what is
// unavailable, or late, by the words of the other side is an answer.
func Unanswered(err error) bool {
	var remote *remoteError
	if !errors.As(err, &remote) {
		return false
	}
	st, _ := status.FromError(remote.status)
	return reason(st) == "" && (errors.Is(remote.sentinel, volume.ErrUnavailable) || errors.Is(remote.sentinel, volume.ErrPending))
}

// reason is what one of ours gave; "" if it was none of ours.
func reason(st *status.Status) string {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == domain {
			return info.GetReason()
		}
	}
	return ""
}

func sentinelOf(st *status.Status) error {
	given := reason(st)
	for _, r := range table {
		if r.reason == given {
			return r.err
		}
	}
	switch st.Code() {
	case codes.InvalidArgument:
		return volume.ErrInvalid
	case codes.OutOfRange:
		return volume.ErrOutOfRange
	case codes.NotFound:
		return volume.ErrNotFound
	case codes.Unauthenticated, codes.PermissionDenied:
		return volume.ErrDenied
	case codes.Unimplemented:
		return volume.ErrUnsupported
	case codes.DeadlineExceeded:
		return volume.ErrPending
	case codes.Canceled:
		return context.Canceled
	case codes.Aborted:
		return volume.ErrBusy
	default:
		return volume.ErrUnavailable
	}
}

func find(err error) (row, bool) {
	for _, r := range table {
		if errors.Is(err, r.err) {
			return r, true
		}
	}
	return row{}, false
}

// Final says whether the kubelet and the attacher take err for "certainly
// failed, nothing left behind". A nil error is not final.
func Final(err error) bool {
	switch Code(err) {
	case codes.OK, codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.ResourceExhausted, codes.Aborted:
		return false
	default:
		return true
	}
}
