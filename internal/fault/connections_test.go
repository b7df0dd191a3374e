//go:build fault && unix

package fault

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq"
	"github.com/bearmq/bearmq/internal/proxy"
)

var connectionRows = []row{
	{15, "connections are terminated at random", false, terminated},
	{16, "the listening connection is terminated", false, listenerTerminated},
	{17, "the listening connection is half open", false, listenerHalfOpen},
	{18, "a worker is cut off", false, cutOff},
	{19, "answers to commits are lost", false, answersLost},
	{20, "a slow and stalling network", false, slowNetwork},
	{30, "a pool of one connection", false, smallPool},
	{31, "handlers use up the pool", false, leakyHandlers},
}

// throughProxy is a way to the server that can be harmed.
func (s *scenario) throughProxy() (*proxy.Proxy, string) {
	s.Helper()
	p, url, err := proxy.For(s.url)
	require.NoError(s, err)
	s.Cleanup(func() { assert.NoError(s, p.Close()) })
	return p, url
}

// Row 15. Ten connections a second are terminated, whoever has them: no job is
// lost, and none is finished twice.
func terminated(t *testing.T) {
	s := begin(t)
	s.inside("orchestrator", orchestrator)
	s.inside("A", worker)
	s.inside("B", worker)
	// It is asked again and again whether an enqueue has happened: not so here, so jobs of unknown outcome stay unknown.
	stop := s.load(s.client("producer", nil), 5*time.Millisecond, func(i int) task {
		switch i % 4 {
		case 0:
			return task{Do: "effect"}
		case 1:
			return task{Do: "sleep", For: 20 * time.Millisecond}
		default:
			return task{Do: "sleep", For: 5 * time.Millisecond, Group: string(rune('a' + i%10))}
		}
	}, bearmq.Attempts(20))
	cuts := 0
	last := time.Now()
	s.during(time.Duration(size(10, 60))*time.Second, "connections are terminated", func() bool {
		if time.Since(last) > 100*time.Millisecond {
			last = time.Now()
			cuts += value[int](s, `SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity
				WHERE application_name LIKE $1 || ' %' AND application_name <> $1 || ' test' ORDER BY random() LIMIT 1) a`, s.schema)
		}
		return true
	})
	done, refused := stop()
	s.settled()
	assert.Zero(s, value[int](s, `SELECT count(*) FROM bearmq.outcome o JOIN bearmq.job j ON j.id = o.job_id
		WHERE j.payload->>'Do' = 'effect' AND (SELECT count(*) FROM bearmq.fault_effect e WHERE e.n = (j.payload->>'N')::int) <> 1`), "effects are there once")
	assert.Greater(s, cuts, size(10, 60)*4, "connections terminated")
	s.Logf("%d connections terminated; %d jobs acknowledged, %d enqueues refused, of which %d of unknown outcome", cuts, done, refused, s.unknown)
}

// listeners are the connections that listen for notifications, of a process.
func (s *scenario) listeners(name string) []int32 {
	return column[int32](s, `SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND (query LIKE 'LISTEN%' OR query = '-- ping')`,
		role{Schema: s.schema, Name: name}.application())
}

// pickup is how long it takes from an enqueue until the job starts.
func (s *scenario) pickup() time.Duration {
	s.Helper()
	at := time.Now()
	return s.await(patience, "it starts", is(started), of(s.enqueue(task{}))).At.Sub(at)
}

// tolerance is for a machine that is busy with other rows.
const tolerance = 2 * time.Second

// polled: the slowest pickup while nothing listened was that of a poll.
func (s *scenario) polled(slowest time.Duration, format string, args ...any) {
	s.Helper()
	assert.LessOrEqual(s, slowest, poll+tolerance)
	s.settled()
	s.unburnt()
	s.Logf(format+"; picked up within %s meanwhile", append(args, seconds(slowest))...)
}

// Row 16. A worker whose listening connection was terminated finds work by
// polling, and listens again within 10 s.
func listenerTerminated(t *testing.T) {
	s := begin(t)
	s.inside("orchestrator", orchestrator)
	s.inside("worker", worker)
	s.within(patience, "it listens", func() bool { return len(s.listeners("worker")) == 1 })
	var slowest, deafest time.Duration
	for range 5 {
		before := s.listeners("worker")
		at := time.Now()
		require.EqualValues(s, 1, s.exec(`SELECT pg_terminate_backend($1)`, before[0]))
		slowest = max(slowest, s.pickup())
		s.within(10*time.Second, "it listens again", func() bool {
			now := s.listeners("worker")
			return len(now) == 1 && now[0] != before[0]
		})
		deafest = max(deafest, time.Since(at))
	}
	s.polled(slowest, "listened again after %s at most", seconds(deafest))
}

// Row 17. A listening connection that has died without a word is found out within
// 15 s; meanwhile work is found by polling.
func listenerHalfOpen(t *testing.T) {
	s := begin(t)
	p, url := s.throughProxy()
	s.inside("orchestrator", orchestrator)
	s.inside("worker", worker, func(r *role) { r.URL = url })
	s.within(patience, "it listens", func() bool { return len(p.Conns(proxy.Listening)) == 1 })
	deaf := p.Conns(proxy.Listening)
	at := time.Now()
	hole := p.Blackhole(proxy.Only(deaf...))
	var slowest time.Duration
	s.within(15*time.Second, "it has found out, and listens by another connection", func() bool {
		slowest = max(slowest, s.pickup())
		return len(p.Conns(func(c *proxy.Conn) bool { return proxy.Listening(c) && c != deaf[0] })) == 1
	})
	found := time.Since(at)
	hole.Lift()
	s.polled(slowest, "found out after %s", seconds(found))
}

// Row 18. A worker that is cut off ends its contexts before its TTL is over, and
// another takes over within the recovery time.
func cutOff(t *testing.T) {
	s := begin(t)
	p, url := s.throughProxy()
	s.inside("orchestrator", orchestrator)
	s.inside("A", worker, func(r *role) { r.URL = url })
	var jobs []int
	for i := range 4 {
		jobs = append(jobs, s.enqueue(task{Do: "hold once", For: time.Minute, Group: []string{"", "g"}[i/3]}))
		s.await(patience, "A has it", is(started), of(jobs[i]), by("A"))
	}
	s.inside("B", worker)
	at := time.Now()
	hole := p.Blackhole(proxy.All)
	var noticed, taken time.Duration
	for _, n := range jobs {
		taken = max(taken, s.await(2*recovery, "B has it", is(started), of(n), by("B")).At.Sub(at))
		ends := s.find(is(cancelled), of(n), by("A"))
		require.Len(s, ends, 1, "A's context had ended before")
		assert.Equal(s, bearmq.ErrLeaseLost.Error(), ends[0].Note)
		noticed = max(noticed, ends[0].At.Sub(at))
	}
	assert.Less(s, noticed, ttl)
	assert.LessOrEqual(s, taken, recovery)
	hole.Lift()
	s.settled()
	s.unburnt()
	for _, n := range jobs {
		assert.Equal(s, 1, s.tally(n).Losses)
	}
	s.Logf("contexts ended after %s, taken over after %s", seconds(noticed), seconds(taken))
}

// Row 19. Where the answer to a commit is lost: a finish that is made again finds
// that it was done; an enqueue says that nobody knows, and so does one in a
// transaction of the caller's; a claim is given back and made again.
func answersLost(t *testing.T) {
	s := begin(t)
	p, url := s.throughProxy()
	direct := func(r *role) { r.URL = url }
	cut := func(who, what string, statement proxy.Statement) func() {
		f := p.CutReply(proxy.App(role{Schema: s.schema, Name: who}.application()), statement)
		return func() {
			s.Helper()
			select {
			case <-f.Done():
			case <-time.After(patience):
				require.Fail(s, "was not cut", what)
			}
		}
	}
	s.inside("orchestrator", orchestrator)
	s.inside("worker", worker, direct)
	producer := s.client("producer", direct)
	require.NoError(s, s.try(s.Context(), producer, task{}))

	// Enqueues, without a transaction and with one.
	wasCut := cut("producer", "enqueue", proxy.Containing("pg_notify"))
	require.ErrorIs(s, s.try(s.Context(), producer, task{}), bearmq.ErrUnknownOutcome)
	wasCut()
	wasCut = cut("producer", "commit", proxy.Commit)
	many := make([]task, 200)
	for i := range many {
		many[i] = s.fill(task{})
	}
	_, err := work.EnqueueMany(s.Context(), producer, many)
	require.ErrorIs(s, err, bearmq.ErrUnknownOutcome)
	wasCut()

	// Finishes: plain, with a failed attempt, of a group; and CompleteTx.
	var jobs []int
	for _, do := range []string{"", "effect", "fail once", "snooze once"} {
		wasCut = cut("worker", "finish", proxy.Containing("finish_v1"))
		n := s.enqueue(task{Do: do, Group: "g"}, bearmq.Attempts(2))
		jobs = append(jobs, n)
		s.await(patience, "it runs", is(started), of(n))
		wasCut()
	}
	wasCut = cut("worker", "commit of CompleteTx", proxy.Commit)
	effect := s.enqueue(task{Do: "effect"}, bearmq.Attempts(2))
	wasCut()
	// Claims: of the log and of due tickets.
	wasCut = cut("worker", "claim of the log", proxy.Containing("claim_log_v1"))
	jobs = append(jobs, s.enqueue(task{Group: "h"}))
	wasCut()
	wasCut = cut("worker", "claim of what is due", proxy.Containing("claim_due_v1"))
	jobs = append(jobs, s.enqueue(task{}, bearmq.Delay(50*time.Millisecond)))
	wasCut()
	s.settled()

	assert.Equal(s, s.tasks, value[int](s, `SELECT count(*) FROM bearmq.job WHERE name = 'work'`), "what was unknown had been done")
	for i, n := range jobs {
		want := tally{State: "completed", Attempt: 1}
		if i == 2 {
			want.Attempt = 2
		}
		got := s.tally(n)
		assert.Equal(s, want, got, "job %d", n)
		assert.Len(s, s.runs(n), map[bool]int{false: 1, true: 2}[i == 2 || i == 3], "job %d", n)
	}
	assert.Equal(s, []int{1, 1}, []int{s.effects(jobs[1]), s.effects(effect)})
	assert.Equal(s, tally{State: "completed", Attempt: 1}, s.tally(effect))
	assert.Len(s, s.runs(effect), 1, "its handler saw an error, and the commit decides")
	s.Logf("cut: 2 enqueues, 4 finishes, 1 CompleteTx, 2 claims")
}

// Row 20. A network whose answers take half a second and more, and that stalls
// for two seconds, makes nobody think that a worker is dead. With two seconds of
// silence allowed the TTL must be longer than in the other rows.
func slowNetwork(t *testing.T) {
	s := begin(t)
	p, url := s.throughProxy()
	harmed := func(r *role) { r.URL, r.TTL = url, 5*ttl }
	s.inside("orchestrator", orchestrator)
	slow := p.Delay(proxy.All, 200*time.Millisecond, 100*time.Millisecond)
	s.inside("A", worker, harmed)
	s.inside("B", worker, harmed)
	for i := range 20 {
		s.enqueue(task{Do: "sleep", For: time.Duration(i) * 250 * time.Millisecond, Group: []string{"", "g", "h", ""}[i%4]})
	}
	s.within(patience, "both work", func() bool {
		return len(s.find(is(started), by("A"))) > 0 && len(s.find(is(started), by("B"))) > 0
	})
	for range 2 {
		stall := p.Stall(proxy.All)
		s.during(2*time.Second, "silence", func() bool { return true })
		stall.Lift()
		s.during(ttl, "work", func() bool { return true })
	}
	slow.Lift()
	s.settled()
	s.unburnt()
	assert.Zero(s, value[int](s, `SELECT coalesce(sum(losses), 0) FROM bearmq.fault_given`))
	assert.Empty(s, s.find(told("WORKER_LEASE_LOST")))
	s.Logf("%d calls had failed and were made again", len(s.find(told("DAEMON_FAIL"))))
}

// Row 30. Eight slots on a pool of one connection never hang, also where the
// handlers use it.
func smallPool(t *testing.T) {
	s := begin(t)
	s.inside("orchestrator", orchestrator)
	for i := range 60 {
		s.enqueue(task{Do: []string{"", "effect"}[i%2], Group: []string{"", "g"}[i%3%2]})
	}
	began := time.Now()
	s.inside("worker", worker, func(r *role) { r.Pool, r.Concurrency = 1, 8 })
	s.settled()
	s.unburnt()
	s.Logf("60 jobs, half of them with a transaction, in %s", seconds(time.Since(began)))
}

// Row 31. Handlers that never end their transactions use up the pool: the session
// lives on all the same, and the log says what is wrong.
func leakyHandlers(t *testing.T) {
	s := begin(t)
	s.inside("orchestrator", orchestrator)
	var (
		mu     sync.Mutex
		leaked []pgx.Tx
	)
	w := s.inside("worker", worker, func(r *role) {
		r.Pool = 4
		r.deed = func(ctx context.Context, h *hands, job *bearmq.Job[task]) error {
			if job.Payload.Do != "leak" {
				return sleep(ctx, h, job)
			}
			tx, err := h.pool.Begin(ctx)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			leaked = append(leaked, tx)
			return nil
		}
	})
	plug := sync.OnceFunc(func() {
		mu.Lock()
		defer mu.Unlock()
		for _, tx := range leaked {
			_ = tx.Rollback(context.Background())
		}
	})
	defer plug()
	slow := s.enqueue(task{Do: "sleep", For: 3 * ttl, Group: "g"})
	s.await(patience, "it runs", is(started), of(slow))
	for range 4 {
		s.enqueue(task{Do: "leak"})
	}
	s.within(patience, "the pool is used up", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(leaked) == 4
	})
	s.enqueue(task{Do: "sleep"})
	s.during(2*ttl, "the session lives", func() bool { return len(s.find(told("WORKER_LEASE_LOST"))) == 0 })
	assert.Empty(s, s.find(told("DAEMON_FAIL"), func(r record) bool { return strings.HasPrefix(r.Note, "renew:") }))
	saysSo := strings.Contains(w.log(), "pool")
	plug()
	s.settled()
	s.unburnt()
	assert.Zero(s, s.tally(slow).Losses)
	assert.True(s, saysSo, "the log says that the pool is exhausted; it says\n%s", firstLines(w.log(), 6))
}

func firstLines(text string, n int) string {
	lines := strings.SplitN(text, "\n", n+1)
	return strings.Join(lines[:min(n, len(lines))], "\n")
}
