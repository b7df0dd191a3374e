//go:build unix

package stress

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bearmq/bearmq"
	"github.com/bearmq/bearmq/internal/history"
)

// hands run jobs.
type hands struct {
	role
	pool    *pgxpool.Pool
	journal *history.Journal
	vitals  *vitals
	runs    atomic.Int64
}

var (
	errOnPurpose = errors.New("on purpose")
	errPanics    = errors.New("the handler panics")
)

// exitCode is that of a process which a handler ended.
const exitCode = 7

func (h *hands) handle(ctx context.Context, job *bearmq.Job[work]) (int64, error) {
	run := h.Number<<32 | h.runs.Add(1)
	r := history.Record{Step: history.Start, Seq: job.Payload.Seq, Job: int64(job.ID), N: run, Token: job.FenceToken(), Attempt: job.Attempt,
		Channel: job.Channel, Group: job.Group}
	if job.Payload.Deaf {
		r.Note = history.Deaf
	}
	h.journal.Add(r)
	if job.Payload.At > 0 && job.Attempt == 1 {
		h.vitals.started(time.Duration(history.Now() - job.Payload.At))
	}
	note, err := h.work(ctx, job, run)
	r.Step, r.Note = history.End, note
	h.journal.Add(r)
	if err == errPanics {
		panic(err)
	}
	return run, err
}

// work does what a job is for: it takes its time, and ends in one of many ways.
func (h *hands) work(ctx context.Context, job *bearmq.Job[work], run int64) (note string, err error) {
	if w := job.Payload; w.Micros > 0 {
		waiting := ctx
		if w.Deaf {
			waiting = context.WithoutCancel(ctx)
		}
		if !wait(waiting, time.Duration(w.Micros)*time.Microsecond) {
			if errors.Is(context.Cause(ctx), bearmq.ErrLeaseLost) {
				return history.LeaseLost, ctx.Err()
			}
			return history.Shutdown, ctx.Err()
		}
	}
	chance := rand.Float64()
	often := func(share float64) bool { // by and by: each has its own stretch of chance
		chance -= share
		return chance < 0
	}
	switch {
	case often(h.Load.Exit) && history.Now() < h.Calm:
		os.Exit(exitCode)
	case often(h.Load.Panic):
		return history.Failed, errPanics
	case often(h.Load.Fail / 50):
		return history.Permanent, bearmq.Permanent(errOnPurpose)
	case often(h.Load.Fail):
		return history.Failed, errOnPurpose
	case often(h.Load.Snooze):
		return history.Snoozed, bearmq.Snooze(time.Duration(rand.IntN(50)) * time.Millisecond)
	case job.Payload.Complete:
		return h.complete(ctx, job, run)
	}
	return history.OK, nil
}

// complete finishes a job together with its effect. One in ten is rolled back,
// which makes the attempt a failed one.
func (h *hands) complete(ctx context.Context, job *bearmq.Job[work], run int64) (note string, err error) {
	tx, err := h.pool.Begin(ctx)
	if err != nil {
		return history.Failed, err
	}
	defer func() { // soon, also where nobody answers
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 500*time.Millisecond)
		defer cancel()
		_ = tx.Rollback(ctx)
	}()
	if _, err := tx.Exec(ctx, "INSERT INTO "+table(h.Schema, "stress_effect")+" VALUES ($1, $2)", job.Payload.Seq, run); err != nil {
		return history.Failed, err
	}
	if err := job.CompleteTx(ctx, tx); err != nil {
		return history.Failed, err
	}
	if rand.IntN(10) == 0 {
		return history.Failed, tx.Rollback(ctx)
	}
	if err := tx.Commit(ctx); err != nil {
		return history.Unsure, err
	}
	return history.OK, nil
}
