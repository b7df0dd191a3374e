package bearmq

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// OrchestratorOptions configure an [Orchestrator]. The zero value works.
type OrchestratorOptions struct {
	// Name stands in events and logs: "orchestrator-", host name, process id and
	// a number if empty; at most 128 bytes.
	Name string
	// SchedulePoll is how long a schedule that another process has changed may
	// go unnoticed: 5 s by default, 10 ms to 1 h. Ticks are made on time.
	SchedulePoll time.Duration
	// RecoverPoll is how often dead workers are looked for: 5 s by default, 10
	// ms to 1 h.
	RecoverPoll time.Duration
	// CleanPoll is how often an orchestrator that has nothing to delete looks
	// for finished jobs and idle groups: 30 s by default, 10 ms to 1 h. Where
	// jobs end all the time it deletes every second.
	CleanPoll time.Duration
	// LongTransaction is how long anybody's transaction in the database may be
	// open before the orchestrator warns of it: 5 min by default, 20 ms to 24 h. It
	// looks twice in that time, and warns each time.
	LongTransaction time.Duration
}

// The defaults of OrchestratorOptions.
const (
	defaultSchedulePoll = 5 * time.Second
	defaultRecoverPoll  = 5 * time.Second
	defaultCleanPoll    = 30 * time.Second

	defaultLongTransaction = 5 * time.Minute
)

func (o *OrchestratorOptions) fillIn() error {
	setDefault(&o.Name, "orchestrator-"+workerName())
	setDefault(&o.SchedulePoll, defaultSchedulePoll)
	setDefault(&o.RecoverPoll, defaultRecoverPoll)
	setDefault(&o.CleanPoll, defaultCleanPoll)
	setDefault(&o.LongTransaction, defaultLongTransaction)
	if err := checkName("Name", o.Name); err != nil {
		return err
	}
	for _, p := range []struct {
		field string
		value time.Duration
	}{{"SchedulePoll", o.SchedulePoll}, {"RecoverPoll", o.RecoverPoll}, {"CleanPoll", o.CleanPoll}} {
		if err := checkRange(p.field, p.value, 10*time.Millisecond, time.Hour, "must be 10 ms to 1 h"); err != nil {
			return err
		}
	}
	return checkRange("LongTransaction", o.LongTransaction, 20*time.Millisecond, 24*time.Hour, "must be 20 ms to 24 h")
}

// An Orchestrator does what needs no job: it makes the jobs of schedules, gives
// the jobs of dead workers back, frees groups that are held for too long,
// deletes what is finished, and warns of what holds the database back. One is enough; any number may run.
type Orchestrator struct {
	mq      *Context
	opts    OrchestratorOptions
	running atomic.Bool
}

// NewOrchestrator makes an orchestrator. It starts nothing; invalid options
// are reported by Run.
func NewOrchestrator(mq *Context, opts OrchestratorOptions) *Orchestrator {
	return &Orchestrator{mq: mq, opts: opts}
}

// A loop is one thing that an orchestrator does again and again. A tick does
// it once and says how long to wait at most until the next, 0 for the loop's
// interval.
type loop struct {
	name  string
	every time.Duration
	tick  func(context.Context) (time.Duration, error)
}

// loops is all that the orchestrator does.
func (o *Orchestrator) loops(d *daemon, opts OrchestratorOptions) []loop {
	loops := []loop{
		// One that has no schedules only reports what nobody makes.
		{"schedule", 6 * opts.SchedulePoll, (&scheduler{daemon: d, poll: opts.SchedulePoll}).tick},
		{"recover", opts.RecoverPoll, (&recoverer{daemon: d, every: opts.RecoverPoll}).tick},
		{"delete", opts.CleanPoll, (&deleter{daemon: d}).tick},
		{"collect groups", 2 * opts.CleanPoll, (&groupCollector{daemon: d}).tick},
		{"sweep", 2 * opts.CleanPoll, (&sweeper{daemon: d}).tick},
		{"watch", opts.LongTransaction / 2, (&watcher{daemon: d, long: opts.LongTransaction}).tick},
	}
	if o.mq.opts.GroupUnlock != NoGroupUnlock {
		loops = append(loops, loop{"unlock groups", min(o.mq.opts.GroupUnlock/4, 2*opts.CleanPoll), (&groupUnlocker{daemon: d}).tick})
	}
	return loops
}

// Run works until ctx ends. It fails at once where an option is invalid
// ([*FieldError]), the schema is not migrated ([ErrNotMigrated],
// [ErrRestored]), a pooler is in the way ([ErrPooler]), or it runs already.
func (o *Orchestrator) Run(ctx context.Context) error {
	if !o.running.CompareAndSwap(false, true) {
		return errors.New("bearmq: the orchestrator runs already")
	}
	defer o.running.Store(false)
	if o.mq == nil {
		return &FieldError{Field: "mq", Reason: "must not be nil: NewOrchestrator needs a Context"}
	}
	opts := o.opts
	if err := opts.fillIn(); err != nil {
		return at("OrchestratorOptions", err)
	}
	d := &daemon{mq: o.mq, name: opts.Name}
	if started, err := d.start(ctx); !started {
		return err
	}
	var wg sync.WaitGroup
	for _, l := range o.loops(d, opts) {
		wg.Go(func() { d.repeat(ctx, l) })
	}
	wg.Wait()
	d.stopped(nil)
	return nil
}

// repeat runs a loop until ctx ends. A failing loop reports, waits, and goes
// on.
func (d *daemon) repeat(ctx context.Context, l loop) {
	for p := newPause(); ctx.Err() == nil; {
		changed := d.mq.registry.changed()
		wait, err := l.tick(ctx)
		if err != nil {
			d.failing(ctx, l.name, err, p.next())
			continue
		}
		p.reset()
		if wait <= 0 || wait > l.every {
			wait = l.every
		}
		t := time.NewTimer(wait + rand.N(wait/20+1))
		select {
		case <-ctx.Done():
		case <-changed:
		case <-t.C:
		}
		t.Stop()
	}
}
