package bearmq

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// WorkerOptions configure a [Worker]. The zero value works: it takes jobs of
// all channels, 100 at a time.
type WorkerOptions struct {
	// Name stands in events and logs: host name, process id and a number if
	// empty; at most 128 bytes.
	Name string
	// Channels are those that it takes jobs from, at most 128 bytes each.
	// None means all, also those that appear later.
	Channels []string
	// Concurrency is how many jobs run at once: 100 by default, 1 to 100000.
	Concurrency int
	// PerJob limits how many jobs of a definition, by its name, run at once on
	// this worker: each at least 1; a definition that is not named has no limit
	// of its own. Jobs beyond it are left to other workers.
	PerJob map[string]int
	// PollInterval is how often an idle worker looks for work that nobody
	// told it of: 2 s by default, 10 ms to 1 h. It is a fallback: a worker is
	// woken by what is enqueued.
	PollInterval time.Duration
	// StopGrace is how long jobs may go on once the worker stops: 30 s by
	// default, at most 24 h. Then their contexts end with [ErrShutdown].
	// [NoStopGrace] ends them at once.
	StopGrace time.Duration
}

// NoStopGrace as WorkerOptions.StopGrace ends the contexts of running jobs as
// soon as the worker stops.
const NoStopGrace time.Duration = -1 << 62

// The defaults of WorkerOptions.
const (
	defaultConcurrency  = 100
	defaultPollInterval = 2 * time.Second
	defaultStopGrace    = 30 * time.Second
)

func (o *WorkerOptions) fillIn() error {
	setDefault(&o.Name, workerName())
	setDefault(&o.Concurrency, defaultConcurrency)
	setDefault(&o.PollInterval, defaultPollInterval)
	setDefault(&o.StopGrace, defaultStopGrace)
	if err := checkName("Name", o.Name); err != nil {
		return err
	}
	for _, c := range o.Channels {
		if err := checkName("Channels", c); err != nil {
			return err
		}
	}
	if len(o.Channels) == 0 {
		o.Channels = nil // all
	}
	if o.Concurrency < 1 || o.Concurrency > 100_000 {
		return &FieldError{Field: "Concurrency", Value: o.Concurrency, Reason: "must be 1 to 100000"}
	}
	for name, n := range o.PerJob {
		if err := checkName("PerJob", name); err != nil {
			return err
		}
		if n < 1 {
			return &FieldError{Field: "PerJob", Value: n, Reason: fmt.Sprintf("must be at least 1 for definition %q", name)}
		}
	}
	o.PerJob = maps.Clone(o.PerJob)
	if err := checkRange("PollInterval", o.PollInterval, 10*time.Millisecond, time.Hour, "must be 10 ms to 1 h"); err != nil {
		return err
	}
	if o.StopGrace == NoStopGrace {
		o.StopGrace = 0
		return nil
	}
	return checkRange("StopGrace", o.StopGrace, 0, 24*time.Hour, "must be up to 24 h, or NoStopGrace")
}

var workerCount atomic.Int64

func workerName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "worker"
	}
	return fmt.Sprintf("%.64s-%d-%d", host, os.Getpid(), workerCount.Add(1))
}

// A Worker takes jobs and runs them. Any number of workers may run, in any
// number of processes.
type Worker struct {
	mq      *Context
	opts    WorkerOptions
	running atomic.Bool
}

// NewWorker makes a worker. It starts nothing; invalid options are reported
// by Run.
func NewWorker(mq *Context, opts WorkerOptions) *Worker { return &Worker{mq: mq, opts: opts} }

// A StopError says that jobs ignored the end of their contexts when their
// worker stopped. They still run; once their session has expired, they count a
// loss and run elsewhere.
type StopError struct {
	// Jobs are the jobs, in the order of their ids.
	Jobs []JobID
	// Definitions are the names of their definitions, each once.
	Definitions []string
}

func (e *StopError) Error() string {
	ids := make([]string, len(e.Jobs))
	for i, id := range e.Jobs {
		ids[i] = id.String()
	}
	return fmt.Sprintf("bearmq: %d jobs ignored the end of their contexts when the worker stopped: %s (%s)",
		len(e.Jobs), strings.Join(ids, ", "), strings.Join(e.Definitions, ", "))
}

// Run takes jobs and runs them until ctx ends. Then it claims no more, gives
// back what has not started, and lets the running jobs go on for StopGrace;
// after that their contexts end with [ErrShutdown], and an attempt that ended
// so is not counted. Run waits for them a little longer, and returns a
// [*StopError] that names those that took no notice. The values of ctx are
// also those of the handlers' contexts.
//
// Run fails at once where an option is invalid ([*FieldError]), the schema is
// not migrated ([ErrNotMigrated], [ErrRestored]), a pooler is in the way
// ([ErrPooler]), or the worker runs already.
func (w *Worker) Run(ctx context.Context) error { return w.run(ctx, false) }

// Drain runs jobs like Run until nothing is runnable any more, or ctx ends:
// what is due later, or belongs to a group that another worker holds, is not
// waited for. It is for tests and for one-off commands. When ctx ends first it
// returns what Run does, so nil does not mean that nothing is left: see
// ctx.Err().
func (w *Worker) Drain(ctx context.Context) error { return w.run(ctx, true) }

func (w *Worker) run(ctx context.Context, drain bool) error {
	if !w.running.CompareAndSwap(false, true) {
		return errors.New("bearmq: the worker runs already")
	}
	defer w.running.Store(false)
	if w.mq == nil {
		return &FieldError{Field: "mq", Reason: "must not be nil: NewWorker needs a Context"}
	}
	opts := w.opts
	if err := opts.fillIn(); err != nil {
		return at("WorkerOptions", err)
	}
	r := &workerRun{daemon: daemon{mq: w.mq, name: opts.Name}, opts: opts, drain: drain, values: ctx,
		slots: newSlots(opts.Concurrency, opts.PerJob), capacity: make(chan struct{}, 1)}
	if started, err := r.start(ctx); !started {
		return err
	}
	r.ear = w.mq.wakes.subscribe(&r.daemon)
	defer w.mq.wakes.unsubscribe(r.ear)
	r.finisher = newFinisher(r)
	r.claimLoop(ctx)
	err := r.stop()
	r.stopped(err)
	return err
}

// A workerRun is one Run of a worker: a claim loop, slots that run what it
// claims, a finisher that writes how it ended, and a session.
type workerRun struct {
	daemon
	opts     WorkerOptions
	drain    bool
	values   context.Context // of Run
	slots    *slots
	finisher *finisher
	ear      *sleeper
	capacity chan struct{} // has a word when a job has ended

	mu      sync.Mutex
	session *session // nil until the first claim, and after a loss
}

// freed tells the claim loop that there may be room.
func (r *workerRun) freed() {
	select {
	case r.capacity <- struct{}{}:
	default:
	}
}

// current is the session in which to claim, a new one where there is none.
func (r *workerRun) current(ctx context.Context) (*session, error) {
	r.mu.Lock()
	s := r.session
	r.mu.Unlock()
	if s != nil && !s.lost() {
		return s, nil
	}
	if s != nil {
		r.lost(s)
	}
	s, err := beginSession(ctx, r.values, &r.daemon, r.opts.Channels, r.revoked)
	if err != nil {
		return nil, fmt.Errorf("begin a session: %w", err)
	}
	r.mu.Lock()
	r.session = s
	r.mu.Unlock()
	return s, nil
}

// lost drops what a lost session had. Its running jobs have been told by the
// end of their contexts; those that had not started will be recovered.
func (r *workerRun) lost(s *session) {
	jobs := r.slots.dropSession(s)
	r.mu.Lock()
	if r.session == s {
		r.session = nil
	}
	r.mu.Unlock()
	s.close(false)
	r.mq.log.Warn("bearmq: the session was lost, its jobs will run elsewhere", "daemon", r.name, "jobs", len(jobs))
	r.mq.emit(LeaseLost{About{Time: time.Now(), Worker: r.name}, jobs})
}

// revoked ends the contexts of jobs that were taken away one by one.
func (r *workerRun) revoked(ids []int64) {
	jobs := r.slots.revoke(ids)
	r.mq.log.Warn("bearmq: jobs held their groups for too long, they were taken away", "daemon", r.name, "jobs", jobs)
	r.mq.emit(LeaseLost{About{Time: time.Now(), Worker: r.name}, jobs})
}

// stop gives back what has not started and waits for what has.
func (r *workerRun) stop() error {
	for _, m := range r.slots.close() {
		r.giveBack(m)
	}
	r.mu.Lock()
	s := r.session
	r.mu.Unlock()
	if !r.slots.wait(r.opts.StopGrace) && s != nil {
		s.cancel(ErrShutdown)
	}
	patience := min(max(r.opts.StopGrace/10, time.Second), 5*time.Second)
	idle := r.slots.wait(patience)
	written := r.finisher.close(max(patience, 5*time.Second))
	switch {
	case s == nil: // what still runs is of one that was lost
	case s.lost():
		r.lost(s)
	default:
		s.close(idle && written)
	}
	if idle {
		return nil
	}
	e := &StopError{}
	for _, a := range r.slots.runningNow() {
		e.Jobs = append(e.Jobs, a.job.ID)
		if !slices.Contains(e.Definitions, a.job.Name) {
			e.Definitions = append(e.Definitions, a.job.Name)
		}
	}
	slices.Sort(e.Jobs)
	return e
}
