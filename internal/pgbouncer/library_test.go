//go:build pgbouncer

package pgbouncer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq"
	"github.com/bearmq/bearmq/internal/invariant"
	"github.com/bearmq/bearmq/internal/pgtest"
)

var (
	plain   = bearmq.Define(bearmq.Spec[int]{Name: "plain", Attempts: 2, Backoff: bearmq.Constant(100 * time.Millisecond)})
	grouped = bearmq.Define(bearmq.Spec[int]{Name: "grouped", Group: func(n int) string { return fmt.Sprintf("g%d", n%3) },
		Attempts: 2, Backoff: bearmq.Constant(100 * time.Millisecond), GroupOrder: bearmq.Strict})
	inTx   = bearmq.Define(bearmq.Spec[int]{Name: "in a transaction"})
	dying  = bearmq.Define(bearmq.Spec[int]{Name: "dying"})
	long   = bearmq.Define(bearmq.Spec[int]{Name: "long"})
	ticked = bearmq.Define(bearmq.Spec[string]{Name: "ticked"})
)

// ttl is short, and long enough for a machine that is busy.
const ttl = 6 * time.Second

// An application is some processes on one schema, and what they have done.
type application struct {
	*testing.T
	schema string
	direct *pgxpool.Pool // past the pooler
	dies   chan struct{} // has a word once a job named dying has started

	mu     sync.Mutex
	done   map[string]int // completed attempts by name and payload
	order  map[int][]int  // of grouped, by group
	failed map[string]bool
	events []bearmq.DaemonFailing
}

func newApplication(t *testing.T) *application {
	return &application{T: t, direct: pgtest.DB(t), schema: pgtest.Schema(t), dies: make(chan struct{}, 1), done: map[string]int{}, order: map[int][]int{}, failed: map[string]bool{}}
}

// process is one more process of the application, with a pool of its own through the pooler.
func (a *application) process(url string) (*pgxpool.Pool, *bearmq.Context) {
	a.Helper()
	pool, err := pgxpool.New(a.Context(), url+"&pool_max_conns=6")
	require.NoError(a, err)
	a.Cleanup(pool.Close)
	mq, err := bearmq.New(pool, bearmq.Options{Schema: a.schema, SessionTTL: ttl})
	require.NoError(a, err)
	mq.AddEventHandler(func(e bearmq.Event) {
		if failing, ok := e.(bearmq.DaemonFailing); ok {
			a.mu.Lock()
			a.events = append(a.events, failing)
			a.mu.Unlock()
		}
	})
	note := func(name string, payload any, group func()) error {
		a.mu.Lock()
		defer a.mu.Unlock()
		key := fmt.Sprint(name, " ", payload)
		if n, ok := payload.(int); ok && n%10 == 3 && !a.failed[key] {
			a.failed[key] = true
			return errors.New("on purpose")
		}
		a.done[key]++
		if group != nil {
			group()
		}
		return nil
	}
	require.NoError(a, mq.Register(
		plain.Handle(func(_ context.Context, job *bearmq.Job[int]) error {
			return note(job.Name, job.Payload, nil)
		}),
		grouped.Handle(func(_ context.Context, job *bearmq.Job[int]) error {
			return note(job.Name, job.Payload, func() { a.order[job.Payload%3] = append(a.order[job.Payload%3], job.Payload) })
		}),
		inTx.Handle(func(ctx context.Context, job *bearmq.Job[int]) error {
			return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, "INSERT INTO "+pgx.Identifier{a.schema, "effect"}.Sanitize()+" VALUES ($1)", job.Payload); err != nil {
					return err
				}
				return job.CompleteTx(ctx, tx)
			})
		}),
		dying.Handle(func(ctx context.Context, job *bearmq.Job[int]) error {
			select {
			case a.dies <- struct{}{}: // for the first time
				<-ctx.Done()
				return context.Cause(ctx)
			default:
				return note(job.Name, 0, nil)
			}
		}),
		long.Handle(func(ctx context.Context, job *bearmq.Job[int]) error {
			select { // longer than its session lives without being renewed
			case <-time.After(ttl + time.Second):
				return note(job.Name, 0, nil)
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}),
		ticked.Handle(func(_ context.Context, job *bearmq.Job[string]) error {
			return note(job.Name, job.Payload, nil)
		}),
		ticked.RepeatWith(bearmq.Every(time.Second), func(time.Time) string { return "tick" }),
	))
	return pool, mq
}

// run runs daemons until the test stops them.
func (a *application) run(daemons ...bearmq.Daemon) (stop func()) {
	ctx, cancel := context.WithCancel(a.Context())
	ended := make(chan error, 1)
	go func() { ended <- bearmq.Run(ctx, daemons...) }()
	stop = sync.OnceFunc(func() {
		cancel()
		assert.NoError(a, <-ended)
	})
	a.Cleanup(stop)
	return stop
}

// open counts the jobs that are not over.
func (a *application) open() (n int) {
	a.Helper()
	require.NoError(a, a.direct.QueryRow(a.Context(), "SELECT count(*) FROM "+pgx.Identifier{a.schema, "job_state"}.Sanitize()+" WHERE finished_at IS NULL AND name <> 'ticked'").Scan(&n))
	return n
}

func upTo(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

// In every mode of pgx that needs no prepared statements all of the library works, and nothing fails on the way but LISTEN.
func TestEverythingWorksThroughAPoolerInTransactionMode(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"cache_describe", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			a := newApplication(t)
			url := start(t, "transaction").url(mode)
			pool, producer := a.process(url)
			require.NoError(t, producer.Migrate(ctx))
			require.NoError(t, producer.Migrate(ctx), "again")
			require.NoError(t, producer.CheckSchema(ctx))
			_, err := a.direct.Exec(ctx, "CREATE TABLE "+pgx.Identifier{a.schema, "effect"}.Sanitize()+" (n integer)")
			require.NoError(t, err)

			// Two workers with an orchestrator each, in processes of their own.
			var stops []func()
			for range 2 {
				_, mq := a.process(url)
				stop := a.run(bearmq.NewWorker(mq, bearmq.WorkerOptions{Concurrency: 20, PollInterval: 100 * time.Millisecond}),
					bearmq.NewOrchestrator(mq, bearmq.OrchestratorOptions{SchedulePoll: 200 * time.Millisecond, RecoverPoll: 200 * time.Millisecond, CleanPoll: 200 * time.Millisecond}))
				stops = append(stops, stop)
			}

			// A worker that loses its session, and with it a job.
			_, err = dying.Enqueue(ctx, producer, 0)
			require.NoError(t, err)
			require.Eventually(t, func() bool { return len(a.dies) == 1 }, patience, 10*time.Millisecond, "no worker has started the job")
			_, err = a.direct.Exec(ctx, "UPDATE "+pgx.Identifier{a.schema, "session"}.Sanitize()+" SET expires_at = clock_timestamp(), dead = true")
			require.NoError(t, err)
			require.Eventually(t, func() bool { return a.open() == 0 }, patience, 50*time.Millisecond)

			want := map[string]int{"long 0": 1, "dying 0": 1}
			_, err = long.Enqueue(ctx, producer, 0)
			require.NoError(t, err)
			n := 0
			next := func(k int) (list []int) {
				for range k {
					want[fmt.Sprint("plain ", n)], want[fmt.Sprint("grouped ", n)] = 1, 1
					list = append(list, n)
					n++
				}
				return list
			}
			// In every way there is to enqueue, each job without and with a group.
			for _, d := range []*bearmq.JobDefinition[int]{plain, grouped} {
				n = 0
				_, err = d.Enqueue(ctx, producer, next(1)[0])
				require.NoError(t, err)
				_, err = d.Enqueue(ctx, producer, next(1)[0], bearmq.InChannel("new"), bearmq.Attempts(3), bearmq.WithTimeout(time.Minute))
				require.NoError(t, err)
				_, err = d.EnqueueMany(ctx, producer, next(10))
				require.NoError(t, err)
				_, err = d.EnqueueMany(ctx, producer, next(500)) // by COPY
				require.NoError(t, err)
				_, err = d.EnqueueSeq(ctx, producer, slices.Values(next(100)))
				require.NoError(t, err)
				_, err = producer.EnqueueBatch(ctx, d.Job(next(1)[0]), d.Job(next(1)[0]))
				require.NoError(t, err)
				payload := next(1)[0]
				var options []bearmq.EnqueueOption
				if d == grouped {
					options = append(options, bearmq.InGroup(fmt.Sprintf("g%d", payload%3)))
				}
				_, err = producer.EnqueueRaw(ctx, d.Name(), json.RawMessage(fmt.Sprint(payload)), options...)
				require.NoError(t, err)
				require.NoError(t, pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
					_, err1 := d.Enqueue(ctx, producer.In(tx), next(1)[0])
					_, err2 := d.EnqueueMany(ctx, producer.In(tx), next(200))
					err3 := pgx.BeginFunc(ctx, tx, func(savepoint pgx.Tx) error {
						_, err := d.Enqueue(ctx, producer.In(savepoint), next(1)[0])
						return err
					})
					return errors.Join(err1, err2, err3)
				}))
				tx, err := pool.Begin(ctx)
				require.NoError(t, err)
				_, err = d.EnqueueMany(ctx, producer.In(tx), upTo(100))
				require.NoError(t, err)
				require.NoError(t, tx.Rollback(ctx))
			}
			_, err = plain.Enqueue(ctx, producer, next(1)[0], bearmq.Delay(300*time.Millisecond))
			require.NoError(t, err)
			delete(want, fmt.Sprint("grouped ", n-1))
			_, err = plain.EnqueueMany(ctx, producer, next(100), bearmq.Delay(300*time.Millisecond))
			require.NoError(t, err)
			for i := range 100 {
				delete(want, fmt.Sprint("grouped ", n-1-i))
			}
			_, err = inTx.EnqueueMany(ctx, producer, upTo(50))
			require.NoError(t, err)
			require.NoError(t, producer.Pause(ctx, "new"))
			require.NoError(t, producer.Resume(ctx, "new"))

			require.Eventually(t, func() bool { return a.open() == 0 }, 2*patience, 50*time.Millisecond)
			require.Eventually(t, func() bool { a.mu.Lock(); defer a.mu.Unlock(); return a.done["ticked tick"] >= 2 }, patience, 50*time.Millisecond)
			a.mu.Lock()
			delete(a.done, "ticked tick")
			require.Equal(t, want, a.done)
			for group, ran := range a.order {
				ran = slices.DeleteFunc(ran, func(n int) bool { return n == 1 }) // of another channel
				require.True(t, slices.IsSorted(ran), "group %d: %v", group, ran)
			}
			for _, e := range a.events {
				assert.Equal(t, "listen", e.Loop, "%v", e.Err)
				assert.ErrorContains(t, e.Err, "no notification arrives")
			}
			a.mu.Unlock()
			var effects, times, asleep int
			schema := pgx.Identifier{a.schema}.Sanitize()
			require.NoError(t, a.direct.QueryRow(ctx, "SELECT count(*), count(DISTINCT n), (SELECT count(*) FROM "+schema+".sleeper) FROM "+schema+".effect").Scan(&times, &effects, &asleep))
			require.Equal(t, []int{50, 50}, []int{times, effects})
			require.Zero(t, asleep, "nobody asks for notifications that do not arrive")
			for _, stop := range stops {
				stop()
			}
			require.NoError(t, invariant.Check(ctx, a.direct, a.schema))
		})
	}
}

// What pgx does by itself fails now and then behind such a pooler. So it is refused, with advice, before anything runs.
func TestPreparedStatementsAreRefused(t *testing.T) {
	t.Parallel()
	a := newApplication(t)
	_, setup := a.process(pgtest.URL(t) + "&application_name=setup")
	require.NoError(t, setup.Migrate(t.Context()))
	url := start(t, "transaction").url("cache_statement")
	_, mq := a.process(url)
	for name, daemon := range map[string]bearmq.Daemon{
		"worker":       bearmq.NewWorker(mq, bearmq.WorkerOptions{}),
		"orchestrator": bearmq.NewOrchestrator(mq, bearmq.OrchestratorOptions{}),
	} {
		err := daemon.Run(t.Context())
		require.ErrorIs(t, err, bearmq.ErrPooler, name)
		require.ErrorContains(t, err, "default_query_exec_mode=cache_describe")
	}
	require.ErrorIs(t, mq.CheckSchema(t.Context()), bearmq.ErrPooler)
	// A producer has no start. Sooner or later it is told too.
	var err error
	for i := 0; i < 100 && err == nil; i++ {
		_, other := a.process(url)
		_, err = plain.Enqueue(t.Context(), other, i)
	}
	require.ErrorIs(t, err, bearmq.ErrPooler)
}

// A pooler in session mode changes nothing: prepared statements work, and so do notifications.
func TestASessionPoolerIsAsGoodAsNone(t *testing.T) {
	t.Parallel()
	a := newApplication(t)
	url := start(t, "session").url("cache_statement")
	_, producer := a.process(url)
	require.NoError(t, producer.Migrate(t.Context()))
	_, mq := a.process(url)
	a.run(bearmq.NewWorker(mq, bearmq.WorkerOptions{PollInterval: time.Hour}))
	for i := range 3 {
		require.Eventually(t, func() bool {
			var n int
			err := a.direct.QueryRow(t.Context(), "SELECT count(*) FROM "+pgx.Identifier{a.schema, "sleeper"}.Sanitize()).Scan(&n)
			return err == nil && n == 1
		}, patience, 10*time.Millisecond, "it asks to be notified")
		_, err := plain.Enqueue(t.Context(), producer, i)
		require.NoError(t, err)
		require.Eventually(t, func() bool { return a.open() == 0 }, patience, 10*time.Millisecond)
	}
	require.Empty(t, a.events)
}
