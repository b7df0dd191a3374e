//go:build fault && unix

package fault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq"
)

var groupRows = []row{
	{28, "another default isolation level", false, isolation},
	{29, "everybody takes groups in another order", false, deadlocks},
}

// A tracer counts how the statements of pools ended: by their SQLSTATE.
type tracer struct {
	mu    sync.Mutex
	codes map[string]int
}

func (tr *tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (tr *tracer) TraceQueryEnd(_ context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	code := "ok"
	var pg *pgconn.PgError
	switch {
	case errors.As(data.Err, &pg):
		code = pg.Code
	case data.Err != nil:
		code = "broken"
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.codes == nil {
		tr.codes = map[string]int{}
	}
	tr.codes[code]++
}

func (tr *tracer) count(code string) int {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.codes[code]
}

func (tr *tracer) trace(r *role) {
	r.configure = func(config *pgxpool.Config) { config.ConnConfig.Tracer = tr }
}

// Row 28. Whatever isolation level a pool's connections have by default, the
// library's own transactions are READ COMMITTED, and nobody sees 40001.
func isolation(t *testing.T) {
	for _, level := range []string{"repeatable read", "serializable"} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			s := begin(t)
			var tr tracer
			strict := func(r *role) {
				r.Parameters = map[string]string{"default_transaction_isolation": level}
				tr.trace(r)
			}
			s.inside("orchestrator", orchestrator, strict)
			s.inside("A", worker, strict)
			s.inside("B", worker, strict)
			producers := []*bearmq.Context{s.client("producer", strict), s.client("second", strict)}
			var wg sync.WaitGroup
			for i, mq := range producers {
				wg.Go(func() {
					for n := range 100 {
						group := []string{"", "g", fmt.Sprint("g", n%5)}[n%3]
						if err := s.try(s.Context(), mq, task{Group: group, Do: []string{"", "effect", "fail once", "snooze once"}[(n+i)%4]}, bearmq.Attempts(2)); err != nil {
							s.Errorf("an enqueue at %s: %v", level, err)
						}
					}
					many := make([]task, 200)
					for i := range many {
						many[i] = s.fill(task{Group: fmt.Sprint("h", i%3)})
					}
					ids, err := work.EnqueueMany(s.Context(), mq, many)
					if err != nil {
						s.Errorf("EnqueueMany at %s: %v", level, err)
					}
					s.ack(ids...)
				})
			}
			wg.Wait()
			s.settled()
			assert.Empty(s, s.find(told("DAEMON_FAIL"), func(r record) bool { return strings.Contains(r.Note, "SQLSTATE") }))
			assert.Zero(s, tr.count("40001"), "statements that met 40001")
			assert.Zero(s, value[int](s, `SELECT count(*) FROM bearmq.attempt_error WHERE error NOT LIKE 'on purpose%'`))
			s.Logf("%s: statements by their end: %v", level, tr.codes)
		})
	}
}

// Row 29. Producers that write the same groups in opposite orders, workers that
// take and finish them, recovery and unlocking: nobody meets a deadlock, or it is
// tried again unseen.
func deadlocks(t *testing.T) {
	s := begin(t)
	s.failing = true // those that hold their groups too long, three times
	s.unlocks = true
	var tr tracer
	// The dead are recovered before their groups are unlocked.
	unlock := func(r *role) { r.TTL, r.Unlock = ttl/2, ttl }
	s.inside("orchestrator", orchestrator, tr.trace, unlock)
	s.inside("second", orchestrator, tr.trace, unlock)
	for _, name := range []string{"A", "B"} {
		s.inside(name, worker, unlock, func(r *role) { r.Concurrency = 50; tr.trace(r) })
	}
	const groups = 20
	ctx, cancel := context.WithTimeout(s.Context(), time.Duration(size(6, 60))*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 4 {
		mq := s.client(fmt.Sprint("producer", i), tr.trace)
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				many := make([]task, 2*groups)
				for k := range many {
					g := k % groups
					if i%2 == 1 {
						g = groups - 1 - g
					}
					many[k] = s.fill(task{Group: fmt.Sprintf("g%02d", g), Do: []string{"", "", "fail once", "effect"}[rand.IntN(4)]})
					switch {
					case n == 0 && k == i: // longer than it may hold its group
						many[k].Do, many[k].For = "sleep", ttl+time.Second
					case rand.IntN(40) == 0: // so that a worker that dies holds something
						many[k].Do, many[k].For = "sleep", 200*time.Millisecond
					}
				}
				ids, err := work.EnqueueMany(s.Context(), mq, many, bearmq.Attempts(3))
				if err != nil {
					s.Errorf("an enqueue failed: %v", err)
					return
				}
				s.ack(ids...)
				wait(ctx, 300*time.Millisecond)
			}
		})
	}
	// Workers that die while they hold groups, so that recovery takes part.
	for i := range size(2, 10) {
		name := fmt.Sprint("C", i)
		p := s.spawn(name, worker, unlock)
		s.await(patience, "it runs something", is(started), by(name))
		p.kill()
	}
	wg.Wait()
	s.settled()
	assert.Empty(s, s.find(told("DAEMON_FAIL"), func(r record) bool { return strings.Contains(r.Note, "40P01") }), "surfaced deadlocks")
	assert.Zero(s, value[int](s, `SELECT count(*) FROM bearmq.attempt_error WHERE error LIKE '%40P01%'`))
	require.Positive(s, s.tasks)
	s.Logf("%d jobs in %d groups; statements by their end: %v; %d groups unlocked, %d jobs recovered", s.tasks, groups, tr.codes,
		len(s.find(told("ORCHESTRATOR_JOB_GROUP_UNLOCK"))), len(s.find(told("ORCHESTRATOR_JOB_RECOVER"))))
}
