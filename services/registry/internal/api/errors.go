package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"buf.build/go/protovalidate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/almanac-scheduler/almanac/services/registry/internal/access"
	"github.com/almanac-scheduler/almanac/services/registry/internal/dispatch"
	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
)

// domain is the domain of every ErrorInfo.
const domain = "almanac"

// retrySoon is how long a client is asked to wait when nothing better is known.
const retrySoon = time.Second

// kind is what an error looks like from outside.
type kind struct {
	code   codes.Code
	http   int
	reason string
}

// The kinds of errors. Every answer that is not a success is one of them.
var (
	kindInvalid     = kind{codes.InvalidArgument, http.StatusBadRequest, "INVALID_REQUEST"}
	kindMalformed   = kind{codes.InvalidArgument, http.StatusBadRequest, "MALFORMED_REQUEST"}
	kindTooLarge    = kind{codes.InvalidArgument, http.StatusRequestEntityTooLarge, "REQUEST_TOO_LARGE"}
	kindContentType = kind{codes.InvalidArgument, http.StatusUnsupportedMediaType, "UNSUPPORTED_CONTENT_TYPE"}
	kindNoRoute     = kind{codes.NotFound, http.StatusNotFound, "NO_SUCH_ROUTE"}
	kindNoMethod    = kind{codes.Unimplemented, http.StatusMethodNotAllowed, "METHOD_NOT_ALLOWED"}
	kindNoToken     = kind{codes.Unauthenticated, http.StatusUnauthorized, "TOKEN_MISSING"}
	kindBadToken    = kind{codes.Unauthenticated, http.StatusUnauthorized, "TOKEN_INVALID"}
	kindBadLogin    = kind{codes.Unauthenticated, http.StatusUnauthorized, "LOGIN_FAILED"}
	kindPassword    = kind{codes.InvalidArgument, http.StatusBadRequest, "WRONG_PASSWORD"}
	kindDenied      = kind{codes.PermissionDenied, http.StatusForbidden, "FORBIDDEN"}
	kindCrossSite   = kind{codes.PermissionDenied, http.StatusForbidden, "CROSS_SITE"}
	kindNotFound    = kind{codes.NotFound, http.StatusNotFound, "NOT_FOUND"}
	kindNameTaken   = kind{codes.AlreadyExists, http.StatusConflict, "NAME_TAKEN"}
	kindUserTaken   = kind{codes.AlreadyExists, http.StatusConflict, "USER_EXISTS"}
	kindKeyReused   = kind{codes.AlreadyExists, http.StatusConflict, "IDEMPOTENCY_KEY_REUSED"}
	kindVersion     = kind{codes.FailedPrecondition, http.StatusPreconditionFailed, "VERSION_MISMATCH"}
	kindOverlap     = kind{codes.FailedPrecondition, http.StatusConflict, "EXECUTION_IN_PROGRESS"}
	kindEnded       = kind{codes.FailedPrecondition, http.StatusConflict, "EXECUTION_ENDED"}
	kindOwnAccount  = kind{codes.FailedPrecondition, http.StatusConflict, "OWN_ACCOUNT"}
	kindLastAdmin   = kind{codes.FailedPrecondition, http.StatusConflict, "LAST_ADMIN"}
	kindConflict    = kind{codes.Aborted, http.StatusConflict, "CHANGED_CONCURRENTLY"}
	kindSession     = kind{codes.FailedPrecondition, http.StatusConflict, "SESSION_ENDED"}
	kindLimit       = kind{codes.ResourceExhausted, http.StatusTooManyRequests, "LIMIT_REACHED"}
	kindSlowDown    = kind{codes.ResourceExhausted, http.StatusTooManyRequests, "TOO_MANY_ATTEMPTS"}
	kindUnavailable = kind{codes.Unavailable, http.StatusServiceUnavailable, "UNAVAILABLE"}
	kindCanceled    = kind{codes.Canceled, 499, "CANCELED"} // the caller left; nobody reads it
	kindDeadline    = kind{codes.DeadlineExceeded, http.StatusGatewayTimeout, "DEADLINE_EXCEEDED"}
	kindInternal    = kind{codes.Internal, http.StatusInternalServerError, "INTERNAL"}
)

// sentinels is the table from the errors of the other rooms to kinds. A job that
// does not exist is not the registry's fault, an error that is not here is.
var sentinels = []struct {
	err  error
	kind kind
}{
	{access.ErrNoToken, kindNoToken},
	{access.ErrBadToken, kindBadToken},
	{access.ErrBadLogin, kindBadLogin},
	{access.ErrWrongPassword, kindPassword},
	{access.ErrOwnAccount, kindOwnAccount},
	{job.ErrNotFound, kindNotFound},
	{job.ErrNameTaken, kindNameTaken},
	{job.ErrUserExists, kindUserTaken},
	{job.ErrLastAdmin, kindLastAdmin},
	{job.ErrKeyReused, kindKeyReused},
	{job.ErrVersion, kindVersion},
	{job.ErrConflict, kindConflict},
	{job.ErrEnded, kindEnded},
	{dispatch.ErrSessionEnded, kindSession},
	{dispatch.ErrStopped, kindUnavailable},
	// Before the store's word: a store whose context ended is not at fault.
	{context.Canceled, kindCanceled},
	{context.DeadlineExceeded, kindDeadline},
	{job.ErrUnavailable, kindUnavailable},
}

// httpStatus is the status by the reason in an answer's ErrorInfo.
var httpStatus = func() map[string]int {
	byReason := map[string]int{}
	for _, k := range []kind{
		kindInvalid, kindMalformed, kindTooLarge, kindContentType, kindNoRoute, kindNoMethod, kindNoToken, kindBadToken, kindBadLogin,
		kindPassword, kindDenied, kindCrossSite, kindNotFound, kindNameTaken, kindUserTaken, kindKeyReused, kindVersion, kindOverlap, kindEnded, kindOwnAccount, kindLastAdmin,
		kindConflict, kindSession, kindLimit, kindSlowDown, kindUnavailable, kindCanceled, kindDeadline, kindInternal,
	} {
		byReason[k.reason] = k.http
	}
	return byReason
}()

// problem is an error with everything that its answer says.
type problem struct {
	kind
	message string
	info    map[string]string // metadata of the ErrorInfo
	fields  violations
	details []protoadapt.MessageV1
}

func (p *problem) Error() string { return p.message }

// GRPCStatus makes the answer; the grpc package calls it.
func (p *problem) GRPCStatus() *status.Status {
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: p.reason, Domain: domain, Metadata: p.info}}
	if len(p.fields) > 0 {
		bad := &errdetails.BadRequest{}
		for _, f := range p.fields {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: shorten(f.field), Description: shorten(f.message)})
		}
		details = append(details, bad)
	}
	st := status.New(p.code, shorten(p.message))
	if full, err := st.WithDetails(append(details, p.details...)...); err == nil {
		return full
	}
	return st
}

func fail(k kind, format string, args ...any) *problem {
	return &problem{kind: k, message: fmt.Sprintf(format, args...)}
}

// violation is a field that cannot be used; the message is a clause that follows
// the field's name.
type violation struct{ field, message string }

type violations []violation

func (v *violations) add(field, format string, args ...any) {
	*v = append(*v, violation{field, fmt.Sprintf(format, args...)})
}

// err returns nil when there are none.
func (v violations) err() error {
	if len(v) == 0 {
		return nil
	}
	return invalid(kindInvalid, v)
}

const mostViolations = 25

func invalid(k kind, v violations) *problem {
	v = v[:min(len(v), mostViolations)]
	parts := make([]string, len(v))
	for i, f := range v {
		parts[i] = strings.TrimSpace(f.field + " " + f.message)
	}
	return &problem{kind: k, message: strings.Join(parts, "; "), fields: v}
}

const longest = 1000 // bytes of one text in an answer

// shorten keeps answers within what a header may hold: gRPC sends errors there.
func shorten(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= longest {
		return s
	}
	cut := longest
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "..."
}

// explain turns any error into a problem. A message from inside the house goes
// into the log and not into the answer. now serves to tell how long to wait.
func explain(err error, now time.Time) *problem {
	var (
		known  *problem
		denied *access.DeniedError
		slow   *access.SlowDownError
		slot   *job.SlotHeldError
		limit  *job.LimitError
		field  *access.FieldError
		broken *protovalidate.ValidationError
	)
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &denied):
		return fail(kindDenied, "%s", denied.Reason)
	case errors.As(err, &slow):
		return retry(fail(kindSlowDown, "%s", slow.Error()), slow.Wait)
	case errors.As(err, &slot):
		p := fail(kindOverlap, "the job forbids overlapping runs and execution %s is not over: wait for its end or cancel it", slot.By)
		p.info = map[string]string{"execution_id": slot.By}
		return p
	case errors.As(err, &limit):
		return overLimit(limit, now)
	case errors.As(err, &field):
		return invalid(kindInvalid, violations{{field.Field, field.Message}})
	case errors.As(err, &broken):
		return invalid(kindInvalid, fromRules(broken))
	}
	for _, s := range sentinels {
		if !errors.Is(err, s.err) {
			continue
		}
		p := fail(s.kind, "%s", s.err)
		switch s.kind {
		case kindUnavailable:
			p.message = "the registry cannot reach its store or is stopping: nothing is known to have happened; try again"
			return retry(p, retrySoon)
		case kindConflict:
			return retry(p, retrySoon)
		case kindNameTaken:
			p.fields = violations{{"name", "is taken by another job: choose a different one"}}
		case kindUserTaken:
			p.fields = violations{{"username", "is taken by another user: choose a different one"}}
		case kindPassword:
			p.fields = violations{{"current_password", "is wrong: type the password that you log in with"}}
		case kindLastAdmin:
			p.message += ": make somebody else one first"
		case kindVersion:
			p.message += ": read it again and repeat your change on the version you see"
		}
		return p
	}
	if st, ok := status.FromError(err); ok && st.Code() != codes.Unknown {
		return &problem{kind: kind{st.Code(), 0, "GRPC"}, message: st.Message()}
	}
	return fail(kindInternal, "an error inside the registry; its log says more")
}

func retry(p *problem, after time.Duration) *problem {
	p.details = append(p.details, &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	return p
}

func overLimit(limit *job.LimitError, now time.Time) *problem {
	p := fail(kindLimit, "the limit of %d %s is reached", limit.Limit, limit.What)
	p.info = map[string]string{"limit": fmt.Sprint(limit.Limit), "of": limit.What}
	p.details = append(p.details, &errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{{Subject: limit.What, Description: p.message}}})
	wait := time.Minute // when a job will be deleted is anybody's guess
	if !limit.Until.IsZero() {
		wait = max(limit.Until.Sub(now), time.Second)
	}
	return retry(p, wait)
}

// fromRules names the fields that broke the rules written in the protocol.
func fromRules(broken *protovalidate.ValidationError) violations {
	var out violations
	for _, v := range broken.Violations {
		field := strings.TrimPrefix(protovalidate.FieldPathString(v.Proto.GetField()), "job.")
		message := v.Proto.GetMessage()
		switch {
		case field == "job":
			field, message = "", "the body must be a JSON object that describes the job"
		case message == "value is required" || message == "":
			message = "is required"
		}
		if words, ok := strings.CutPrefix(message, "must be in list ["); ok { // an empty word stands for none given
			message = "must be one of " + strings.TrimPrefix(strings.TrimSuffix(words, "]"), ", ")
		}
		out.add(field, "%s", strings.TrimPrefix(strings.TrimPrefix(message, "value "), "map "))
	}
	return out
}
