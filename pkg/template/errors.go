package template

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Codes of an Error. A template may use further ones of its own: lower-case
// words joined by underscores.
const (
	CodeValidation = "validation" // the parameters or the configuration cannot work
	CodeForbidden  = "forbidden"  // the executor or the destination does not permit it
	CodeConnection = "connection" // the destination cannot be reached or refuses the login
	CodeTimeout    = "timeout"    // a time limit ran out
	CodeCancelled  = "cancelled"  // the run was cancelled
	CodeLimit      = "limit"      // the run would exceed a limit set for it
	CodeDatabase   = "database"   // the database answered with an error
	CodeInternal   = "internal"   // a fault of the template itself
)

// Error is the failure of one attempt.
type Error struct {
	Code      string // a word for programs, such as CodeConnection
	Message   string // a sentence for people; it never carries a secret
	Retryable bool   // whether another attempt may succeed with nothing changed
	cause     error
}

// Error returns the message alone: the code travels beside it.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the error given to Fail or Retryable by %w, or nil.
func (e *Error) Unwrap() error { return e.cause }

// Fail makes an Error that another attempt would meet again. The format is that
// of fmt.Errorf, %w included.
func Fail(code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), cause: errors.Unwrap(err)}
}

// Retryable makes an Error that may be gone at the next attempt. The format is
// that of fmt.Errorf, %w included.
func Retryable(code, format string, args ...any) *Error {
	e := Fail(code, format, args...)
	e.Retryable = true
	return e
}

// AsError tells what any error returned by a template means: an *Error as it
// is, a *ParamsError as "validation", the end of a context as "cancelled" or
// "timeout", anything else as "internal". It returns nil for nil.
func AsError(err error) *Error {
	var known *Error
	var params *ParamsError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return known
	case errors.As(err, &params):
		return Fail(CodeValidation, "%w", err)
	case errors.Is(err, context.Canceled):
		return plainly(Fail(CodeCancelled, "the run was cancelled: %w", err), context.Canceled)
	case errors.Is(err, context.DeadlineExceeded):
		return plainly(Retryable(CodeTimeout, "the run's time is over: %w", err), context.DeadlineExceeded)
	default:
		return Fail(CodeInternal, "%w", err)
	}
}

// plainly leaves out of the message what the context package says, for e says it
// already.
func plainly(e *Error, cause error) *Error {
	e.Message = strings.TrimSuffix(e.Message, ": "+cause.Error())
	return e
}

// FieldError says what is wrong with one parameter and how to put it right.
type FieldError struct {
	Field   string // dotted path, such as "condition.lastActive.$lt"; "" means the parameters as a whole
	Message string // continues the sentence that begins with the field, such as `must be one of "users", "logs"`
}

// ParamsError lists what is wrong with the parameters of a job.
type ParamsError struct {
	Fields []FieldError // at least one
}

// Error joins the fields into one line.
func (e *ParamsError) Error() string {
	parts := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		field := f.Field
		if field == "" {
			field = "parameters"
		}
		parts[i] = field + ": " + f.Message
	}
	return strings.Join(parts, "; ")
}

// BadParam makes a ParamsError of one field.
func BadParam(field, format string, args ...any) *ParamsError {
	return &ParamsError{Fields: []FieldError{{Field: field, Message: fmt.Sprintf(format, args...)}}}
}
