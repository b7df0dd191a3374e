package bearmq

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bearmq/bearmq/internal/store"
)

// Options configure a [Context]. A zero field has its default; a value out of
// range is a [*FieldError].
type Options struct {
	// Schema is the PostgreSQL schema of the jobs, "bearmq" if empty: any name
	// of 1 to 63 bytes that does not begin with pg_. Each schema is a job
	// system of its own.
	Schema string
	// Logger gets what goes wrong in the background, slog.Default() if nil.
	Logger *slog.Logger
	// Retention is how long a finished job is kept: 24 h by default, at most
	// ten years. [NoRetention] deletes it as soon as an orchestrator looks. The
	// Options of the process that runs the orchestrator count.
	Retention time.Duration
	// RetentionFailed is Retention for failed jobs, and the same by default.
	RetentionFailed time.Duration
	// GroupUnlock is how long one job may hold its group while its process
	// lives: 3 h by default, 1 s to ten years. Then its context ends with
	// [ErrLeaseLost], its outcome is refused, and it counts a loss. It stays the
	// first of its group and runs again; at the last of MaxLosses it fails, and
	// the next job has the group. [NoGroupUnlock] switches it off. (The groups of
	// a process that has died are free after SessionTTL.) The Options of the
	// process that runs the orchestrator count.
	GroupUnlock time.Duration
	// SessionTTL is how long a process is believed to live without a sign of
	// it: 30 s by default, 1 s to 1 h. A worker that cannot reach the
	// database for that long gives up its jobs; they run elsewhere.
	SessionTTL time.Duration
	// MaxPayload is the largest payload and the largest result, in bytes of
	// JSON: 1 MiB by default, 1 B to 256 MiB.
	MaxPayload int
	// MaxLosses is how many processes may be lost while they run a job before
	// the job fails: 3 by default, 1 to 32767.
	MaxLosses int
	// Middleware wraps every handler, the first outermost, outside that of
	// the [Spec].
	Middleware []Middleware
}

const (
	// NoRetention as a retention deletes jobs as soon as they are finished.
	NoRetention time.Duration = math.MinInt64
	// NoGroupUnlock as Options.GroupUnlock lets a job hold its group for as
	// long as its process lives.
	NoGroupUnlock time.Duration = math.MinInt64 + 1
)

// The defaults of Options.
const (
	defaultSchema      = "bearmq"
	defaultRetention   = 24 * time.Hour
	defaultGroupUnlock = 3 * time.Hour
	defaultSessionTTL  = 30 * time.Second
	defaultMaxPayload  = 1 << 20
	defaultMaxLosses   = 3

	maxMaxPayload = 256 << 20
)

// fillIn sets the defaults and checks the rest.
func (o *Options) fillIn() error {
	setDefault(&o.Schema, defaultSchema)
	setDefault(&o.Logger, slog.Default())
	setDefault(&o.Retention, defaultRetention)
	setDefault(&o.RetentionFailed, o.Retention)
	setDefault(&o.GroupUnlock, defaultGroupUnlock)
	setDefault(&o.SessionTTL, defaultSessionTTL)
	setDefault(&o.MaxPayload, defaultMaxPayload)
	setDefault(&o.MaxLosses, defaultMaxLosses)
	if o.Retention != NoRetention {
		if err := checkRange("Retention", o.Retention, 0, maxDuration, "must be up to ten years, or NoRetention"); err != nil {
			return err
		}
	}
	if o.RetentionFailed != NoRetention {
		if err := checkRange("RetentionFailed", o.RetentionFailed, 0, maxDuration, "must be up to ten years, or NoRetention"); err != nil {
			return err
		}
	}
	if o.GroupUnlock != NoGroupUnlock {
		if err := checkRange("GroupUnlock", o.GroupUnlock, time.Second, maxDuration, "must be 1 s to ten years, or NoGroupUnlock"); err != nil {
			return err
		}
	}
	if err := checkRange("SessionTTL", o.SessionTTL, time.Second, time.Hour, "must be 1 s to 1 h"); err != nil {
		return err
	}
	if o.MaxPayload < 1 || o.MaxPayload > maxMaxPayload {
		return &FieldError{Field: "MaxPayload", Value: o.MaxPayload, Reason: fmt.Sprintf("must be 1 to %d bytes", maxMaxPayload)}
	}
	if o.MaxLosses < 1 || o.MaxLosses > maxAttempts {
		return &FieldError{Field: "MaxLosses", Value: o.MaxLosses, Reason: fmt.Sprintf("must be 1 to %d", maxAttempts)}
	}
	return checkMiddleware(o.Middleware)
}

func setDefault[T comparable](value *T, to T) {
	var zero T
	if *value == zero {
		*value = to
	}
}

// A Context is a job system in one schema of one database: it enqueues jobs,
// and holds the registrations that workers and orchestrators run. It is made
// by [New], is safe for concurrent use, and needs no closing. It is not a
// [context.Context]; the variable is best called mq.
type Context struct {
	pool  *pgxpool.Pool
	store *store.Store
	opts  Options // filled in
	log   *slog.Logger

	registry registry
	events   eventHub
	wakes    wakeHub
	awaits   awaitHub
}

// New makes a Context. It does not connect, and starts nothing. The pool
// stays the caller's to close.
func New(pool *pgxpool.Pool, opts Options) (*Context, error) {
	if pool == nil {
		return nil, &FieldError{Field: "pool", Reason: "must not be nil"}
	}
	if err := opts.fillIn(); err != nil {
		return nil, err
	}
	st, err := store.New(pool, opts.Schema)
	if err != nil {
		return nil, &FieldError{Field: "Schema", Value: opts.Schema, Reason: "must be a legal schema name: " + err.Error(), cause: err}
	}
	return &Context{pool: pool, store: st, opts: opts, log: opts.Logger}, nil
}

// Deploy stores the defaults of all registered definitions, for SQL's enqueue,
// and makes their channels. What is stored already costs next to nothing.
// Workers and orchestrators do it when they start.
func (mq *Context) Deploy(ctx context.Context) error {
	defs := mq.registry.definitions()
	stored := make([]store.Definition, len(defs))
	for i, def := range defs {
		defaults, err := def.defaults()
		if err != nil {
			return def.in(err)
		}
		stored[i] = store.Definition{Name: def.name, Channel: def.channel, Priority: int16(def.priority), Defaults: defaults}
	}
	if len(stored) == 0 {
		return nil
	}
	changed, err := mq.store.Deploy(ctx, stored)
	if err != nil {
		return fmt.Errorf("bearmq: deploying definitions: %w", err)
	}
	if mq.observed() {
		for _, name := range changed {
			def := mq.registry.definition(name)
			mq.emit(JobDefinitionDeployed{About{Time: time.Now(), Definition: name, Channel: def.channel}})
		}
	}
	return nil
}

// checkTimeout is for jobs with a group.
func (mq *Context) checkTimeout(timeout time.Duration) error {
	if mq.opts.GroupUnlock != NoGroupUnlock && timeout > mq.opts.GroupUnlock {
		return &FieldError{
			Field:  "Timeout",
			Value:  timeout,
			Reason: fmt.Sprintf("must not exceed Options.GroupUnlock (%v): the group would be gone by then", mq.opts.GroupUnlock),
		}
	}
	return nil
}

// checkLimits checks what depends on the Options.
func (mq *Context) checkLimits(payload []byte, group string, timeout time.Duration) error {
	if err := checkSize("Payload", payload, mq.opts.MaxPayload); err != nil {
		return err
	}
	if group != "" {
		return mq.checkTimeout(timeout)
	}
	return nil
}

// result is the result of a job that has succeeded, as JSON.
func (mq *Context) result(ctx context.Context, id JobID) ([]byte, error) {
	state, result, message, err := mq.store.Result(ctx, int64(id))
	switch {
	case err != nil:
		return nil, fmt.Errorf("bearmq: result of job %v: %w", id, err)
	}
	switch state := State(state); state {
	case StateCompleted:
		return result, nil
	case StateFailed, StateCancelled:
		return nil, &JobFailedError{ID: id, State: state, Message: message}
	default:
		return nil, fmt.Errorf("%w: job %v is %s", ErrNotFinished, id, state)
	}
}
