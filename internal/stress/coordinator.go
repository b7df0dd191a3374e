//go:build unix

package stress

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bearmq/bearmq/internal/history"
	"github.com/bearmq/bearmq/internal/invariant"
)

// Run does one run and checks it. The error says that it could not be done;
// what it found is in the violations.
func Run(ctx context.Context, c Config) ([]history.Violation, history.Summary, error) {
	pool, err := connect(ctx, c.URL, "stress coordinator", 4, nil) // of another name: its connections are not harmed
	if err != nil {
		return nil, history.Summary{}, err
	}
	defer pool.Close()
	if err := prepare(ctx, pool, c.Schema); err != nil {
		return nil, history.Summary{}, err
	}
	journal, err := history.Open(c.Dir, "coordinator")
	if err != nil {
		return nil, history.Summary{}, err
	}
	defer journal.Close()
	r := &coordinator{Config: c, pool: pool, journal: journal, calm: history.Now() + int64(c.Over)}
	err = r.run(ctx)
	r.killAll()
	if err := errors.Join(err, r.err, ctx.Err()); err != nil {
		return nil, history.Summary{}, err
	}
	facts, err := gather(ctx, pool, c)
	if err != nil {
		return nil, history.Summary{}, err
	}
	found, summary := history.Check(facts)
	found = append(found, r.broken...)
	early, err := deletedEarly(ctx, pool, c)
	if err != nil {
		return nil, history.Summary{}, err
	}
	found = append(found, early...)
	if c.Load.Repeat && summary.Slots == 0 {
		found = append(found, history.Violation{Class: history.Slot, Text: "a schedule that is due every second made no job"})
	}
	if err := invariant.Check(ctx, pool, c.Schema); err != nil {
		found = append(found, history.Violation{Class: history.Invariant, Text: err.Error()})
	}
	return found, summary, nil
}

// A coordinator starts the processes and harms them.
type coordinator struct {
	Config
	pool    *pgxpool.Pool
	journal *history.Journal
	calm    int64 // the time by which no fault begins any more
	spawned atomic.Int64
	kills   atomic.Int64 // of workers
	crowded atomic.Bool  // the hot group is too far behind
	ending  atomic.Bool  // processes that end are not replaced
	watches sync.WaitGroup
	server  sync.Mutex // held while the database server is restarted

	workers       []*place
	orchestrators []*place

	mu     sync.Mutex
	broken []history.Violation
	err    error // that stands in the way of the run
}

// violate is for what the history does not show.
func (r *coordinator) violate(class history.Class, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = append(r.broken, history.Violation{Class: class, Text: fmt.Sprintf(format, args...)})
}

func (r *coordinator) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = errors.Join(r.err, err)
}

// run works until everything is quiet, or it is clear that it will not be.
func (r *coordinator) run(ctx context.Context) error {
	for i := range r.Orchestrators + r.Workers {
		p := &place{orchestrator: i < r.Orchestrators}
		if p.orchestrator {
			r.orchestrators = append(r.orchestrators, p)
		} else {
			r.workers = append(r.workers, p)
		}
		if err := r.fill(p); err != nil {
			return err
		}
	}

	harming, enough := context.WithCancel(ctx)
	defer enough()
	faults := r.harm(harming)
	var watchers sync.WaitGroup
	for _, watch := range []func(context.Context){r.report, r.crowd, r.probe, r.sample} {
		watchers.Go(func() { watch(harming) })
	}
	var producers sync.WaitGroup
	for i := range r.Producers {
		producers.Go(func() {
			if err := r.produce(ctx, i); err != nil {
				r.fail(err)
			}
		})
	}
	producers.Wait()
	enough()
	faults.Wait()
	watchers.Wait()

	r.say("no more faults and no more jobs: waiting until all is done")
	// The orchestrators end first: they make the jobs of schedules.
	for _, next := range [][]*place{r.orchestrators, r.workers} {
		if left := r.quiet(ctx); left != "" {
			r.killAll() // what is read from now on must not change
			r.violate(history.Liveness, "%v after the last fault: %s", r.Quiet, left)
			return nil
		}
		r.ending.Store(true)
		var ends sync.WaitGroup
		for _, p := range next {
			ends.Go(func() {
				p.mu.Lock()
				defer p.mu.Unlock()
				if err := p.process.end(30 * time.Second); err != nil {
					r.violate(history.Liveness, "%s did not end well: %v; its output is in %s.out", p.process.name, err, p.process.name)
				}
			})
		}
		ends.Wait()
	}
	if left := r.connections(ctx); left != "" {
		r.violate(history.Leak, "connections of processes that have ended: %s", left)
	}
	return nil
}

func (r *coordinator) places() []*place {
	return append(r.workers[:len(r.workers):len(r.workers)], r.orchestrators...)
}

func (r *coordinator) produce(ctx context.Context, number int) error {
	name := fmt.Sprintf("producer%d", number)
	journal, err := history.Open(r.Dir, name)
	if err != nil {
		return err
	}
	defer journal.Close()
	pool, err := connect(ctx, r.through(), r.application(name), 2, nil)
	if err != nil {
		return err
	}
	defer pool.Close()
	p, err := newProducer(r.Config, pool, journal, number, &r.crowded)
	if err != nil {
		return err
	}
	return p.run(ctx, r.Jobs/r.Producers, func() bool { return int(r.kills.Load()) < r.Faults.Kills })
}

// report says now and then how far the run is.
func (r *coordinator) report(ctx context.Context) {
	for wait(ctx, 5*time.Second) {
		if s, err := r.standing(ctx); err == nil {
			r.say("%d jobs, of which %d are without an end", s.jobs, s.unended())
		}
	}
}

// crowd looks how far the hot group is behind. Its jobs run one after another:
// what faults have held up there is not made up for by more workers.
func (r *coordinator) crowd(ctx context.Context) {
	if r.Load.Behind == 0 {
		return
	}
	query := "SELECT count(*) FROM " + table(r.Schema, "ticket") + " WHERE group_key = $1 AND state = 'b'"
	for wait(ctx, 200*time.Millisecond) {
		var blocked int
		if err := r.pool.QueryRow(ctx, query, hot).Scan(&blocked); err == nil { // else the server may be down
			r.crowded.Store(blocked > r.Load.Behind)
		}
	}
}

// probe measures how long a small write takes that nobody harms, and writes
// down when it is too long for a TTL as short as that of a test. Where the server
// is harmed it means nothing.
func (r *coordinator) probe(ctx context.Context) {
	if r.Restart == 0 {
		return
	}
	write := "UPDATE " + table(r.Schema, "stress_probe") + " SET n = n + 1"
	for wait(ctx, 50*time.Millisecond) {
		began := time.Now()
		_, err := r.pool.Exec(ctx, write)
		if took := time.Since(began); took > r.TTL/10 {
			r.journal.Add(history.Record{Step: history.Slow, N: int64(took)})
			r.say("the machine is slow: a write took %.1f s", took.Seconds())
		} else if err != nil && ctx.Err() == nil {
			r.fail(err)
			return
		}
	}
}
