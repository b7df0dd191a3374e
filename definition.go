package bearmq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"
	"strings"
	"time"
)

// A Spec declares a kind of job. Only Name is required. Invalid values are
// reported by [Context.Register] and by every enqueue, as a [*FieldError].
type Spec[T any] struct {
	// Name identifies the definition in the database and to other processes:
	// 1 to 128 bytes without control characters.
	Name string
	// Channel is where its jobs queue, "default" if empty: at most 128 bytes
	// without control characters.
	Channel string
	// Priority is which of the jobs of a channel come first, 0 if zero: those
	// with the highest one, -100 to 100. While there are any, no others of the
	// channel start. Channels of one worker take turns where their priorities
	// are equal; else the highest comes first there too.
	Priority int
	// Attempts is how often a job may be tried, 1 if zero: at most 32767.
	Attempts int
	// Backoff is the wait after a failed attempt, five minutes if zero.
	Backoff Backoff
	// Timeout is how long one attempt may run before its context ends with
	// the cause [ErrTimeout]. Zero is no limit. What the handler then returns
	// decides: nil completes the job, an error is a failed attempt; one that
	// takes no notice keeps its slot, with a [JobStuck] event. Where Group is
	// set it may not exceed [Options].GroupUnlock. At most ten years.
	Timeout time.Duration
	// Delay is how long a job waits before its first attempt, none if zero:
	// at most ten years.
	Delay time.Duration
	// Group gives the group of a job: no two jobs of a group run at the same
	// time, whatever their definitions and channels. "" is no group; at most
	// 512 bytes. Group must not change anything and may be called on several
	// goroutines at once.
	Group func(payload T) string
	// GroupOrder says what a failed job means for those behind it in its
	// group, [Release] if zero.
	GroupOrder GroupOrder
	// Middleware wraps the handler, the first outermost, inside that of the
	// [Options].
	Middleware []Middleware
}

// GroupOrder says whether a job of a group that waits to be retried lets
// those behind it pass.
type GroupOrder int

const (
	// Release gives the group to the next job while a failed one waits.
	Release GroupOrder = iota
	// Strict keeps the group for a job that has started until it is
	// finished, also while it waits for a retry or snoozes.
	Strict
)

// String is "release" or "strict".
func (o GroupOrder) String() string {
	switch o {
	case Release:
		return "release"
	case Strict:
		return "strict"
	default:
		return fmt.Sprintf("GroupOrder(%d)", int(o))
	}
}

// A Handler runs one attempt of a job: nil is success, an error a failed
// attempt (but see [Permanent], [RetryAfter] and [Snooze]).
type Handler func(ctx context.Context, job *RawJob) error

// Middleware makes a handler that does something around the next one. It is
// called once, when the handler is registered.
type Middleware = func(next Handler) Handler

// A JobDefinition is a kind of job with payload T, made by [Define]: usually a
// package-level variable, shared by the code that enqueues such jobs and the
// code that handles them. It holds no connection, and nothing runs.
type JobDefinition[T any] struct {
	def   *definition
	group func(T) string
}

// Define makes a definition. The payload is stored as JSON, so T is anything
// that [encoding/json] encodes and decodes; [None] if there is none.
func Define[T any](spec Spec[T]) *JobDefinition[T] {
	d := &JobDefinition[T]{group: spec.Group, def: &definition{
		name:       spec.Name,
		channel:    spec.Channel,
		priority:   spec.Priority,
		attempts:   spec.Attempts,
		backoff:    spec.Backoff,
		timeout:    spec.Timeout,
		delay:      spec.Delay,
		groupOrder: spec.GroupOrder,
		middleware: spec.Middleware,
		payload:    reflect.TypeFor[T](),
	}}
	d.def.fillIn()
	if spec.Group != nil {
		d.def.groupOf = func(raw []byte) (string, error) {
			payload, err := decode[T](raw)
			if err != nil {
				return "", &FieldError{Field: "Payload", Reason: "must decode into the definition's type", cause: err}
			}
			return d.groupOf(payload)
		}
	}
	return d
}

// Name is the definition's name.
func (d *JobDefinition[T]) Name() string { return d.def.name }

// Handle says how jobs of the definition are run, to [Context.Register]. What
// fn needs, it has by closure. It runs on many goroutines at once. A payload
// that does not decode into T is a failed attempt, without a call.
func (d *JobDefinition[T]) Handle(fn func(ctx context.Context, job *Job[T]) error) Registration {
	if fn == nil {
		return noHandler(d.def)
	}
	return Registration{def: d.def, bind: func(*Context) Handler {
		return func(ctx context.Context, raw *RawJob) error {
			payload, err := decode[T](raw.RawPayload)
			if err != nil {
				return err
			}
			return fn(ctx, &Job[T]{RawJob: raw, Payload: payload})
		}
	}}
}

// groupOf calls the Spec's Group, whose panic must not leave a batch or a
// transaction of the caller half done.
func (d *JobDefinition[T]) groupOf(payload T) (group string, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &FieldError{Field: "Group", Reason: "must not panic", cause: &PanicError{Value: v, Stack: debug.Stack()}}
		}
	}()
	group = d.group(payload)
	return group, checkGroup(group)
}

// A ResultDefinition is a [JobDefinition] whose handler returns a value, made
// by [DefineResult].
type ResultDefinition[In, Out any] struct {
	*JobDefinition[In]
}

// DefineResult makes a definition whose jobs have results. Out is stored as
// JSON, under the limits of payloads.
func DefineResult[In, Out any](spec Spec[In]) *ResultDefinition[In, Out] {
	return &ResultDefinition[In, Out]{Define(spec)}
}

// Handle is [JobDefinition.Handle]. With a nil error the value becomes the
// job's result; one that cannot be stored is a failed attempt.
func (d *ResultDefinition[In, Out]) Handle(fn func(ctx context.Context, job *Job[In]) (Out, error)) Registration {
	if fn == nil {
		return noHandler(d.def)
	}
	return Registration{def: d.def, bind: func(mq *Context) Handler {
		return func(ctx context.Context, raw *RawJob) error {
			payload, err := decode[In](raw.RawPayload)
			if err != nil {
				return err
			}
			out, err := fn(ctx, &Job[In]{RawJob: raw, Payload: payload})
			if err != nil {
				return err
			}
			raw.result, err = encode("Result", out)
			if err == nil {
				err = checkSize("Result", raw.result, mq.opts.MaxPayload)
			}
			return err
		}
	}}
}

// Result is the result of a job that has succeeded. Otherwise the error is
// [ErrNotFinished], [ErrJobNotFound] or a [*JobFailedError].
func (d *ResultDefinition[In, Out]) Result(ctx context.Context, mq *Context, id JobID) (Out, error) {
	raw, err := mq.result(ctx, id)
	return decodeResult[Out](id, raw, err)
}

func noHandler(def *definition) Registration {
	return Registration{def: def, err: &FieldError{Field: "Handle", Reason: "must have a function"}}
}

// decode makes a T of a payload. The text of its errors quotes nothing of the
// payload, as those of encoding/json do.
func decode[T any](raw []byte) (T, error) {
	var payload T
	if err := json.Unmarshal(raw, &payload); err != nil {
		return payload, &decodeError{into: reflect.TypeFor[T](), cause: err}
	}
	return payload, nil
}

type decodeError struct {
	into  reflect.Type
	cause error
}

func (e *decodeError) Error() string {
	text := fmt.Sprintf("bearmq: the payload does not decode into %v", e.into)
	var mismatch *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(e.cause, &mismatch):
		kind, _, _ := strings.Cut(mismatch.Value, " ") // "number 17" quotes the payload
		text += fmt.Sprintf(": %s for %v", kind, mismatch.Type)
		if mismatch.Field != "" {
			text += fmt.Sprintf(" in field %q", mismatch.Field)
		}
	case errors.As(e.cause, &syntax):
		text += fmt.Sprintf(": not JSON at byte %d", syntax.Offset)
	}
	return text
}

func (e *decodeError) Unwrap() error { return e.cause }

// A definition is a JobDefinition without its type, with defaults filled in.
type definition struct {
	name, channel string
	priority      int
	attempts      int
	backoff       Backoff
	timeout       time.Duration
	delay         time.Duration
	groupOrder    GroupOrder
	middleware    []Middleware
	payload       reflect.Type
	groupOf       func(raw []byte) (string, error) // nil: no Group
	err           error                            // of the Spec
}

const (
	defaultChannel  = "default"
	defaultAttempts = 1
)

// fillIn sets the defaults and checks the rest.
func (d *definition) fillIn() {
	if d.channel == "" {
		d.channel = defaultChannel
	}
	if d.attempts == 0 {
		d.attempts = defaultAttempts
	}
	for _, err := range []error{
		checkName("Name", d.name),
		checkName("Channel", d.channel),
		checkPriority(d.priority),
		checkAttempts(d.attempts),
		d.backoff.check(),
		checkDuration("Timeout", d.timeout),
		checkDuration("Delay", d.delay),
		checkGroupOrder(d.groupOrder),
		checkMiddleware(d.middleware),
	} {
		if err != nil {
			d.err = d.in(err)
			return
		}
	}
}

// in names the definition in an error.
func (d *definition) in(err error) error {
	return at(fmt.Sprintf("definition %q", sanitize(d.name, maxName)), err)
}

// check says whether the definition can be used with this Context.
func (d *definition) check(mq *Context) error {
	if d.err != nil {
		return d.err
	}
	if d.groupOf != nil {
		if err := mq.checkTimeout(d.timeout); err != nil {
			return d.in(err)
		}
	}
	return nil
}

// defaults is what other processes and SQL know of the definition. A
// BackoffFunc stays in this process.
func (d *definition) defaults() ([]byte, error) {
	stored := struct {
		Priority   int            `json:"priority,omitempty"`
		Attempts   int            `json:"attempts"`
		Backoff    *storedBackoff `json:"backoff,omitempty"`
		TimeoutMS  int64          `json:"timeout_ms"`
		DelayMS    int64          `json:"delay_ms"`
		GroupOrder string         `json:"group_order"`
	}{
		Priority:   d.priority,
		Attempts:   d.attempts,
		Backoff:    d.backoff.stored(),
		TimeoutMS:  milliseconds(d.timeout),
		DelayMS:    milliseconds(d.delay),
		GroupOrder: d.groupOrder.String(),
	}
	return json.Marshal(stored)
}
