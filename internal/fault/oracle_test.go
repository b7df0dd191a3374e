//go:build fault && unix

package fault

import (
	"bytes"
	"errors"
	"fmt"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq"
	"github.com/bearmq/bearmq/internal/invariant"
)

// settled is the end of every row: the fault is over, the queue drains, the
// processes end in good order, and then the oracle speaks.
func (s *scenario) settled() {
	s.Helper()
	began := time.Now()
	s.drained()
	s.Logf("drained %s after the fault", seconds(time.Since(began)))
	for _, p := range s.processes {
		if !p.ended() {
			assert.NoError(s, p.stop(), "%s ends in good order\n%s", p.name, p.output.String())
		} else if !p.dead {
			assert.NoError(s, p.err, "%s ended", p.name)
		}
	}
	for _, pool := range s.clients {
		pool.Close()
	}
	if s.tasks > 5000 { // the questions to come need statistics; the library does not
		for _, table := range s.tables() {
			s.exec(`ANALYZE bearmq."` + table + `"`)
		}
	}
	s.judge()
	s.fitTogether()
	s.nothingLeft()
}

// fitTogether asks whether the tables do.
func (s *scenario) fitTogether() {
	s.Helper()
	err := invariant.Check(s.Context(), s.pool, s.schema)
	if joined, is := err.(interface{ Unwrap() []error }); is && s.clockOff {
		// Sessions began later than now, where the clock was set back.
		err = errors.Join(slices.DeleteFunc(joined.Unwrap(), func(err error) bool {
			return strings.Contains(err.Error(), "a session has lived for some time")
		})...)
	}
	assert.NoError(s, err)
}

// drained waits until every job has its end and nobody holds anything.
func (s *scenario) drained() {
	s.Helper()
	var jobs, tickets, leases int
	ok := eventually(s.Context(), drainTime, func() bool {
		err := s.pool.QueryRow(s.Context(), s.sql(`SELECT (SELECT count(*) FROM bearmq.job WHERE name IS NOT NULL) - (SELECT count(*) FROM bearmq.outcome),
			(SELECT count(*) FROM bearmq.ticket), (SELECT count(*) FROM bearmq.lease WHERE NOT finished)`)).Scan(&jobs, &tickets, &leases)
		return err == nil && jobs == 0 && tickets == 0 && leases == 0
	})
	require.True(s, ok, "not drained within %v: %d jobs without an end, %d tickets, %d leases", drainTime, jobs, tickets, leases)
}

// violate says what is wrong.
func (s *scenario) violate(format string, args ...any) {
	s.Helper()
	if s.suspect != nil {
		*s.suspect = append(*s.suspect, fmt.Sprintf(format, args...))
		return
	}
	s.Errorf(format, args...)
}

// A call is one call of a handler.
type call struct {
	record           // of its start
	end    time.Time // when it had no right to go on any more, at the latest
	zombie bool      // it began when its session was over for the database
	lived  bool      // it ended by itself
}

// A done is a job as the database has it at the end.
type done struct {
	ID, N    int64
	State    string
	Attempt  int
	Finished time.Time
	Claim    int64
}

// judge reads the history and the tables, and holds them against each other.
func (s *scenario) judge() {
	s.Helper()
	jobs := map[int64]done{}
	numbers := map[int64]int64{}
	rows, err := s.pool.Query(s.Context(), s.sql(`SELECT j.id, coalesce((j.payload->>'N')::bigint, 0), o.state::text, o.attempt::int, o.finished_at, o.claim
		FROM bearmq.job j JOIN bearmq.outcome o ON o.job_id = j.id`))
	require.NoError(s, err)
	defer rows.Close()
	for rows.Next() {
		var d done
		require.NoError(s, rows.Scan(&d.ID, &d.N, &d.State, &d.Attempt, &d.Finished, &d.Claim))
		if other, twice := numbers[d.N]; twice && d.N != 0 {
			s.violate("job %d is a double of job %d", d.ID, other)
		}
		jobs[d.ID], numbers[d.N] = d, d.ID
		if d.State == "f" && !s.failing {
			s.violate("job %d has failed", d.ID)
		}
	}
	require.NoError(s, rows.Err())
	for id := range s.acked {
		if _, exists := jobs[int64(id)]; !exists {
			s.violate("job %d was acknowledged and has no outcome", id)
		}
	}

	history := s.history()
	calls := s.calls(history)
	s.judgeReruns(calls, jobs, slices.DeleteFunc(slices.Clone(history), func(r record) bool { return r.Step != crashed }))
	groups := map[string][]*call{}
	for _, c := range calls {
		if c.Group != "" && !c.zombie {
			groups[c.Group] = append(groups[c.Group], c)
		}
	}
	for group, calls := range groups {
		s.judgeGroup(group, calls)
	}
	s.judgeEvents(history, jobs)
}

// calls are the handlers' calls, in the order of their starts.
func (s *scenario) calls(history []record) (all []*call) {
	type session struct{ began, expires time.Time }
	sessions := map[int][]session{}
	rows, err := s.pool.Query(s.Context(), s.sql(`SELECT pid, started_at, expires_at FROM bearmq.session`))
	require.NoError(s, err)
	defer rows.Close()
	for rows.Next() {
		var (
			pid int
			x   session
		)
		require.NoError(s, rows.Scan(&pid, &x.began, &x.expires))
		sessions[pid] = append(sessions[pid], x)
	}
	require.NoError(s, rows.Err())
	type key struct {
		process string
		pid     int
		run     int64
	}
	open := map[key]*call{}
	ofTest := s.own.process
	for _, r := range history {
		k := key{r.Process, r.PID, r.Run}
		switch r.Step {
		case started:
			c := &call{record: r, end: farFuture}
			if s.separate(r.Process) && !s.clockOff {
				// Its session ends for the database at some time, whether or not the process notices.
				var until time.Time
				for _, x := range sessions[r.PID] {
					if !x.began.After(r.At.Add(slack)) && x.expires.After(until) {
						until = x.expires
					}
				}
				c.zombie = r.At.After(until.Add(-slack))
				c.end = until.Add(-slack)
			}
			all = append(all, c)
			open[k] = c
		case ended:
			if c := open[k]; c != nil {
				c.end, c.lived = earlier(c.end, r.At), true
				delete(open, k)
			}
		case cancelled:
			if c := open[k]; c != nil && r.Note == bearmq.ErrLeaseLost.Error() {
				c.end = earlier(c.end, r.At)
			}
		case killed:
			for k, c := range open {
				if k.process == r.Process && k.pid == r.PID && r.Process != ofTest {
					c.end = earlier(c.end, r.At)
					delete(open, k)
				}
			}
		}
	}
	if s.unlocks {
		s.unlock(all)
	}
	return all
}

// unlock ends the calls of a group when it was taken away from them, although
// their session lives. Until the session is told it may start others of what the
// claim had brought.
func (s *scenario) unlock(calls []*call) {
	type hold struct {
		group string
		token int64
	}
	until := map[hold]time.Time{}
	rows, err := s.pool.Query(s.Context(), s.sql(`SELECT job, at FROM bearmq.fault_given WHERE losses > 0 ORDER BY at`))
	require.NoError(s, err)
	defer rows.Close()
	for rows.Next() {
		var (
			job int64
			at  time.Time
		)
		require.NoError(s, rows.Scan(&job, &at))
		var last *call
		for _, c := range calls {
			if c.Job == job && c.At.Before(at) && c.Group != "" {
				last = c
			}
		}
		if last != nil {
			until[hold{last.Group, last.Token}] = at
		}
	}
	require.NoError(s, rows.Err())
	for _, c := range calls {
		if at, taken := until[hold{c.Group, c.Token}]; taken {
			c.zombie = c.zombie || c.At.After(at.Add(-slack))
			c.end = earlier(c.end, at.Add(-slack))
		}
	}
}

var farFuture = time.Unix(1<<40, 0)

// slack is between two readings of one clock by two processes.
const slack = 5 * time.Millisecond

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// separate tells whether a process is not the test's.
func (s *scenario) separate(name string) bool {
	return slices.ContainsFunc(s.processes, func(p *process) bool { return p.name == name && p.cmd != nil })
}

// judgeReruns: between two calls for a job lies a reason, which is on record;
// and it is not called after its end. A claim without groups commits
// asynchronously, so a crash of the server takes it back without a trace.
func (s *scenario) judgeReruns(calls []*call, jobs map[int64]done, crashes []record) {
	s.Helper()
	rows, err := s.pool.Query(s.Context(), s.sql(`SELECT job, at FROM bearmq.fault_given`))
	require.NoError(s, err)
	defer rows.Close()
	reasons := map[int64][]time.Time{}
	for rows.Next() {
		var (
			job int64
			at  time.Time
		)
		require.NoError(s, rows.Scan(&job, &at))
		reasons[job] = append(reasons[job], at)
	}
	require.NoError(s, rows.Err())
	last := map[int64]*call{}
	count := map[int64]int{}
	for _, c := range calls {
		if c.zombie {
			continue
		}
		if before := last[c.Job]; before != nil {
			early := slack
			if s.unlocks { // the job may have started while the group was being taken away, but not yet for others to see
				early = time.Second / 5
			}
			between := slices.ContainsFunc(reasons[c.Job], func(at time.Time) bool { return at.After(before.At.Add(-early)) && at.Before(c.At.Add(slack)) })
			if c.Group == "" {
				between = between || slices.ContainsFunc(crashes, func(r record) bool { return r.At.After(before.At) && r.At.Before(c.At) })
			}
			if s.clockOff {
				between = len(reasons[c.Job]) > count[c.Job]-1
			}
			if !between {
				s.violate("job %d (N %d): called by %s at %v and by %s at %v, and nothing on record between them", c.Job, c.N,
					before.Process, before.At, c.Process, c.At)
			}
		}
		last[c.Job] = c
		count[c.Job]++
		if d, finished := jobs[c.Job]; finished && !s.clockOff && c.At.After(d.Finished.Add(slack)) {
			s.violate("job %d (N %d): called by %s at %v, after its end at %v", c.Job, c.N, c.Process, c.At, d.Finished)
		}
	}
}

// judgeGroup: calls of a group do not overlap while their sessions are valid,
// and each holder has a higher token than the one before.
func (s *scenario) judgeGroup(group string, calls []*call) {
	s.Helper()
	var last, longest *call
	for _, c := range calls {
		if longest != nil && c.At.Before(longest.end) {
			s.violate("group %s: job %d by %s from %v to %v, job %d by %s from %v", group, longest.Job, longest.Process, longest.At, longest.end, c.Job, c.Process, c.At)
		}
		if last != nil && (c.Token < last.Token || c.Token == last.Token && c.Process != last.Process) {
			s.violate("group %s: job %d by %s has token %d, job %d by %s before it had %d", group, c.Job, c.Process, c.Token, last.Job, last.Process, last.Token)
		}
		last = c
		if longest == nil || c.end.After(longest.end) {
			longest = c
		}
	}
}

// judgeEvents: one event says that a job is over, and it says what the outcome
// says. It is missing only where its process died, or was told nothing.
func (s *scenario) judgeEvents(history []record, jobs map[int64]done) {
	s.Helper()
	over := map[int64][]record{}
	deaths := false
	for _, r := range history {
		switch {
		case r.Step == event && (r.Kind == string(bearmq.KindJobSucceeded) || r.Kind == string(bearmq.KindJobExpired)):
			over[r.Job] = append(over[r.Job], r)
		case r.Step == killed || r.Step == frozen:
			deaths = true
		}
	}
	silent := len(over) == 0
	for id, d := range jobs {
		events := over[id]
		switch {
		case len(events) > 1:
			s.violate("job %d has %d events that say it is over: %v", id, len(events), events)
		case len(events) == 0 && !silent && !deaths:
			s.violate("job %d is over (%s) and no event says so", id, d.State)
		case len(events) == 1 && (events[0].Kind == string(bearmq.KindJobSucceeded)) != (d.State == "c"):
			s.violate("job %d has the outcome %s and the event %s", id, d.State, events[0].Kind)
		}
	}
}

// nothingLeft: no connection and no goroutine of a process.
func (s *scenario) nothingLeft() {
	s.Helper()
	var open int
	if !eventually(s.Context(), s.leaving, func() bool {
		open = value[int](s, `SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE $1 AND pid <> pg_backend_pid() AND application_name <> $2`,
			strings.ReplaceAll(s.schema, "_", `\_`)+" %", role{Schema: s.schema, Name: "test"}.application())
		return open == 0
	}) {
		s.violate("%d connections are left", open)
	}
	for _, r := range s.find(is(left)) {
		s.violate("%s has left a goroutine: %s", r.Process, r.Note)
	}
	var stacks []string
	if !eventually(s.Context(), s.leaving, func() bool {
		stacks = nil
		var profile bytes.Buffer
		require.NoError(s, pprof.Lookup("goroutine").WriteTo(&profile, 1))
		for stack := range strings.SplitSeq(profile.String(), "\n\n") {
			if strings.Contains(stack, fmt.Sprintf("%q", s.dir)) && !strings.Contains(stack, "tRunner") {
				stacks = append(stacks, stack)
			}
		}
		return len(stacks) == 0
	}) {
		s.violate("goroutines are left:\n%s", strings.Join(stacks, "\n\n"))
	}
}

// runs are the handlers' calls of a job so far.
func (s *scenario) runs(n int) []record {
	s.Helper()
	return s.find(is(started), of(n))
}

// A tally is what the database knows of one job at the end.
type tally struct {
	State           string
	Attempt, Losses int
	Error           string
}

func (s *scenario) tally(n int) tally {
	s.Helper()
	var t tally
	require.NoError(s, s.pool.QueryRow(s.Context(), s.sql(`SELECT coalesce(s.state, ''), s.attempt::int,
			coalesce((SELECT sum(g.losses) FROM bearmq.fault_given g WHERE g.job = s.id), 0)::int, coalesce(s.error, '')
		FROM bearmq.job_state s WHERE (s.payload->>'N')::int = $1`), n).Scan(&t.State, &t.Attempt, &t.Losses, &t.Error))
	return t
}

// effects is how often a job has done its work in the database.
func (s *scenario) effects(n int) int {
	s.Helper()
	return value[int](s, `SELECT count(*) FROM bearmq.fault_effect WHERE n = $1`, n)
}

// unburnt asserts that no attempt was used up by the fault.
func (s *scenario) unburnt() {
	s.Helper()
	assert.Zero(s, value[int](s, `SELECT count(*) FROM bearmq.attempt_error`), "attempts that failed")
	assert.Zero(s, value[int](s, `SELECT count(*) FROM bearmq.outcome WHERE attempt <> 1`), "jobs that needed another attempt")
}
