package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"espalier/internal/audit"
	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/fleet"
	"espalier/internal/spool"
	"espalier/merkle"
	"espalier/store"
)

// ErrNoObject is returned where a set has no object under the key asked for.
var ErrNoObject = errors.New("no such object")

// ErrNoHost is returned about a host that the server doesn't know.
var ErrNoHost = errors.New("no such host")

// ErrUnreachable is what errors match that say that no server answered.
var ErrUnreachable = errors.New("the server can't be reached")

// ErrDenied is what errors match that say that the server knows who calls, or
// doesn't, and refuses it.
var ErrDenied = errors.New("the server refuses this")

// ErrOverloaded is what errors match of a server that has no room now: see
// RetryAfter.
var ErrOverloaded = errors.New("the server is overloaded")

// OverloadedError says when to try again. It matches ErrOverloaded.
type OverloadedError struct {
	// Reason says what there is too much of.
	Reason string
	// Retry is how long to wait, which the server drew for this caller.
	Retry time.Duration
}

func (e *OverloadedError) Error() string {
	return fmt.Sprintf("%v: %s; try again in %v", ErrOverloaded, e.Reason, e.Retry.Round(time.Millisecond))
}

// Is reports whether target is ErrOverloaded.
func (e *OverloadedError) Is(target error) bool { return target == ErrOverloaded }

// RetryAfter returns when to try again after err; false: it doesn't say.
func RetryAfter(err error) (time.Duration, bool) {
	var e *OverloadedError
	if errors.As(err, &e) {
		return e.Retry, true
	}
	return 0, false
}

// ErrOtherToken is what errors match that say that a token is good, but for
// another than its bearer wants to be.
var ErrOtherToken = errors.New("the token is for somebody else")

// ErrUnsupported is what errors match that say what the server is not made, or
// not set up, to do.
var ErrUnsupported = errors.New("this server does not do that")

// ErrNoServer and ErrPlain are what errors match, besides ErrUnreachable, that say
// what is there in the place of a server: the one something that doesn't speak
// as we do, which may want TLS, the other something that doesn't speak TLS.
var (
	ErrNoServer = errors.New("something accepts connections there, but does not answer as a server")
	ErrPlain    = errors.New("something accepts connections there, but does not speak TLS")
)

// domain marks the details that errors travel with as ours.
const domain = "espalier"

// table pairs what callers branch on with what travels. A status carries the
// reason as a google.rpc.ErrorInfo, so that two errors can share a code.
var table = []struct {
	err    error
	code   codes.Code
	reason string
}{
	{desired.ErrInvalid, codes.InvalidArgument, "INVALID"},
	{delta.ErrProtocol, codes.InvalidArgument, "PROTOCOL"},
	{delta.ErrTooDifferent, codes.OutOfRange, "TOO_DIFFERENT"},
	{merkle.ErrOrder, codes.InvalidArgument, "ORDER"},
	{merkle.ErrTooWide, codes.OutOfRange, "TOO_WIDE"},
	{ErrNoObject, codes.NotFound, "NO_OBJECT"},
	{ErrNoHost, codes.NotFound, "NO_HOST"},
	{fleet.ErrNotGuarded, codes.FailedPrecondition, "NOT_GUARDED"},
	{store.ErrNotFound, codes.NotFound, "NO_SET"},
	{store.ErrNoToken, codes.Unauthenticated, "NO_TOKEN"},
	{ErrOtherToken, codes.FailedPrecondition, "OTHER_TOKEN"},
	{ErrUnsupported, codes.Unimplemented, "UNSUPPORTED"},
	{audit.ErrBroken, codes.DataLoss, "AUDIT_BROKEN"},
	{store.ErrForked, codes.FailedPrecondition, "FORKED"},
	{store.ErrConflict, codes.FailedPrecondition, "CONFLICT"},
	{store.ErrTooManyDeletes, codes.FailedPrecondition, "TOO_MANY_DELETES"},
	{store.ErrCycle, codes.FailedPrecondition, "CYCLE"},
	{store.ErrRequestReused, codes.AlreadyExists, "REQUEST_REUSED"},
	{store.ErrQuarantined, codes.DataLoss, "QUARANTINED"},
	{store.ErrCorrupt, codes.DataLoss, "CORRUPT"},
	{store.ErrFormat, codes.DataLoss, "FORMAT"},
	{store.ErrDiskFull, codes.ResourceExhausted, "DISK_FULL"},
	{spool.ErrDiskFull, codes.ResourceExhausted, "SPOOL_FULL"},
	{context.Canceled, codes.Canceled, "CANCELED"},
	{context.DeadlineExceeded, codes.DeadlineExceeded, "DEADLINE"},
}

// ToStatus returns err as an error for a handler to return. What is not in the
// table is internal.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	text := validText(err.Error())
	if retry, ok := RetryAfter(err); ok {
		s := status.New(codes.ResourceExhausted, text)
		if detailed, e := s.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(retry)}); e == nil {
			s = detailed
		}
		return s.Err()
	}
	for _, row := range table {
		if errors.Is(err, row.err) {
			s := status.New(row.code, text)
			if detailed, e := s.WithDetails(&errdetails.ErrorInfo{Reason: row.reason, Domain: domain}); e == nil {
				s = detailed
			}
			return s.Err()
		}
	}
	return status.Error(codes.Internal, text)
}

// validText returns text as it can travel in a message.
func validText(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

// statusError is an error of a call, with the words of the server.
type statusError struct {
	message string
	matches error
}

func (e *statusError) Error() string { return e.message }
func (e *statusError) Unwrap() error { return e.matches }

// FromStatus returns the error that a call returned as one that matches what the
// server's did. A server that does not answer matches ErrUnreachable.
func FromStatus(err error) error {
	s, ok := status.FromError(err)
	if err == nil || !ok || errors.Is(err, io.EOF) {
		return err
	}
	message := contextWords.Replace(s.Message())
	for _, detail := range s.Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok && s.Code() == codes.ResourceExhausted {
			reason, _, _ := strings.Cut(strings.TrimPrefix(message, ErrOverloaded.Error()+": "), ";")
			return &OverloadedError{Reason: reason, Retry: max(retry.GetRetryDelay().AsDuration(), 0)}
		}
	}
	if known := sentinel(s); known != nil {
		if errors.Is(known, store.ErrDiskFull) || errors.Is(known, spool.ErrDiskFull) {
			message = "at the server: " + message // or it would seem to be the disk of who reads it
		}
		return &statusError{message: message, matches: known}
	}
	switch s.Code() {
	case codes.Unavailable:
		return fmt.Errorf("%w: %w", ErrUnreachable, connectionError(s.Message()))
	case codes.Unauthenticated, codes.PermissionDenied:
		return fmt.Errorf("%w: %s", ErrDenied, s.Message())
	case codes.Unimplemented: // by gRPC, who knows no such call
		return &statusError{message: fmt.Sprintf("%v: it is of another version (%s)", ErrUnsupported, message), matches: ErrUnsupported}
	case codes.Canceled:
		return &statusError{message: message, matches: context.Canceled}
	case codes.DeadlineExceeded:
		return &statusError{message: message, matches: context.DeadlineExceeded}
	default:
		return &statusError{message: fmt.Sprintf("%s (%s)", message, s.Code()), matches: err}
	}
}

// sentinel returns what the server's error matched; nil: the status does not
// say.
func sentinel(s *status.Status) error {
	for _, detail := range s.Details() {
		info, ok := detail.(*errdetails.ErrorInfo)
		if !ok || info.GetDomain() != domain {
			continue
		}
		for _, row := range table {
			if row.reason == info.GetReason() {
				return row.err
			}
		}
	}
	return nil
}

// contextWords puts what package context says into words for people.
var contextWords = strings.NewReplacer(
	context.Canceled.Error(), "the call was given up", context.DeadlineExceeded.Error(), "it took too long")

// connectionError puts what gRPC says of a connection into words for people.
func connectionError(message string) error {
	if _, quoted, ok := strings.Cut(message, "connection error: desc = "); ok {
		if text, err := strconv.Unquote(quoted); err == nil {
			message = text
		}
	}
	message = strings.TrimPrefix(message, "transport: Error while dialing: ")
	message = strings.TrimPrefix(message, "transport: authentication handshake failed: ")
	_, alert, alerted := strings.Cut(message, "remote error: tls: ")
	switch {
	case alerted:
		return fmt.Errorf("it ends the handshake: %s", alert)
	case strings.HasPrefix(message, "error reading server preface"):
		return ErrNoServer
	case message == "tls: first record does not look like a TLS handshake":
		return ErrPlain
	}
	return errors.New(contextWords.Replace(message))
}
