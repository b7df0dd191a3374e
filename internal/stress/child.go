//go:build unix

package stress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bearmq/bearmq"
)

// A role is what a child process is told to be, in its environment.
type role struct {
	Config
	Process      string
	Number       int64
	Orchestrator bool
}

const roleVariable = "BEARMQ_STRESS_ROLE"

// Child makes this process a worker or an orchestrator where the coordinator
// has started it as one, and then returns true and its exit code. A binary that
// runs the stress calls it first of all.
func Child() (is bool, code int) {
	text := os.Getenv(roleVariable)
	if text == "" {
		return false, 0
	}
	var r role
	err := json.Unmarshal([]byte(text), &r)
	if err == nil {
		err = r.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, r.Process+":", err)
		return true, 1
	}
	return true, 0
}

func (r role) run() error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() { // the coordinator holds the other end until it wants no more, or is dead
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	history, err := openJournal(r.Dir, r.Process)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(r.Dir, r.Process+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	pool, err := connect(ctx, r.Config, r.Process, 8)
	if err != nil {
		return err
	}
	defer pool.Close()
	options := r.options()
	options.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	mq, err := bearmq.New(pool, options)
	if err != nil {
		return err
	}
	if r.Orchestrator {
		return bearmq.NewOrchestrator(mq, bearmq.OrchestratorOptions{RecoverPoll: 500 * time.Millisecond, CleanPoll: time.Second}).Run(ctx)
	}
	h := &hands{role: r, pool: pool, history: history}
	mq.AddEventHandler(func(e bearmq.Event) {
		if done, is := e.(bearmq.JobSucceeded); is {
			history.add(Record{Step: Succeeded, Job: int64(done.JobID)})
		}
	})
	if err := mq.Register(release.Handle(h.handle), strict.Handle(h.handle)); err != nil {
		return err
	}
	return bearmq.NewWorker(mq, bearmq.WorkerOptions{Concurrency: 30, PollInterval: time.Second, StopGrace: 5 * time.Second}).Run(ctx)
}

// connect opens a pool whose connections the coordinator can find.
func connect(ctx context.Context, c Config, process string, size int32) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		return nil, err
	}
	config.MaxConns = size
	config.ConnConfig.RuntimeParams["application_name"] = c.application(process)
	return pgxpool.NewWithConfig(ctx, config)
}

// hands run jobs.
type hands struct {
	role
	pool    *pgxpool.Pool
	history *journal
	runs    atomic.Int64
}

func (h *hands) handle(ctx context.Context, job *bearmq.Job[work]) (int64, error) {
	run := h.Number<<32 | h.runs.Add(1)
	r := Record{Step: Start, Seq: job.Payload.Seq, Job: int64(job.ID), N: run, Token: job.FenceToken(), Attempt: job.Attempt,
		Channel: job.Channel, Group: job.Group}
	h.history.add(r)
	note, err := h.work(ctx, job, run)
	r.Step, r.Note = End, note
	h.history.add(r)
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
				return leaseLost, ctx.Err()
			}
			return shutdown, ctx.Err()
		}
	}
	switch chance := rand.Float64(); {
	case chance < h.Load.Fail/50:
		return permanent, bearmq.Permanent(errOnPurpose)
	case chance < h.Load.Fail:
		return failed, errOnPurpose
	case chance < h.Load.Fail+h.Load.Snooze:
		return snoozed, bearmq.Snooze(time.Duration(rand.IntN(50)) * time.Millisecond)
	case job.Payload.Complete:
		return h.complete(ctx, job, run)
	}
	return ok, nil
}

// complete finishes a job together with its effect. One in ten is rolled back,
// which makes the attempt a failed one.
func (h *hands) complete(ctx context.Context, job *bearmq.Job[work], run int64) (note string, err error) {
	tx, err := h.pool.Begin(ctx)
	if err != nil {
		return failed, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := tx.Exec(ctx, "INSERT INTO "+table(h.Schema, "stress_effect")+" VALUES ($1, $2)", job.Payload.Seq, run); err != nil {
		return failed, err
	}
	if err := job.CompleteTx(ctx, tx); err != nil {
		return failed, err
	}
	if rand.IntN(10) == 0 {
		return failed, tx.Rollback(ctx)
	}
	if err := tx.Commit(ctx); err != nil {
		return unsure, err
	}
	return ok, nil
}

func table(schema, name string) string { return pgx.Identifier{schema, name}.Sanitize() }

// clean makes an error fit into a field of a record.
func clean(err error) string { return strings.NewReplacer("\t", " ", "\n", " ").Replace(err.Error()) }
