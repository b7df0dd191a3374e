package bearmq

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bearmq/bearmq/internal/store"
)

// Errors that callers branch on, with [errors.Is]. The library wraps them
// with what it was doing.
var (
	// ErrNotMigrated means that the schema is missing or older than this
	// library: call Migrate.
	ErrNotMigrated = store.ErrNotMigrated

	// ErrUnknownOutcome means that the connection was lost after a commit was
	// sent and before its answer came: the jobs may or may not be enqueued.
	ErrUnknownOutcome = store.ErrUnknownOutcome

	// ErrLeaseLost is the cause (see [context.Cause]) that ends a handler's
	// context once its job may be given to another worker. What the handler
	// still returns is refused, unless it comes before that has happened.
	ErrLeaseLost = store.ErrLeaseLost

	// ErrShutdown is the cause that ends a handler's context when its worker
	// has waited for it long enough while stopping. Such an attempt is not
	// counted.
	ErrShutdown = errors.New("bearmq: the worker is shutting down")

	// ErrCancelled is the cause that ends a handler's context when its job is
	// cancelled ([Context.Cancel]).
	ErrCancelled = errors.New("bearmq: the job was cancelled")

	// ErrTimeout is the cause that ends a handler's context when the attempt
	// has used up its timeout. It is a [context.DeadlineExceeded] too.
	ErrTimeout = fmt.Errorf("bearmq: the attempt took longer than its timeout: %w", context.DeadlineExceeded)

	// ErrScheduleNotFound means that no schedule of this name is stored: no
	// orchestrator has deployed it yet, or it was removed.
	ErrScheduleNotFound = errors.New("bearmq: schedule not found")

	// ErrAlreadyRegistered means that a definition has a handler or a
	// schedule already, or that its name belongs to another definition.
	ErrAlreadyRegistered = errors.New("bearmq: already registered")

	// ErrPayloadTooLarge means that a payload, or a result, is larger as JSON
	// than [Options].MaxPayload.
	ErrPayloadTooLarge = errors.New("bearmq: payload too large")

	// ErrNotFinished means that a job has no result yet.
	ErrNotFinished = errors.New("bearmq: the job is not finished")

	// ErrRestored means that the database was restored from another cluster,
	// whose transaction ids mean nothing here: nothing runs, so that no job is
	// lost or run twice. [Context.Repair] takes it over.
	ErrRestored = store.ErrRestored

	// ErrPooler means that a pooler between this process and PostgreSQL takes
	// away the statements that the pool's connections have prepared, as
	// pgbouncer does in transaction mode: let pgx use none, by
	// default_query_exec_mode=cache_describe in the connection string.
	ErrPooler = store.ErrPooler

	// ErrJobNotFound means that there is no job with this id: there never
	// was, or its retention has ended.
	ErrJobNotFound = store.ErrJobNotFound
)

// A FieldError refuses a value before anything reaches the database.
type FieldError struct {
	// Field names the field or option: "Channel", "Delay", "SessionTTL".
	Field string
	// Value is the refused value, or nil where it would show something of a
	// payload: a group is often made from one.
	Value any
	// Reason says what the value must be.
	Reason string

	where string // the definition or the place in a batch, for the message
	cause error
}

// Error names the field, the value and what it must be, never a payload.
func (e *FieldError) Error() string {
	text := "bearmq: "
	if e.where != "" {
		text += e.where + ": "
	}
	text += e.Field
	switch v := e.Value.(type) {
	case nil:
	case string:
		text += fmt.Sprintf(" %q", sanitize(v, 64))
	default:
		text += fmt.Sprintf(" %v", v)
	}
	return text + " " + e.Reason
}

// Unwrap gives the cause, where there is one: [ErrPayloadTooLarge], or the
// error of encoding/json, whose text may quote the payload.
func (e *FieldError) Unwrap() error { return e.cause }

// at says in the message of a FieldError where the value came from.
func at(where string, err error) error {
	field, ok := err.(*FieldError)
	if !ok {
		return fmt.Errorf("bearmq: %s: %w", where, err)
	}
	located := *field
	if located.where != "" {
		where += ", " + located.where
	}
	located.where = where
	return &located
}

// A PanicError is the error of an attempt that panicked, or of a function of a
// [Spec] that did.
type PanicError struct {
	// Value is what panic was called with.
	Value any
	// Stack is the stack of the goroutine that panicked, as of [runtime/debug.Stack].
	Stack []byte
}

// Error gives the value, without the stack.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Unwrap gives the value if it is an error, else nil.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// A JobFailedError is what asking for the result of a job gives when the job
// ended without one.
type JobFailedError struct {
	ID JobID
	// State is [StateFailed] or [StateCancelled].
	State State
	// Message is the text of the last attempt's error, at most 8 KiB.
	Message string
}

func (e *JobFailedError) Error() string {
	text := fmt.Sprintf("bearmq: job %v %s", e.ID, e.State)
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// Permanent marks a handler's error as one that another attempt will not
// mend: the job fails now, whatever attempts it has left. Permanent(nil) is
// nil, so that a handler can return bearmq.Permanent(call()).
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &directive{verdict{kind: verdictPermanent, err: err}}
}

// RetryAfter marks a handler's error as a failed attempt whose retry, if any
// attempt is left, comes after d instead of the definition's [Backoff]. d is
// brought into 0 to ten years. RetryAfter(d, nil) is nil.
func RetryAfter(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &directive{verdict{kind: verdictRetry, delay: clamp(d), hasDelay: true, err: err}}
}

// Snooze is returned by a handler that wants to be called again after d: it
// is not a failure and costs no attempt. d is brought into 0 to ten years.
func Snooze(d time.Duration) error {
	d = clamp(d)
	return &directive{verdict{kind: verdictSnooze, delay: d, hasDelay: true, err: fmt.Errorf("bearmq: snooze for %v", d)}}
}

// A directive is an error that carries the verdict of a handler through any
// wrapping.
type directive struct{ verdict }

func (d *directive) Error() string { return d.err.Error() }
func (d *directive) Unwrap() error { return d.err }

type verdictKind int

const (
	verdictRetry     verdictKind = iota // a failed attempt
	verdictPermanent                    // a failed attempt, and the last
	verdictSnooze                       // no attempt at all
)

// A verdict is what a handler's error asks for.
type verdict struct {
	kind     verdictKind
	delay    time.Duration
	hasDelay bool  // else the backoff decides
	err      error // the handler's error, with everything it wraps
}

// classify reads the verdict of a handler's error, which is not nil. Where
// directives are nested or joined, the first in the order of errors.As counts.
func classify(err error) verdict {
	v := verdict{kind: verdictRetry}
	var d *directive
	if errors.As(err, &d) {
		v = d.verdict
	}
	v.err = err
	return v
}
