package bearmq

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/invariant"
	"github.com/bearmq/bearmq/internal/pgtest"
)

// Helpers of the tests that run jobs.

// patience is how long a test waits for something that is to happen at once.
// The machine may be busy with other tests.
const patience = 30 * time.Second

// quiet is migrated, without logs of what a test provokes. When all daemons of
// the test have ended, the tables must fit together.
func quiet(t *testing.T, opts Options) *Context {
	t.Helper()
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	mq := migrated(t, opts)
	t.Cleanup(func() {
		if !t.Failed() {
			assert.NoError(t, invariant.Check(context.Background(), mq.pool, mq.opts.Schema))
		}
	})
	return mq
}

// leaves is for a test whose workers leave jobs behind, as processes do that
// die: at its end they are recovered.
func leaves(t *testing.T, mq *Context) {
	t.Helper()
	t.Cleanup(func() {
		ctx := context.Background()
		_, err := mq.pool.Exec(ctx, inSchema(mq, dead))
		assert.NoError(t, err)
		_, err = (&recoverer{daemon: &daemon{mq: mq, name: "test"}, every: time.Second}).tick(ctx)
		assert.NoError(t, err)
	})
}

// dead makes the database think all sessions dead, as if they had been silent
// for longer than their TTL: also that which recovery waits for after the
// start of the server.
const dead = "UPDATE bearmq.session SET ttl = '1 us', expires_at = clock_timestamp(), dead = true WHERE NOT dead"

// sibling is another process: a Context of its own in the schema of mq.
func sibling(t *testing.T, mq *Context) *Context {
	t.Helper()
	opts := mq.opts
	other, err := New(pgtest.DB(t), opts)
	require.NoError(t, err)
	return other
}

// inSchema puts the test's schema into a text written for "bearmq".
func inSchema(mq *Context, sql string) string {
	return strings.ReplaceAll(sql, "bearmq.", pgx.Identifier{mq.opts.Schema}.Sanitize()+".")
}

func exec(t *testing.T, mq *Context, sql string, args ...any) int64 {
	t.Helper()
	tag, err := mq.pool.Exec(t.Context(), inSchema(mq, sql), args...)
	require.NoError(t, err)
	return tag.RowsAffected()
}

// column is the one column of a query.
func column[T any](t *testing.T, mq *Context, sql string, args ...any) []T {
	t.Helper()
	rows, err := mq.pool.Query(t.Context(), inSchema(mq, sql), args...)
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(t, err)
	return all
}

// value is the one value of a query.
func value[T any](t *testing.T, mq *Context, sql string, args ...any) T {
	t.Helper()
	all := column[T](t, mq, sql, args...)
	require.Len(t, all, 1)
	return all[0]
}

// A record is a job as job_state has it.
type record struct {
	State            State
	Attempt, Losses  int
	Wait             *float64 // seconds until it is due
	Error            *string
	Finished, Result bool
}

func recordOf(t *testing.T, mq *Context, id JobID) record {
	t.Helper()
	rows, err := mq.pool.Query(t.Context(), inSchema(mq, `SELECT state, attempt::int, losses::int,
		extract(epoch FROM run_at - clock_timestamp())::float8, error, finished_at IS NOT NULL, result IS NOT NULL FROM bearmq.job_state WHERE id = $1`), id)
	require.NoError(t, err)
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[record])
	require.NoError(t, err)
	return r
}

// attemptErrors are the stored errors of a job, by attempt.
func attemptErrors(t *testing.T, mq *Context, id JobID) []string {
	t.Helper()
	return column[string](t, mq, "SELECT attempt || ' ' || error FROM bearmq.attempt_error WHERE job_id = $1 ORDER BY attempt", id)
}

// until waits for a condition of the database.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, patience, 5*time.Millisecond, what)
}

// soon is what a channel brings.
func soon[T any](t *testing.T, what string, from <-chan T) (v T) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case v = <-from:
	case <-timer.C:
		require.Fail(t, "waited in vain", what)
	}
	return v
}

// A recorder keeps the events of a Context.
type recorder struct {
	mu     sync.Mutex
	events []Event
	more   chan struct{} // closed with the next event
}

func listen(t *testing.T, mq *Context) *recorder {
	t.Helper()
	r := &recorder{more: make(chan struct{})}
	t.Cleanup(mq.AddEventHandler(func(e Event) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.events = append(r.events, e)
		close(r.more)
		r.more = make(chan struct{})
	}))
	return r
}

func (r *recorder) all() ([]Event, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events), r.more
}

// seen are the events of a type so far.
func seen[E Event](r *recorder) []E {
	var found []E
	all, _ := r.all()
	for _, e := range all {
		if e, ok := e.(E); ok {
			found = append(found, e)
		}
	}
	return found
}

// await waits for n events of a type.
func await[E Event](t *testing.T, r *recorder, n int) []E {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		_, more := r.all()
		if found := seen[E](r); len(found) >= n {
			return found
		}
		select {
		case <-more:
		case <-timer.C:
			all, _ := r.all()
			var kinds []string
			for _, e := range all {
				kinds = append(kinds, fmt.Sprintf("%s %d", e.Kind(), e.Common().JobID))
			}
			var wanted E
			require.Failf(t, "waited in vain", "for %d %s; there came %v", n, wanted.Kind(), kinds)
		}
	}
}

// A running is a daemon that runs.
type running struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// launch runs a daemon until the test ends, or stop.
func launch(t *testing.T, d Daemon) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.err = d.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		soon(t, "the daemon's end", r.done)
	})
	return r
}

// work runs a worker.
func work(t *testing.T, mq *Context, opts WorkerOptions) *running {
	t.Helper()
	return launch(t, NewWorker(mq, opts))
}

// stop ends a daemon and is what it returned.
func (r *running) stop(t *testing.T) error {
	t.Helper()
	r.cancel()
	soon(t, "the daemon's end", r.done)
	return r.err
}

// drain runs all that is runnable.
func drain(t *testing.T, mq *Context, opts WorkerOptions) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, NewWorker(mq, opts).Drain(ctx))
	require.NoError(t, ctx.Err(), "the worker did not drain")
}

// handled registers a handler.
func handled[T any](t *testing.T, mq *Context, d *JobDefinition[T], fn func(context.Context, *Job[T]) error) {
	t.Helper()
	require.NoError(t, mq.Register(d.Handle(fn)))
}

// enqueued enqueues a job.
func enqueued[T any](t *testing.T, to Enqueuer, d *JobDefinition[T], payload T, opts ...EnqueueOption) JobID {
	t.Helper()
	id, err := d.Enqueue(t.Context(), to, payload, opts...)
	require.NoError(t, err)
	return id
}

// A notebook is what handlers write down.
type notebook[T any] struct {
	mu    sync.Mutex
	notes []T
}

func (n *notebook[T]) add(note T) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.notes = append(n.notes, note)
}

func (n *notebook[T]) all() []T {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.notes)
}

// upTo are the numbers below n.
func upTo(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// The options of a worker, and what Run refuses.

func TestRunRefusesInvalidOptions(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	long := strings.Repeat("x", maxName+1)
	for field, refused := range map[string][]Daemon{
		"Name":         {NewWorker(mq, WorkerOptions{Name: long}), NewOrchestrator(mq, OrchestratorOptions{Name: "\x00"})},
		"Channels":     {NewWorker(mq, WorkerOptions{Channels: []string{"a", ""}}), NewWorker(mq, WorkerOptions{Channels: []string{long}})},
		"Concurrency":  {NewWorker(mq, WorkerOptions{Concurrency: -1}), NewWorker(mq, WorkerOptions{Concurrency: 100_001})},
		"PerJob":       {NewWorker(mq, WorkerOptions{PerJob: map[string]int{"a": 0}}), NewWorker(mq, WorkerOptions{PerJob: map[string]int{"": 1}})},
		"PollInterval": {NewWorker(mq, WorkerOptions{PollInterval: time.Millisecond}), NewWorker(mq, WorkerOptions{PollInterval: 2 * time.Hour})},
		"StopGrace":    {NewWorker(mq, WorkerOptions{StopGrace: -1}), NewWorker(mq, WorkerOptions{StopGrace: 25 * time.Hour})},
		"SchedulePoll": {NewOrchestrator(mq, OrchestratorOptions{SchedulePoll: -1}), NewOrchestrator(mq, OrchestratorOptions{SchedulePoll: 2 * time.Hour})},
		"RecoverPoll":  {NewOrchestrator(mq, OrchestratorOptions{RecoverPoll: time.Millisecond})},
		"CleanPoll":    {NewOrchestrator(mq, OrchestratorOptions{CleanPoll: 2 * time.Hour})},

		"LongTransaction": {NewOrchestrator(mq, OrchestratorOptions{LongTransaction: -1}), NewOrchestrator(mq, OrchestratorOptions{LongTransaction: 25 * time.Hour})},
	} {
		for _, d := range refused {
			requireRefused(t, d.Run(t.Context()), field)
		}
	}
	// One that cannot start takes the others down, and Run says why.
	requireRefused(t, Run(t.Context(), NewWorker(mq, WorkerOptions{}), NewOrchestrator(mq, OrchestratorOptions{CleanPoll: -1})), "CleanPoll")
}

func TestRunNeedsAMigratedSchema(t *testing.T) {
	t.Parallel()
	mq, err := New(pgtest.DB(t), Options{Schema: pgtest.Schema(t), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	for _, d := range []Daemon{NewWorker(mq, WorkerOptions{}), NewOrchestrator(mq, OrchestratorOptions{})} {
		require.ErrorIs(t, d.Run(t.Context()), ErrNotMigrated)
	}
	require.ErrorIs(t, NewWorker(mq, WorkerOptions{}).Drain(t.Context()), ErrNotMigrated)
}

func TestRunTwiceAtOnceIsRefused(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	events := listen(t, mq)
	for _, d := range []Daemon{NewWorker(mq, WorkerOptions{}), NewOrchestrator(mq, OrchestratorOptions{})} {
		before := len(seen[DaemonStarted](events))
		r := launch(t, d)
		await[DaemonStarted](t, events, before+1)
		require.ErrorContains(t, d.Run(t.Context()), "runs already")
		require.NoError(t, r.stop(t))
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, d.Run(ended), "once it has ended it may run again")
	}
}

func TestDrainRunsWhatIsRunnable(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	var ran []int
	job := Define(Spec[int]{Name: "j", Group: func(int) string { return "g" }})
	handled(t, mq, job, func(_ context.Context, j *Job[int]) error { ran = append(ran, j.Payload); return nil })
	later := enqueued(t, mq, job, 0, Delay(time.Hour))
	unknown, err := mq.EnqueueRaw(t.Context(), "unknown", []byte("{}"))
	require.NoError(t, err)
	_, err = job.EnqueueMany(t.Context(), mq, upTo(1000))
	require.NoError(t, err)
	drain(t, mq, WorkerOptions{})
	require.Equal(t, upTo(1000), ran)
	assert.Equal(t, StateScheduled, recordOf(t, mq, later).State)
	assert.Equal(t, StateParked, recordOf(t, mq, unknown).State)
}

// The values of Run's context are those of the handler's.
func TestHandlersSeeTheValuesOfRunsContext(t *testing.T) {
	t.Parallel()
	type key struct{}
	mq := quiet(t, Options{})
	got := make(chan any, 1)
	handled(t, mq, numbers, func(ctx context.Context, _ *Job[int]) error { got <- ctx.Value(key{}); return nil })
	enqueued(t, mq, numbers, 1)
	ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, "v"), patience)
	defer cancel()
	require.NoError(t, NewWorker(mq, WorkerOptions{}).Drain(ctx))
	require.Equal(t, "v", soon(t, "the handler", got))
}

// The concurrency is kept, and used.
func TestConcurrencyIsNeverExceeded(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	var mu sync.Mutex
	now, most := 0, 0
	full := make(chan struct{})
	handled(t, mq, numbers, func(ctx context.Context, _ *Job[int]) error {
		mu.Lock()
		now++
		if most = max(most, now); most == 7 && now == 7 {
			select {
			case <-full:
			default:
				close(full)
			}
		}
		mu.Unlock()
		<-full // nobody ends before all seven slots are in use
		mu.Lock()
		now--
		mu.Unlock()
		return nil
	})
	_, err := numbers.EnqueueMany(t.Context(), mq, upTo(500))
	require.NoError(t, err)
	drain(t, mq, WorkerOptions{Concurrency: 7})
	require.Equal(t, 7, most)
}
