//go:build fault && unix

package fault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bearmq/bearmq"
)

// A role is what a process of a scenario is: a worker, an orchestrator, or
// both; in a process of its own, to which it goes in the environment, or inside
// the test's.
type role struct {
	Name, URL, Schema, Dir string
	TTL                    time.Duration // of sessions
	Worker, Orchestrator   bool
	Channels               []string
	Concurrency            int
	Grace, Unlock          time.Duration
	Pool                   int32             // connections
	Parameters             map[string]string // of its connections
	Ticks                  bool              // it has the schedule ticks
	Errand                 string            // one of errands, instead of daemons
	Silent                 bool              // it keeps no history of its handlers, for large numbers of jobs
	Watch                  bool              // it notes the times of its claims and its memory at its end
	CPUs                   int               // that a process of its own may use, 0: two

	configure func(*pgxpool.Config) // inside the test's process
	deed      deed                  // instead of those of the payloads; inside the test's process
	register  func(*hands) error    // instead of work's handler; inside the test's process
}

const roleVariable = "BEARMQ_FAULT_ROLE"

// child makes this process what a scenario has started it as.
func child() (is bool, code int) {
	text := os.Getenv(roleVariable)
	if text == "" {
		return false, 0
	}
	var r role
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return true, 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() { // the test holds the other end, and may be dead
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	if err := r.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, r.Name+":", err)
		return true, 1
	}
	return true, 0
}

// run is the whole life of a process.
func (r role) run(ctx context.Context) error {
	history, err := openJournal(r.Dir, r.Name)
	if err != nil {
		return err
	}
	defer history.file.Close()
	log, err := os.OpenFile(filepath.Join(r.Dir, r.Name+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	if r.Watch {
		var watch stopwatch
		r.configure = func(config *pgxpool.Config) { config.ConnConfig.Tracer = &watch }
		defer func() {
			var memory runtime.MemStats
			runtime.ReadMemStats(&memory)
			text, _ := json.Marshal(watched{watch.all(), memory.Sys})
			history.add(record{Step: noted, Note: string(text)})
		}()
	}
	pool, err := r.connect(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	options := r.options()
	options.Logger = slog.New(slog.NewTextHandler(log, nil))
	h := &hands{role: r, pool: pool, history: history}
	options.Middleware = []bearmq.Middleware{h.afterwards}
	if h.mq, err = bearmq.New(pool, options); err != nil {
		return err
	}
	if r.Errand != "" {
		return errands[r.Errand](ctx, h)
	}
	h.mq.AddEventHandler(h.event)
	register := r.register
	if register == nil {
		register = func(h *hands) error { return h.mq.Register(work.Handle(h.handle)) }
	}
	if err := register(h); err != nil {
		return err
	}
	if r.Ticks {
		if err := h.mq.Register(tick.RepeatWith(bearmq.Every(time.Second), h.tick), tick.Handle(h.ticked)); err != nil {
			return err
		}
	}
	var daemons []bearmq.Daemon
	if r.Worker {
		daemons = append(daemons, bearmq.NewWorker(h.mq, bearmq.WorkerOptions{Name: r.Name, Channels: r.Channels, Concurrency: r.Concurrency,
			PollInterval: poll, StopGrace: r.Grace}))
	}
	if r.Orchestrator {
		daemons = append(daemons, bearmq.NewOrchestrator(h.mq, bearmq.OrchestratorOptions{Name: r.Name, RecoverPoll: sweep, CleanPoll: sweep, SchedulePoll: sweep,
			LongTransaction: longTransaction}))
	}
	err = bearmq.Run(ctx, daemons...)
	last := record{Step: stopped}
	if err != nil {
		last.Note = err.Error()
	}
	history.add(last)
	if deaf := new(bearmq.StopError); !errors.As(err, &deaf) {
		pool.Close()
		if os.Getenv(roleVariable) != "" {
			h.leftovers()
		}
	}
	return err
}

func (r role) options() bearmq.Options {
	return bearmq.Options{Schema: r.Schema, SessionTTL: r.TTL, GroupUnlock: r.Unlock}
}

// connect opens a pool whose connections can be told by their application_name.
func (r role) connect(ctx context.Context) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(r.URL)
	if err != nil {
		return nil, err
	}
	config.MaxConns = r.Pool
	for name, value := range r.Parameters {
		config.ConnConfig.RuntimeParams[name] = value
	}
	config.ConnConfig.RuntimeParams["application_name"] = r.application()
	if r.configure != nil {
		r.configure(config)
	}
	return pgxpool.NewWithConfig(ctx, config)
}

func (r role) application() string { return r.Schema + " " + r.Name }

// hands run the jobs of a process.
type hands struct {
	role
	mq      *bearmq.Context
	pool    *pgxpool.Pool
	history *journal
	runs    atomic.Int64
}

// A task is the payload of a job: what its handler does.
type task struct {
	N     int           // tells it from all others
	Do    string        `json:",omitempty"` // one of deeds; "": nothing
	For   time.Duration `json:",omitempty"`
	Group string        `json:",omitempty"`
}

// work is what most rows run.
var work = bearmq.Define(bearmq.Spec[task]{
	Name: "work", Backoff: bearmq.Constant(50 * time.Millisecond),
	Group: func(t task) string { return t.Group },
})

// A deed is what a handler does. What it returns is the attempt's error.
type deed func(ctx context.Context, h *hands, job *bearmq.Job[task]) error

func (h *hands) handle(ctx context.Context, job *bearmq.Job[task]) error {
	d := deeds[job.Payload.Do]
	if h.deed != nil {
		d = h.deed
	}
	if d == nil {
		return fmt.Errorf("no deed %q", job.Payload.Do)
	}
	return h.watched(ctx, job, d)
}

// watched does a deed and writes down when it began and ended.
func (h *hands) watched(ctx context.Context, job *bearmq.Job[task], d deed) (err error) {
	if h.Silent {
		return d(ctx, h, job)
	}
	r := record{Step: started, Run: h.runs.Add(1), Job: int64(job.ID), N: job.Payload.N, Group: job.Group, Token: job.FenceToken(), Attempt: job.Attempt}
	h.history.add(r)
	c := r
	defer context.AfterFunc(ctx, func() {
		c.Step, c.Note = cancelled, context.Cause(ctx).Error()
		h.history.add(c)
	})()
	returned := false
	defer func() { // also where it panics, or exits
		r.Step = ended
		switch {
		case !returned:
			r.Note = "did not return"
		case err != nil:
			r.Note = strings.ToValidUTF8(err.Error(), "?")
		}
		h.history.add(r)
	}()
	err = d(ctx, h, job)
	returned = true
	return err
}

// note writes something down about a job.
func (h *hands) note(job *bearmq.Job[task], text string) {
	h.history.add(record{Step: noted, Job: int64(job.ID), N: job.Payload.N, Note: text})
}

// first tells whether nobody has asked this of a job before, in any process.
func (h *hands) first(id bearmq.JobID, what string) bool {
	file, err := os.OpenFile(filepath.Join(h.Dir, fmt.Sprintf("%s-%d", what, id)), os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return false
	}
	_ = file.Close()
	return true
}

// open tells whether a scenario has let jobs through a gate.
func (h *hands) open(gate string) bool {
	_, err := os.Stat(filepath.Join(h.Dir, "gate-"+gate))
	return err == nil
}

// wait returns false where ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// afterwards is for what happens to a process between the return of a handler
// and the writing of how it ended.
func (h *hands) afterwards(next bearmq.Handler) bearmq.Handler {
	return func(ctx context.Context, job *bearmq.RawJob) error {
		err := next(ctx, job)
		if h.Worker && os.Getenv(roleVariable) != "" && strings.Contains(string(job.RawPayload), dieAfter) && h.first(job.ID, "died") {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return err
	}
}

// dieAfter at the end of a deed's name kills the process once when its handler
// has returned.
const dieAfter = "and die"

// event writes down what the library tells, except what the handlers write
// themselves.
func (h *hands) event(e bearmq.Event) {
	r := record{Step: event, Kind: string(e.Kind())}
	about := e.Common()
	r.Job, r.Group, r.Attempt = int64(about.JobID), about.Group, about.Attempt
	switch e := e.(type) {
	case bearmq.JobDequeued, bearmq.JobStarted, bearmq.JobEnqueued:
		return
	case bearmq.JobSucceeded, bearmq.JobErrored:
		if h.Silent {
			return
		}
	case bearmq.JobExpired:
		r.Note = strings.ToValidUTF8(fmt.Sprintf("losses %d: %v", e.Losses, e.Err), "?")
	case bearmq.LeaseLost:
		r.Note = fmt.Sprint(e.Jobs)
	case bearmq.DaemonFailing:
		r.Wait = e.RetryIn
		r.Note = e.Loop + ": " + strings.ToValidUTF8(e.Err.Error(), "?")
	case bearmq.DatabaseWarned:
		r.Note = e.Problem
	case bearmq.JobRecovered:
		r.N = e.Losses
	case bearmq.JobScheduled:
		r.Note = e.Tick.Format(time.RFC3339Nano)
	}
	h.history.add(r)
}

// leftovers writes down the goroutines that the library has left in a process
// whose daemons have ended.
func (h *hands) leftovers() {
	var stacks []string
	for range 100 {
		stacks = stacks[:0]
		var profile bytes.Buffer
		_ = pprof.Lookup("goroutine").WriteTo(&profile, 1)
		for stack := range strings.SplitSeq(profile.String(), "\n\n") {
			if strings.Contains(stack, "bearmq") && !strings.Contains(stack, "internal/fault") {
				stacks = append(stacks, stack)
			}
		}
		if len(stacks) == 0 {
			return
		}
		runtime.Gosched()
		wait(context.Background(), 20*time.Millisecond)
	}
	for _, stack := range stacks {
		h.history.add(record{Step: left, Note: stack})
	}
}

// table is a table of the scenario's own, in its schema.
func (r role) table(name string) string { return pgx.Identifier{r.Schema, name}.Sanitize() }
