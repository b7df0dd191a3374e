package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Op is what becomes of a job whose attempt ended other than by plain success.
type Op string

// The ops of finish_v1.
const (
	OpFail    Op = "fail"    // it failed for good
	OpRetry   Op = "retry"   // it failed; another attempt after Delay
	OpAgain   Op = "again"   // it did not fail; the same attempt after Delay
	OpBack    Op = "back"    // it never started
	OpPark    Op = "park"    // its name is not known, or not wanted now
	OpSettled Op = "settled" // CompleteTx has finished it
	OpCancel  Op = "cancel"  // it was asked for, and the job did not complete
)

// Finish is one call of finish: the ends of attempts at jobs of several leases, in one transaction.
type Finish struct {
	Session uuid.UUID
	Replay  bool // it was called before and its answer was lost
	Leases  []FinishLease
	Done    []FinishDone
	Rest    []FinishRest
	Groups  []FinishGroup
}

// FinishLease is a lease that a Finish touches. Leases stand in the order of their ids; the others name them by index.
type FinishLease struct {
	ID, Nonce int64
	Closed    bool // nothing is left of it
}

// FinishDone is a job that succeeded.
type FinishDone struct {
	ID      int64
	Lease   int
	Attempt int16
	Took    time.Duration
	Result  []byte
	Ticket  bool
}

// FinishRest is a job that did not plainly succeed.
type FinishRest struct {
	ID      int64
	Lease   int
	Op      Op
	Attempt int16
	Took    time.Duration
	Error   string
	Delay   time.Duration
}

// FinishGroup is a group that its lease gives up: to the job Holder, or to everybody.
type FinishGroup struct {
	Key    string
	Lease  int
	Holder int64
}

// Finished is the answer to a Finish. All jobs that it does not name were written as asked.
type Finished struct {
	Lost    map[int64]bool // leases: nothing of theirs was written
	Refused map[int64]bool // jobs whose group was unlocked: not written
	Settled map[int64]bool // jobs that this claim had finished before
	Turns   []int32        // lanes that got a turn
}

// Finish ends attempts. Called again with the same content and Replay, after its answer was lost, it changes nothing twice.
func (s *Store) Finish(ctx context.Context, f *Finish) (*Finished, error) {
	nl, nd, ng := len(f.Leases), len(f.Done), len(f.Groups)
	leases, nonces, closed := make([]int64, nl), make([]int64, nl), make([]bool, nl)
	for i, l := range f.Leases {
		leases[i], nonces[i], closed[i] = l.ID, l.Nonce, l.Closed
	}
	ids, of, attempts, took := make([]int64, nd), make([]int32, nd), make([]int16, nd), make([]float32, nd)
	var results []*string
	var tickets []int64
	for i := range f.Done {
		d := &f.Done[i]
		ids[i], of[i], attempts[i], took[i] = d.ID, int32(d.Lease+1), d.Attempt, float32(d.Took.Seconds())
		if d.Result != nil {
			if results == nil {
				results = make([]*string, nd)
			}
			results[i] = jsonText(d.Result)
		}
		if d.Ticket {
			tickets = append(tickets, d.ID)
		}
	}
	var rest []byte
	if len(f.Rest) > 0 {
		type item struct {
			ID      int64   `json:"id"`
			Lease   int     `json:"l"`
			Op      Op      `json:"op"`
			Attempt int16   `json:"attempt"`
			Seconds float64 `json:"seconds"`
			Error   string  `json:"error"`
			Delay   float64 `json:"delay,omitempty"`
		}
		items := make([]item, len(f.Rest))
		for i, r := range f.Rest {
			items[i] = item{r.ID, r.Lease + 1, r.Op, r.Attempt, r.Took.Seconds(), r.Error, r.Delay.Seconds()}
		}
		var err error
		if rest, err = json.Marshal(items); err != nil {
			return nil, fmt.Errorf("finish: %w", err)
		}
	}
	keys, keyOf, holders := make([]string, ng), make([]int32, ng), make([]*int64, ng)
	for i := range f.Groups {
		g := &f.Groups[i]
		keys[i], keyOf[i] = g.Key, int32(g.Lease+1)
		if g.Holder != 0 {
			holders[i] = &g.Holder
		}
	}

	done := &Finished{}
	put := func(m *map[int64]bool, id int64) {
		if *m == nil {
			*m = map[int64]bool{}
		}
		(*m)[id] = true
	}
	err := s.call(ctx, "finish", func(rows pgx.Rows) error {
		var (
			what string
			id   int64
		)
		if err := rows.Scan(&what, &id); err != nil {
			return err
		}
		switch what {
		case "lost":
			put(&done.Lost, id)
		case "refused":
			put(&done.Refused, id)
		case "settled":
			put(&done.Settled, id)
		case "turn":
			done.Turns = append(done.Turns, int32(id))
		default:
			return fmt.Errorf("an answer that this library does not know: %q", what)
		}
		return nil
	}, f.Session, f.Replay, leases, nonces, closed, ids, of, attempts, took, results, tickets, jsonText(rest), keys, keyOf, holders)
	if err != nil {
		return nil, err
	}
	return done, nil
}

// CompleteTx writes a job's outcome in the caller's transaction, ErrLeaseLost where the lease or the group was taken away.
func (s *Store) CompleteTx(ctx context.Context, tx DB, session uuid.UUID, lease, nonce, job int64, group string, attempt int16, took time.Duration, result []byte) error {
	var held bool
	err := tx.QueryRow(ctx, s.text("complete_tx"), session, lease, nonce, job, null(group), attempt, float32(took.Seconds()), jsonText(result)).Scan(&held)
	if err != nil {
		return wrap("complete_tx", err)
	}
	if !held {
		return ErrLeaseLost
	}
	return nil
}

// Completing waits until no transaction that may complete a job is open, and tells whether the claim completed it.
func (s *Store) Completing(ctx context.Context, job, nonce int64) (bool, error) {
	for {
		var done bool
		err := s.call(ctx, "completing", func(rows pgx.Rows) error { return rows.Scan(&done) }, job, nonce)
		if code(err) == codeLockTimeout && ctx.Err() == nil {
			continue
		}
		if errors.Is(err, context.Canceled) {
			return false, ctx.Err()
		}
		return done, err
	}
}
