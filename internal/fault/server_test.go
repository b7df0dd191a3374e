//go:build fault && unix

package fault

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq"
)

var serverRows = []row{
	{12, "the server crashes under load", false, crash},
	{13, "the server restarts under load", false, restart},
	{14, "the server is down for five TTL", false, down},
	{21, "the server becomes read-only", false, readOnly},
	{22, "a short statement timeout", false, statementTimeout},
	{23, "the job table is locked", false, tableLock},
	{32, "all connections of the server are in use", false, noConnections},
	{34, "the disk is full", false, diskFull},
	{35, "a listener holds back the notification queue", false, notifyQueue},
}

// underLoad does something to a server that is at work, each in turn, and
// asserts that work goes on within 10 s of its return.
func (s *scenario) underLoad(makeTask func(i int) task, faults map[string]func(), opts ...bearmq.EnqueueOption) {
	s.Helper()
	s.inside("orchestrator", orchestrator)
	a, b := s.spawn("A", worker), s.spawn("B", worker)
	producer := s.client("producer", nil)
	stop := s.load(producer, 10*time.Millisecond, makeTask, opts...)
	for name, fault := range faults {
		before := len(s.find(is(ended)))
		s.within(patience, "work is done", func() bool { return len(s.find(is(ended))) > before+50 })
		began := time.Now()
		fault()
		up := time.Now()
		s.pool.Reset()
		again := s.await(10*time.Second, "work goes on", is(started), after(up))
		s.Logf("%s: back after %s, and work %s after that", name, seconds(up.Sub(began)), seconds(again.At.Sub(up)))
	}
	done, refused := stop()
	assert.False(s, a.ended() || b.ended(), "the processes live")
	s.settled()
	s.Logf("%d jobs acknowledged, %d enqueues refused, of which %d of unknown outcome; losses %d", done, refused, s.unknown,
		value[int](s, `SELECT coalesce(sum(losses), 0) FROM bearmq.fault_given`))
	// Nobody waits the same time as somebody else, nor a constant one.
	var waits []time.Duration
	for _, r := range s.find(told("DAEMON_FAIL")) {
		waits = append(waits, r.Wait)
	}
	slices.Sort(waits)
	assert.NotEmpty(s, waits, "the fault was noticed")
	assert.Len(s, slices.Compact(slices.Clone(waits)), len(waits), "waits before another try are random")
}

// Row 12. What was acknowledged survives a server that loses everything in its
// memory, killed or stopped at once; work resumes within 10 s.
func crash(t *testing.T) {
	s := beginAlone(t, nil)
	start := func() { require.NoError(s, s.server.Start(s.Context())) }
	s.underLoad(func(i int) task {
		if i%5 == 0 {
			return task{Do: "effect"}
		}
		return task{Do: "sleep", For: 50 * time.Millisecond, Group: []string{"", fmt.Sprint("g", i%7)}[i%2]}
	}, map[string]func(){
		"kill -9": func() {
			require.NoError(s, s.server.Crash())
			s.own.add(record{Step: crashed})
			start()
		},
		"immediate stop": func() {
			require.NoError(s, syscall.Kill(s.server.PID(), syscall.SIGQUIT))
			s.within(patience, "the server is gone", func() bool { return s.server.PID() == 0 })
			s.own.add(record{Step: crashed})
			start()
		},
	}, bearmq.Attempts(10))
}

// Row 13. So it is when the server restarts in good order, and no attempt is
// burnt of jobs that do not use the database.
func restart(t *testing.T) {
	s := beginAlone(t, nil)
	s.underLoad(func(i int) task {
		return task{Do: "sleep", For: 50 * time.Millisecond, Group: []string{"", fmt.Sprint("g", i%7)}[i%2]}
	}, map[string]func(){"fast restart": func() { require.NoError(s, s.server.Restart(s.Context())) }})
	s.unburnt()
}

// Row 14. Handlers end when their session may be thought dead, although nobody
// can say so; and after the server's return nobody is declared dead for one TTL.
func down(t *testing.T) {
	s := beginAlone(t, nil)
	s.inside("orchestrator", orchestrator)
	a, b := s.spawn("A", worker), s.spawn("B", worker)
	for i := range 6 {
		s.enqueue(task{Do: []string{"hold once", ""}[i%2], For: time.Minute, Group: fmt.Sprint("g", i/2)})
	}
	s.enqueue(task{Do: "hold once", For: time.Minute})
	s.within(patience, "one job of each group runs", func() bool { return len(s.find(is(started))) == 4 })
	require.NoError(s, s.server.Stop())
	at := time.Now()
	s.within(ttl+time.Second, "all contexts have ended", func() bool { return len(s.find(is(cancelled))) == 4 })
	var last time.Duration
	for _, c := range s.find(is(cancelled)) {
		assert.Equal(s, bearmq.ErrLeaseLost.Error(), c.Note)
		last = max(last, c.At.Sub(at))
	}
	assert.LessOrEqual(s, last, ttl)
	s.during(time.Until(at.Add(5*ttl)), "the processes live", func() bool { return !a.ended() && !b.ended() })
	up := time.Now()
	require.NoError(s, s.server.Start(s.Context()))
	s.pool.Reset()
	s.settled()
	first := value[time.Time](s, `SELECT min(at) FROM bearmq.fault_given WHERE losses > 0`)
	assert.Greater(s, first.Sub(up), ttl, "nobody is declared dead within one TTL")
	s.unburnt()
	s.Logf("contexts ended %s after the stop, the first job was declared lost %s after the start", seconds(last), seconds(first.Sub(up)))
}

// Row 21. A server that has become read-only, as after a failover, is left: the
// connections to it are dropped, for the name may lead to another one by now. No
// attempt is burnt, and work goes on within 10 s of the end.
func readOnly(t *testing.T) {
	s := beginAlone(t, nil)
	s.inside("orchestrator", orchestrator)
	s.inside("worker", worker)
	producer := s.client("producer", func(r *role) { r.Pool = 2 })
	stop := s.load(producer, 20*time.Millisecond, func(int) task { return task{Do: "sleep", For: 300 * time.Millisecond} })
	s.within(patience, "work is done", func() bool { return len(s.find(is(ended))) > 20 })
	// The connection that listens is not told; it writes nothing.
	backends := func() []int32 {
		return column[int32](s, `SELECT pid FROM pg_stat_activity WHERE application_name = 'row worker' AND query NOT LIKE 'LISTEN%' AND query <> '-- ping'`)
	}
	before := backends()
	require.NotEmpty(s, before)
	conn, err := s.pool.Acquire(s.Context())
	require.NoError(s, err)
	set := func(sql string) {
		for _, text := range []string{"SET default_transaction_read_only = off", sql, "SELECT pg_reload_conf()"} {
			_, err := conn.Exec(s.Context(), text)
			require.NoError(s, err)
		}
	}
	set("ALTER SYSTEM SET default_transaction_read_only = on")
	refusal := func(r record) bool { return strings.Contains(r.Note, "25006") }
	s.await(patience, "the worker is refused", told("DAEMON_FAIL"), by("worker"), refusal)
	s.during(2*time.Second, "it goes on trying", func() bool { return true })
	dropped := eventually(s.Context(), time.Second, func() bool {
		now := backends()
		return !slices.ContainsFunc(before, func(pid int32) bool { return slices.Contains(now, pid) })
	})
	set("ALTER SYSTEM RESET default_transaction_read_only")
	conn.Release()
	up := time.Now()
	again := s.await(10*time.Second, "work goes on", is(started), after(up))
	_, refused := stop()
	assert.Positive(s, refused, "enqueues were refused meanwhile")
	s.settled()
	s.unburnt()
	assert.True(s, dropped, "the connections that were refused are dropped")
	s.Logf("%d enqueues and %d calls of the worker refused; work went on %s after the end", refused, len(s.find(told("DAEMON_FAIL"), by("worker"), refusal)), seconds(again.At.Sub(up)))
}

// bulk enqueues n jobs that do nothing.
func (s *scenario) bulk(n int, next func(i int) task) {
	s.Helper()
	made, err := work.EnqueueSeq(s.Context(), s.mq, func(yield func(task) bool) {
		for i := range n {
			if !yield(s.fill(next(i))) {
				return
			}
		}
	})
	require.NoError(s, err)
	require.EqualValues(s, n, made)
}

// size is how many jobs a row about large numbers has.
func size(short, full int) int {
	if long {
		return full
	}
	return short
}

func silent(r *role) { r.Silent = true }

// Row 22. With a statement timeout of 50 ms and a backlog, calls that run into it
// are made again with less to do, and the error names the call. A trigger takes
// 0.2 ms a row, so that no batch of more than 250 ever succeeds.
func statementTimeout(t *testing.T) {
	for name, trigger := range map[string]string{
		"finish": `CREATE FUNCTION bearmq.fault_slow() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN PERFORM pg_sleep((SELECT count(*) FROM rows) * 0.0002); RETURN NULL; END $$;
			CREATE TRIGGER slow AFTER INSERT ON bearmq.outcome REFERENCING NEW TABLE AS rows EXECUTE FUNCTION bearmq.fault_slow()`,
		"claim_log": `CREATE FUNCTION bearmq.fault_slow() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN PERFORM pg_sleep((NEW.hi_id - NEW.lo_id) * 0.0002); RETURN NULL; END $$; -- the ids have no gaps here
			CREATE TRIGGER slow AFTER INSERT ON bearmq.lease FOR EACH ROW WHEN (NEW.lane IS NOT NULL AND NEW.hi_id > 0) EXECUTE FUNCTION bearmq.fault_slow()`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := begin(t)
			n := size(5000, 1_000_000)
			s.bulk(n, func(int) task { return task{} })
			s.exec(s.sql(trigger))
			began := time.Now()
			s.inside("orchestrator", orchestrator)
			s.inside("worker", worker, silent, func(r *role) {
				r.Concurrency = 1000
				r.Parameters = map[string]string{"statement_timeout": "50"}
			})
			s.await(patience, "the call is cancelled, and named", told("DAEMON_FAIL"), func(r record) bool {
				return strings.Contains(r.Note, name+": ERROR") && strings.Contains(r.Note, "57014")
			})
			done := func() int { return value[int](s, `SELECT count(*) FROM bearmq.outcome`) }
			s.within(drainTime, "work goes on by smaller calls", func() bool { return rarely(s, func() bool { return done() > 3000 }) })
			took, cancelled := time.Since(began), len(s.find(told("DAEMON_FAIL")))
			s.exec(`DROP FUNCTION bearmq.fault_slow CASCADE`)
			s.within(drainTime+time.Duration(n/2000)*time.Second, "the rest is done", func() bool { return rarely(s, func() bool { return done() == n }) })
			s.settled()
			s.unburnt()
			s.Logf("of %d jobs 3000 in %s, while %d calls were cancelled; the rest in %s", n, seconds(took), cancelled, seconds(time.Since(began)-took))
		})
	}
}

// Row 23. While somebody holds the job table, everything that needs it waits;
// sessions do not, and nothing is lost. A producer with a lock timeout is told.
func tableLock(t *testing.T) {
	held := time.Duration(size(int(2*ttl), int(10*time.Second)))
	s := begin(t)
	s.inside("orchestrator", orchestrator)
	s.inside("worker", worker)
	hasty := s.client("hasty", func(r *role) { r.Parameters = map[string]string{"lock_timeout": "300"} })
	patient := s.client("patient", nil)
	require.NoError(s, s.try(s.Context(), hasty, task{}))
	require.NoError(s, s.try(s.Context(), patient, task{}))
	slow := s.enqueue(task{Do: "sleep", For: held + time.Second, Group: "g"})
	short := s.enqueue(task{Do: "sleep", For: held / 2})
	s.await(patience, "it runs", is(started), of(slow))
	s.await(patience, "it runs", is(started), of(short))
	tx, err := s.pool.Begin(s.Context())
	require.NoError(s, err)
	_, err = tx.Exec(s.Context(), s.sql("LOCK TABLE bearmq.job IN ACCESS EXCLUSIVE MODE"))
	require.NoError(s, err)
	stop := s.load(patient, 100*time.Millisecond, func(int) task { return task{} })
	assert.ErrorContains(s, s.try(s.Context(), hasty, task{}), "55P03")
	s.during(held, "no session is lost", func() bool { return len(s.find(told("WORKER_LEASE_LOST"))) == 0 })
	require.NoError(s, tx.Rollback(s.Context()))
	at := time.Now()
	stop()
	s.settled()
	s.unburnt()
	assert.Zero(s, s.tally(slow).Losses+s.tally(short).Losses)
	assert.Len(s, s.runs(slow), 1)
	assert.Empty(s, s.find(told("DAEMON_FAIL"), func(r record) bool { return strings.HasPrefix(r.Note, "renew:") }), "renewals go on")
	s.Logf("held for %v, all done %s later", held, seconds(time.Since(at)))
}

// Row 32. Where the server has no connection left, everybody waits, longer and
// longer, and goes on when there is one.
func noConnections(t *testing.T) {
	s := beginAlone(t, map[string]string{"max_connections": "30", "superuser_reserved_connections": "3"})
	s.inside("orchestrator", orchestrator, func(r *role) { r.Pool = 2 })
	w := s.inside("worker", worker, func(r *role) { r.Pool = 3 })
	job := s.enqueue(task{Do: "hold once", For: time.Minute, Group: "g"})
	s.await(patience, "it runs", is(started), of(job))
	s.enqueue(task{Group: "g"})
	var hogs []*pgx.Conn
	free := func() {
		for _, c := range hogs {
			_ = c.Close(context.Background())
		}
		hogs = nil
	}
	defer free()
	fill := func() {
		for {
			c, err := pgx.Connect(s.Context(), s.url)
			if err != nil {
				require.ErrorContains(s, err, "53300")
				return
			}
			hogs = append(hogs, c)
		}
	}
	fill()
	s.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'row %' AND application_name <> 'row test'`)
	full := time.Now()
	s.during(2*ttl, "the processes live", func() bool {
		fill() // whatever the others have just given up
		return !w.ended()
	})
	tries := s.find(told("DAEMON_FAIL"), after(full))
	refusals := s.find(told("DAEMON_FAIL"), after(full), func(r record) bool { return strings.Contains(r.Note, "53300") })
	free()
	up := time.Now()
	s.settled()
	assert.NotEmpty(s, refusals, "53300 was met")
	// Nine loops, which double their waits from 50 ms on, and begin again when they get a connection before this test does.
	assert.Less(s, len(tries), 300, "tries while hardly anything could succeed")
	s.unburnt()
	s.Logf("%d tries in %v (%d met 53300), drained %s after the end", len(tries), 2*ttl, len(refusals), seconds(time.Since(up)))
}

// Row 34. A full disk refuses enqueues with an error; work resumes when there is
// room. The tables that grow lie on a file system of 16 MB, which only root can
// make; for others a trigger says what PostgreSQL would.
func diskFull(t *testing.T) {
	dir, err := os.MkdirTemp("", "bearmq-fault-") // not below t.TempDir, which the server's user cannot enter
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	real := os.Geteuid() == 0 && exec.Command("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", dir).Run() == nil
	if real {
		t.Cleanup(func() { assert.NoError(t, exec.Command("umount", dir).Run()) })
	}
	s := beginAlone(t, nil)
	s.inside("orchestrator", orchestrator)
	s.inside("worker", worker)
	s.enqueue(task{})
	tables := []string{"job", "outcome", "ticket"}
	var freed func()
	if real {
		info, err := os.Stat(s.server.DataDir())
		require.NoError(s, err)
		owner := info.Sys().(*syscall.Stat_t)
		space := filepath.Join(dir, "space")
		require.NoError(s, os.Mkdir(space, 0o700))
		require.NoError(s, os.Chown(space, int(owner.Uid), int(owner.Gid)))
		s.exec("CREATE TABLESPACE small LOCATION '" + space + "'")
		for _, table := range tables {
			s.exec("ALTER TABLE bearmq." + table + " SET TABLESPACE small")
		}
		filler := filepath.Join(dir, "filler")
		file, err := os.Create(filler)
		require.NoError(s, err)
		for err == nil {
			_, err = file.Write(make([]byte, 64<<10))
		}
		require.ErrorIs(s, err, syscall.ENOSPC)
		require.NoError(s, file.Close())
		freed = func() { require.NoError(s, os.Remove(filler)) }
	} else {
		s.exec(`CREATE FUNCTION bearmq.fault_full() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$`)
		for _, table := range tables {
			s.exec("CREATE TRIGGER full_disk BEFORE INSERT ON bearmq." + table + " EXECUTE FUNCTION bearmq.fault_full()")
		}
		freed = func() {
			for _, table := range tables {
				s.exec("DROP TRIGGER full_disk ON bearmq." + table)
			}
		}
	}
	// What fits still works; then not even the ends of jobs can be written.
	s.within(patience, "an enqueue is refused", func() bool {
		err = s.try(s.Context(), s.mq, task{Do: "sleep", For: 10 * time.Millisecond, Group: strings.Repeat("g", 500)})
		return err != nil
	})
	assert.ErrorContains(s, err, "53100")
	assert.NotErrorIs(s, err, bearmq.ErrUnknownOutcome)
	s.during(2*time.Second, "enqueues are refused", func() bool { return s.try(s.Context(), s.mq, task{Group: strings.Repeat("g", 500)}) != nil || real })
	freed()
	up := time.Now()
	s.enqueue(task{})
	s.settled()
	s.unburnt()
	s.Logf("a real disk: %v; %d jobs, drained %s after there was room", real, value[int](s, `SELECT count(*) FROM bearmq.outcome`), seconds(time.Since(up)))
}

// Row 35. A session that listens and idles in a transaction keeps PostgreSQL
// from shortening its queue of notifications. No enqueue fails for it, a warning
// names it, and Health tells how full the queue is. No enqueue fails either
// when the queue is full, which takes 8 GB and so is for the full length.
func notifyQueue(t *testing.T) {
	s := beginAlone(t, map[string]string{"max_wal_size": "1GB"})
	s.inside("orchestrator", orchestrator)
	s.inside("worker", worker)
	listener, err := pgx.Connect(s.Context(), s.url)
	require.NoError(s, err)
	defer func() { _ = listener.Close(context.Background()) }()
	for _, text := range []string{"LISTEN bearmq_fault", "BEGIN", "SELECT 1"} {
		_, err = listener.Exec(s.Context(), text)
		require.NoError(s, err)
	}
	usage := func() float64 {
		health, err := s.mq.Health(s.Context())
		require.NoError(s, err)
		return health.NotifyQueue
	}
	asleep := func() bool { return value[bool](s, `SELECT EXISTS (SELECT FROM bearmq.sleeper)`) }
	enqueue := func() {
		// From elsewhere, while the worker sleeps: it must be notified.
		s.within(patience, "the worker sleeps", asleep)
		s.enqueue(task{})
	}
	for range 5 {
		enqueue()
	}
	before := usage()
	if long {
		for n := 20_000; n > 0; { // to the last page
			if _, err := s.pool.Exec(s.Context(), `SELECT pg_notify('bearmq_fault', repeat('x', 7980) || i) FROM generate_series(1, $1) i`, n); err != nil {
				require.ErrorContains(s, err, "too many notifications")
				n /= 10
			}
		}
		for range 20 {
			enqueue()
		}
		s.await(patience, "it is told", told(string(bearmq.KindDatabaseWarned)), saying("notifications is full to 100 %"))
	}
	s.await(patience, "the session is named", told(string(bearmq.KindDatabaseWarned)), saying(fmt.Sprintf("pg_terminate_backend(%d)", listener.PgConn().PID())))
	s.Logf("the queue was full to %.6f, then to %.6f", before, usage())
	require.NoError(s, listener.Close(s.Context()))
	s.settled()
}
