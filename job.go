package bearmq

import (
	"encoding/json"
	"strconv"
	"time"
)

// A JobID identifies a job in its schema. Ids are positive and never used
// twice; their order is not the order in which jobs run.
type JobID int64

// String is the id in decimal.
func (id JobID) String() string { return strconv.FormatInt(int64(id), 10) }

// A Job is one attempt of a job, as a handler sees it.
type Job[T any] struct {
	*RawJob
	// Payload is decoded anew for each attempt: it is the handler's own.
	Payload T
}

// A RawJob is one attempt of a job with its payload still encoded, as
// [Middleware] sees it.
type RawJob struct {
	ID   JobID
	Name string // of its definition
	// Channel is where the job was enqueued.
	Channel string
	// Group is empty for a job without one.
	Group string
	// Attempt counts from 1. Attempts that a crash or a shutdown ended are
	// not counted.
	Attempt int
	// MaxAttempts is how many there may be.
	MaxAttempts int
	// EnqueuedAt is the database's time.
	EnqueuedAt time.Time
	// RawPayload is JSON. Middleware may replace it, for instance by its
	// decrypted form, before it calls the next handler.
	RawPayload json.RawMessage

	run    *attempt        // what the worker knows of it
	result json.RawMessage // set by the handler of a ResultDefinition
}

// A State is where a job is on its way.
type State string

// The states of a job. The last three are final.
const (
	StateQueued    State = "queued"    // is next, as soon as a worker is free
	StateScheduled State = "scheduled" // waits for its time
	StateBlocked   State = "blocked"   // waits for its group
	StateParked    State = "parked"    // waits for a worker that knows its name
	StateRunning   State = "running"   // a worker has it
	StateRetrying  State = "retrying"  // has failed, and waits for its next attempt
	StateCompleted State = "completed" // its handler returned nil
	StateFailed    State = "failed"    // no attempt is left, one failed for good, or too many processes were lost
	StateCancelled State = "cancelled" // was taken back: see Context.Cancel
)
