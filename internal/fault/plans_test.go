//go:build fault && unix

package fault

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq"
)

// They measure, so each runs by itself.
var planRows = []row{
	{24, "a snapshot is held", true, heldSnapshot},
	{25, "nobody vacuums", true, noVacuum},
	{26, "many rows, no statistics, and a long queue of one group in front", true, noStatistics},
	{27, "as many groups as jobs", true, manyGroups},
}

// A stopwatch takes the times of a process's claims.
type stopwatch struct {
	mu    sync.Mutex
	times []time.Duration // in order
}

type startKey struct{}

func isClaim(sql string) bool {
	return strings.Contains(sql, "claim_log_v1") || strings.Contains(sql, "claim_due_v1")
}

func (w *stopwatch) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if !isClaim(data.SQL) {
		return ctx
	}
	return context.WithValue(ctx, startKey{}, time.Now())
}

func (w *stopwatch) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryEndData) {
	if began, is := ctx.Value(startKey{}).(time.Time); is {
		w.mu.Lock()
		w.times = append(w.times, time.Since(began))
		w.mu.Unlock()
	}
}

// watched is what a process notes at its end.
type watched struct {
	Claims []time.Duration // how long they took, in order
	Memory uint64          // bytes that it had from the system, at most
}

// all are the times so far, in order.
func (w *stopwatch) all() []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.times)
}

// quantile of some times.
func quantile(times []time.Duration, q float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(times))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/1e6) }

// rarely asks what takes the server some time, and would slow down what is
// measured.
func rarely(s *scenario, question func() bool) bool {
	return !wait(s.Context(), 200*time.Millisecond) || question()
}

// Row 24. While somebody holds a snapshot, a stream of jobs keeps at least 0.8 of
// its throughput. The machine has other things to do, so two streams run side by
// side, in two databases of a server: a snapshot holds back only its own. A
// warning names the session, and a prepared transaction.
func heldSnapshot(t *testing.T) {
	held := beginAlone(t, map[string]string{"shared_buffers": "128MB", "max_prepared_transactions": "1"})
	held.exec("CREATE DATABASE free")
	url, err := pgx.ParseConfig(held.url)
	require.NoError(t, err)
	free := prepare(t, held.server, fmt.Sprintf("postgres://postgres@127.0.0.1:%d/free?sslmode=disable", url.Port), "free")
	streams := []*stream{begun(held), begun(free)}
	// rates are jobs a second of both while d passes.
	rates := func(d time.Duration) (rates [2]float64) {
		began := time.Now()
		for i, st := range streams {
			rates[i] = -float64(st.done.Load())
		}
		wait(t.Context(), d)
		for i, st := range streams {
			rates[i] = (rates[i] + float64(st.done.Load())) / time.Since(began).Seconds()
		}
		return rates
	}
	rates(time.Second) // warm up
	before := rates(2 * time.Second)
	tx, err := held.pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), held.sql("SELECT count(*) FROM bearmq.lane"))
	require.NoError(t, err)
	length := 6 * time.Second
	if long {
		length = 10 * time.Minute
	}
	rates(length / 2) // it has little to suffer from yet
	during := rates(length / 2)
	warned := told(string(bearmq.KindDatabaseWarned))
	held.await(patience, "the session is named", warned, saying(fmt.Sprintf("pg_terminate_backend(%d)", tx.Conn().PgConn().PID())))
	require.NoError(t, tx.Rollback(t.Context()))
	held.exec("BEGIN; SELECT 1; PREPARE TRANSACTION 'forgotten'")
	held.await(patience, "the prepared transaction is named", warned, saying("ROLLBACK PREPARED 'forgotten'"))
	held.exec("ROLLBACK PREPARED 'forgotten'")
	for _, st := range streams {
		st.end()
	}
	free.drained()
	held.settled()
	assert.Empty(t, free.find(warned))
	t.Logf("jobs a second of two streams: %.0f and %.0f; while the first has a snapshot held, in the second half of %v: %.0f and %.0f (%.2f)",
		before[0], before[1], length, during[0], during[1], during[0]/during[1])
	assert.GreaterOrEqual(t, during[0]/during[1], 0.8)
}

// A stream enqueues and runs jobs as fast as it can, with few of them waiting.
type stream struct {
	*scenario
	done atomic.Int64
	quit context.CancelFunc
	over chan error
}

func begun(s *scenario) *stream {
	s.Helper()
	ctx, cancel := context.WithCancel(s.Context())
	st := &stream{scenario: s, quit: cancel, over: make(chan error, 1)}
	s.inside("orchestrator", orchestrator)
	s.inside("worker", worker, silent, func(r *role) {
		r.Concurrency = 100
		r.deed = func(context.Context, *hands, *bearmq.Job[task]) error { st.done.Add(1); return nil }
	})
	producer := s.client("producer", nil)
	go func() {
		var enqueued int64
		for ctx.Err() == nil {
			if enqueued-st.done.Load() > 2000 {
				wait(ctx, time.Millisecond)
				continue
			}
			many := make([]task, 500)
			for i := range many {
				many[i] = s.fill(task{Group: []string{"", "", "", fmt.Sprint("g", i%50)}[i%4]})
			}
			if _, err := work.EnqueueMany(s.Context(), producer, many); err != nil {
				st.over <- err
				return
			}
			enqueued += int64(len(many))
		}
		st.over <- nil
	}()
	return st
}

func (st *stream) end() {
	st.Helper()
	st.quit()
	require.NoError(st, <-st.over)
}

// unvacuumed keeps PostgreSQL from vacuuming and analyzing the scenario's tables.
func (s *scenario) unvacuumed() {
	s.Helper()
	for _, table := range s.tables() {
		s.exec(`ALTER TABLE bearmq."` + table + `" SET (autovacuum_enabled = off)`)
	}
}

// Row 25. Where nobody vacuums, a churn of jobs with retries, groups and delays
// drains all the same, and Health tells how many dead rows it leaves.
func noVacuum(t *testing.T) {
	s := begin(t)
	s.unvacuumed()
	n := size(20_000, 1_000_000)
	began := time.Now()
	s.inside("orchestrator", orchestrator)
	s.inside("worker", worker, silent, func(r *role) {
		r.Concurrency = 100
		r.deed = func(_ context.Context, _ *hands, job *bearmq.Job[task]) error {
			if job.Payload.Do == "fail once" && job.Attempt == 1 {
				return bearmq.RetryAfter(0, fmt.Errorf("once"))
			}
			return nil
		}
	})
	for made := 0; made < n; made += 10_000 {
		many := make([]task, 10_000)
		for i := range many {
			many[i] = s.fill(task{Do: []string{"", "", "fail once"}[i%3], Group: []string{"", fmt.Sprint("g", i%500)}[i%2]})
		}
		ids, err := work.EnqueueMany(s.Context(), s.mq, many, bearmq.Attempts(2))
		require.NoError(s, err)
		s.ack(ids...)
	}
	s.within(drainTime+time.Duration(n/2000)*time.Second, "it drains", func() bool {
		return rarely(s, func() bool { return value[int](s, `SELECT count(*) FROM bearmq.outcome`) == n })
	})
	took := time.Since(began)
	s.settled()
	var dead int64
	s.within(patience, "the dead rows are reported", func() bool {
		health, err := s.mq.Health(s.Context())
		require.NoError(s, err)
		dead = health.DeadRows
		return dead > int64(n)/10
	})
	s.Logf("%d jobs in %s (%.0f/s), %d dead rows", n, seconds(took), float64(n)/took.Seconds(), dead)
}

// A node is one of a plan, as EXPLAIN's JSON has it.
type node struct {
	Type     string  `json:"Node Type"`
	Relation string  `json:"Relation Name"`
	Rows     float64 `json:"Actual Rows"`
	Removed  float64 `json:"Rows Removed by Filter"`
	Loops    float64 `json:"Actual Loops"`
	Plans    []node
}

func (n *node) walk(visit func(*node)) {
	visit(n)
	for i := range n.Plans {
		n.Plans[i].walk(visit)
	}
}

// A planReader reads the plans of everything that a process's connections do,
// those inside functions included.
type planReader struct {
	mu       sync.Mutex
	plans    int
	most     float64 // rows that one statement has read
	mostText string
	bad      []string // sequential scans
	errs     []error
}

// large are the tables that grow with the load.
var large = regexp.MustCompile(`^(job|ticket|outcome|job_group|group_anchor|attempt_error)$`)

func (p *planReader) read(_ *pgconn.PgConn, notice *pgconn.Notice) {
	_, text, is := strings.Cut(notice.Message, "plan:\n")
	if !is {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var one struct {
		Text string `json:"Query Text"`
		Plan node
	}
	if err := json.Unmarshal([]byte(text), &one); err != nil {
		p.errs = append(p.errs, err)
		return
	}
	p.plans++
	var rows float64
	one.Plan.walk(func(n *node) {
		if !large.MatchString(n.Relation) || n.Type == "ModifyTable" {
			return
		}
		rows += (n.Rows + n.Removed) * n.Loops
		if n.Type == "Seq Scan" {
			p.bad = append(p.bad, n.Relation+" in "+one.Text)
		}
	})
	if rows > p.most {
		p.most, p.mostText = rows, one.Text
	}
}

func (p *planReader) listen(r *role) {
	r.configure = func(config *pgxpool.Config) {
		config.ConnConfig.OnNotice = p.read
		config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, `LOAD 'auto_explain'; SET auto_explain.log_nested_statements = on; SET auto_explain.log_analyze = on;
				SET auto_explain.log_timing = off; SET auto_explain.log_format = json; SET auto_explain.log_min_duration = 0; SET client_min_messages = log`)
			return err
		}
	}
}

// Row 26. Many rows that nobody has analyzed, and a tenth of them of one group in
// front, whose first job is running: no statement reads a table from end to end,
// none touches more rows than a claim takes, and claims stay fast.
func noStatistics(t *testing.T) {
	s := beginAlone(t, map[string]string{"autovacuum": "off", "shared_buffers": "128MB"})
	n := size(30_000, 1_000_000)
	s.bulk(n/10, func(i int) task { return task{Group: "hot", Do: []string{"", "wait at the gate"}[max(0, 1-i)]} })
	s.bulk(n-n/10, func(i int) task {
		return task{Do: "sleep", For: 5 * time.Millisecond, Group: []string{"", "", "", fmt.Sprint("g", i)}[i%4]}
	})
	s.inside("orchestrator", orchestrator)
	left := func() int {
		return n - value[int](s, `SELECT count(*) FROM bearmq.outcome`)
	}
	var plans planReader
	p := s.inside("plans", worker, silent, func(r *role) { r.Concurrency, r.Grace = 50, 100*time.Millisecond; plans.listen(r) })
	s.within(drainTime, "some are done", func() bool { return left() < n-2000 })
	p.cancel() // the first of the hot group waits at its gate, and is handed back
	<-p.over
	require.NoError(s, p.err)
	var watch stopwatch
	control := s.control()
	began, before := time.Now(), left()
	s.inside("worker", worker, silent, func(r *role) {
		r.Concurrency = 50
		r.configure = func(config *pgxpool.Config) { config.ConnConfig.Tracer = &watch }
	})
	s.within(drainTime+time.Duration(n/2000)*time.Second, "all but the hot group are done", func() bool { return rarely(s, func() bool { return left() <= n/10 }) })
	behind := watch.all()
	rate := float64(before-left()) / time.Since(began).Seconds()
	s.letThrough("hot")
	s.within(drainTime+time.Duration(n/2000)*time.Second, "the hot group is done", func() bool { return rarely(s, func() bool { return left() == 0 }) })
	s.settled()
	hot, usual := watch.all()[len(behind):], control()
	limit := 50*time.Millisecond + 2*quantile(usual, 0.99)
	require.Empty(s, plans.errs)
	require.NotZero(s, plans.plans)
	assert.Empty(s, plans.bad, "tables read from end to end")
	assert.Less(s, plans.most, 10_000.0, "rows touched by one statement: %s", plans.mostText)
	assert.Less(s, quantile(behind, 0.99), limit)
	assert.Less(s, quantile(hot, 0.99), limit)
	s.Logf("%d jobs, %d of one group in front: %d plans, %.0f rows at most; claims p50 %s, p99 %s, %.0f jobs/s; of the hot group p99 %s; the control p50 %s, p99 %s",
		n, n/10, plans.plans, plans.most, ms(quantile(behind, 0.5)), ms(quantile(behind, 0.99)), rate, ms(quantile(hot, 0.99)), ms(quantile(usual, 0.5)), ms(quantile(usual, 0.99)))
}

// control takes the times of a statement that needs a few milliseconds and a
// commit, for as long as something else is measured: what is slow for it is the
// machine, which has other things to do.
func (s *scenario) control() (end func() []time.Duration) {
	ctx, cancel := context.WithCancel(s.Context())
	s.Cleanup(cancel)
	result := make(chan []time.Duration, 1)
	go func() {
		var times []time.Duration
		for wait(ctx, 20*time.Millisecond) {
			began := time.Now()
			if _, err := s.pool.Exec(context.WithoutCancel(ctx), s.sql(`INSERT INTO bearmq.fault_effect SELECT 0, count(*) FROM generate_series(1, 20000)`)); err == nil {
				times = append(times, time.Since(began))
			}
		}
		result <- times
	}()
	return func() []time.Duration {
		cancel()
		return <-result
	}
}

// Row 27. With a group for each job, claims at the end take as long as at the
// beginning, the worker's memory stays small, and the groups' rows are collected.
func manyGroups(t *testing.T) {
	s := begin(t)
	n := size(30_000, 1_000_000)
	s.bulk(n, func(i int) task { return task{Do: "sleep", For: 10 * time.Millisecond, Group: fmt.Sprint("group ", i)} })
	s.inside("orchestrator", orchestrator)
	began := time.Now()
	control := s.control()
	w := s.spawn("worker", worker, silent, func(r *role) { r.Concurrency, r.Watch = 100, true })
	s.within(drainTime+time.Duration(n/2000)*time.Second, "all are done", func() bool {
		return rarely(s, func() bool { return value[int](s, `SELECT count(*) FROM bearmq.outcome`) == n })
	})
	took, usual := time.Since(began), control()
	require.NoError(s, w.stop())
	notes := s.find(is(noted), by("worker"))
	require.Len(s, notes, 1)
	var seen watched
	require.NoError(s, json.Unmarshal([]byte(notes[0].Note), &seen))
	times := seen.Claims
	third := len(times) / 3
	require.Greater(s, third, 3, "claims")
	first, last := times[:third], times[2*third:]
	q := 0.5 // of few, on a machine that may be busy
	if long {
		q = 0.99
	}
	machine := quantile(usual[2*len(usual)/3:], q)
	assert.Less(s, quantile(last, q), 2*quantile(first, q)+20*time.Millisecond+2*machine, "claims of the last third and of the first")
	assert.Less(s, seen.Memory, uint64(256<<20), "bytes of memory")
	// Time passes: the groups have been idle for long.
	s.exec(`UPDATE bearmq.job_group SET ver = ver - 3600000000`)
	s.exec(`UPDATE bearmq.group_anchor SET ver = ver - 3600000000`)
	s.within(drainTime+time.Duration(n/10_000)*time.Second, "the rows of the groups are collected", func() bool {
		return value[int](s, `SELECT (SELECT count(*) FROM bearmq.job_group) + (SELECT count(*) FROM bearmq.group_anchor)`) == 0
	})
	s.settled()
	s.Logf("%d groups in %s: %d claims, p%.0f of the first third %s, of the last %s, of the control then %s; the worker had %d MB at most", n, seconds(took), len(times),
		100*q, ms(quantile(first, q)), ms(quantile(last, q)), ms(machine), seen.Memory>>20)
}
