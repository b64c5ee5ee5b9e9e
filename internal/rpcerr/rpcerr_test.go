package rpcerr

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

// sentinels are all errors that cross the wire: the code that callers see, and
// whether that makes the kubelet and the attacher give up.
var sentinels = map[string]struct {
	err   error
	code  codes.Code
	final bool
}{
	"ErrInvalid":            {volume.ErrInvalid, codes.InvalidArgument, true},
	"ErrOutOfRange":         {volume.ErrOutOfRange, codes.OutOfRange, true},
	"ErrNotFound":           {volume.ErrNotFound, codes.NotFound, true},
	"ErrExists":             {volume.ErrExists, codes.AlreadyExists, true},
	"ErrNoSpace":            {volume.ErrNoSpace, codes.ResourceExhausted, false},
	"ErrInUse":              {volume.ErrInUse, codes.FailedPrecondition, true},
	"ErrPublishedElsewhere": {volume.ErrPublishedElsewhere, codes.FailedPrecondition, true},
	"ErrPrecondition":       {volume.ErrPrecondition, codes.FailedPrecondition, true},
	"ErrNotBlank":           {volume.ErrNotBlank, codes.FailedPrecondition, true},
	"ErrEnded":              {volume.ErrEnded, codes.FailedPrecondition, true},
	"ErrDenied":             {volume.ErrDenied, codes.PermissionDenied, true},
	"ErrBusy":               {volume.ErrBusy, codes.Aborted, false},
	"ErrPending":            {volume.ErrPending, codes.DeadlineExceeded, false},
	"ErrUnavailable":        {volume.ErrUnavailable, codes.Unavailable, false},
	"ErrUnsupported":        {volume.ErrUnsupported, codes.Unimplemented, true},
	"ErrDataLoss":           {volume.ErrDataLoss, codes.DataLoss, true},
}

// others are errors without a name in internal/volume.
var others = map[string]struct {
	err   error
	code  codes.Code
	final bool
}{
	"ErrAborted": {ErrAborted, codes.Aborted, false},
	"deadline":   {context.DeadlineExceeded, codes.DeadlineExceeded, false},
	"canceled":   {context.Canceled, codes.Canceled, false},
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, table := range []map[string]struct {
		err   error
		code  codes.Code
		final bool
	}{sentinels, others} {
		for name, c := range table {
			err := fmt.Errorf("volume x, rule y: %w", c.err)
			if Code(err) != c.code || Final(err) != c.final {
				t.Errorf("%s: code %s, final %v", name, Code(err), Final(err))
			}
			wire := ToStatus(err)
			st, ok := status.FromError(wire)
			if !ok || st.Code() != c.code || st.Message() != err.Error() {
				t.Errorf("%s: on the wire %v", name, wire)
			}
			back := FromStatus(status.FromProto(st.Proto()).Err())
			if !errors.Is(back, c.err) || back.Error() != err.Error() {
				t.Errorf("%s came back as %v", name, back)
			}
			for other, o := range sentinels {
				if other != name && errors.Is(back, o.err) {
					t.Errorf("%s came back as %s too", name, other)
				}
			}
			// It may be passed on, wrapped again, and says the same.
			if again := fmt.Errorf("agent of box1: %w", back); Code(again) != c.code || Final(again) != c.final || status.Code(ToStatus(again)) != c.code {
				t.Errorf("%s passed on: %s", name, Code(again))
			}
		}
	}
}

// TestSentinelsComplete: an error that is added to internal/volume gets a row,
// here and in the package.
func TestSentinelsComplete(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "../volume/errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for _, name := range v.Names {
			if strings.HasPrefix(name.Name, "Err") {
				found++
				if _, ok := sentinels[name.Name]; !ok {
					t.Errorf("%s has no row", name.Name)
				}
			}
		}
		return true
	})
	if found != len(sentinels) || len(table) != len(sentinels)+len(others) {
		t.Errorf("%d errors in internal/volume, %d rows here, %d in the package", found, len(sentinels)+len(others), len(table))
	}
	reasons := map[string]bool{}
	for _, r := range table {
		if reasons[r.reason] {
			t.Errorf("reason %s stands for two errors", r.reason)
		}
		reasons[r.reason] = true
	}
}

// TestForeign: errors that are none of ours, and codes that say nothing of ours.
func TestForeign(t *testing.T) {
	t.Parallel()
	if Code(nil) != codes.OK || ToStatus(nil) != nil || FromStatus(nil) != nil || Final(nil) {
		t.Error("nil is an error")
	}
	plain := errors.New("something")
	if Code(plain) != codes.Unavailable || Final(plain) || status.Code(ToStatus(plain)) != codes.Unavailable {
		t.Errorf("an outcome that nobody knows: %s, final %v", Code(plain), Final(plain))
	}
	if FromStatus(plain) != plain {
		t.Error("an error that came from nowhere was changed")
	}
	for code, want := range map[codes.Code]error{
		codes.InvalidArgument: volume.ErrInvalid, codes.OutOfRange: volume.ErrOutOfRange, codes.NotFound: volume.ErrNotFound,
		codes.Unauthenticated: volume.ErrDenied, codes.PermissionDenied: volume.ErrDenied, codes.Unimplemented: volume.ErrUnsupported,
		codes.DeadlineExceeded: volume.ErrPending, codes.Canceled: context.Canceled, codes.Aborted: volume.ErrBusy,
		// What these mean depends on who said it, and it was not one of ours.
		codes.Unknown: volume.ErrUnavailable, codes.Internal: volume.ErrUnavailable, codes.Unavailable: volume.ErrUnavailable,
		codes.ResourceExhausted: volume.ErrUnavailable, codes.FailedPrecondition: volume.ErrUnavailable,
		codes.AlreadyExists: volume.ErrUnavailable, codes.DataLoss: volume.ErrUnavailable,
	} {
		err := FromStatus(status.Error(code, "words"))
		if !errors.Is(err, want) || err.Error() != "words" || status.Code(err) != code {
			t.Errorf("%s: %v, want %v", code, err, want)
		}
	}
	// A status that nobody translated keeps its code, wrapped or not.
	st := status.Error(codes.Internal, "panic")
	if Code(st) != codes.Internal || ToStatus(st) != st || Code(fmt.Errorf("x: %w", st)) != codes.Internal {
		t.Errorf("a status: %s", Code(st))
	}
}

// Silence is not what the other side says, whatever it says.
func TestUnanswered(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"no connection":     {FromStatus(status.Error(codes.Unavailable, "connection refused")), true},
		"no time":           {fmt.Errorf("x: %w", FromStatus(status.Error(codes.DeadlineExceeded, "late"))), true},
		"unavailable":       {FromStatus(ToStatus(volume.ErrUnavailable)), false},
		"pending":           {FromStatus(ToStatus(volume.ErrPending)), false},
		"none of ours":      {FromStatus(ToStatus(errors.New("disk full"))), false},
		"not found":         {FromStatus(ToStatus(volume.ErrNotFound)), false},
		"an older build":    {FromStatus(status.Error(codes.Unimplemented, "unknown method")), false},
		"the caller's time": {context.DeadlineExceeded, false},
		"nothing":           {nil, false},
	} {
		if got := Unanswered(c.err); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestOrder: of an error with two meanings the one that decides is fixed.
func TestOrder(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		want codes.Code
	}{
		"pending, by time":       {fmt.Errorf("%w (%w)", volume.ErrPending, context.DeadlineExceeded), codes.DeadlineExceeded},
		"unavailable, canceled":  {fmt.Errorf("%w (%w)", volume.ErrUnavailable, context.Canceled), codes.Unavailable},
		"pending or unavailable": {fmt.Errorf("%w: %w", volume.ErrUnavailable, volume.ErrPending), codes.DeadlineExceeded},
		"busy behind pending":    {errors.Join(volume.ErrPending, volume.ErrBusy), codes.Aborted},
		"invalid before all":     {errors.Join(volume.ErrUnavailable, volume.ErrInvalid), codes.InvalidArgument},
	} {
		if got := Code(c.err); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
