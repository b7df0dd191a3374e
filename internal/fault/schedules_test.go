//go:build fault && unix

package fault

import (
	"context"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq"
)

var scheduleRows = []row{
	{40, "five orchestrators", false, fiveOrchestrators},
	{41, "an orchestrator is frozen in the middle of a tick", false, frozenTick},
	{42, "an orchestrator is killed in the middle of a tick", false, killedTick},
}

// tick is made each second, with its slot as its payload.
var tick = bearmq.Define(bearmq.Spec[time.Time]{Name: "tick"})

// tick makes the payload of a slot. Where the scenario says so, it stops its
// process there, in the middle of a tick.
func (h *hands) tick(at time.Time) time.Time {
	if os.Getenv(roleVariable) != "" && h.open("freeze "+h.Name) && h.first(0, "frozen "+h.Name) {
		h.history.add(record{Step: noted, Note: "freezes at " + at.Format(time.RFC3339Nano)})
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		h.history.add(record{Step: noted, Note: "is thawed"})
	}
	return at
}

func (h *hands) ticked(_ context.Context, job *bearmq.Job[time.Time]) error {
	r := record{Step: started, Run: h.runs.Add(1), Job: int64(job.ID), Note: job.Payload.Format(time.RFC3339Nano)}
	h.history.add(r)
	r.Step = ended
	h.history.add(r)
	return nil
}

func ticks(r *role) { r.Ticks = true }

// slots are those that have made a job, in order.
func (s *scenario) slots() []time.Time {
	s.Helper()
	return column[time.Time](s, `SELECT (payload #>> '{}')::timestamptz FROM bearmq.job WHERE name = 'tick' ORDER BY 1`)
}

// oneEach asserts that no slot made two jobs, and that each between the first
// and the last made one unless it may be missing.
func (s *scenario) oneEach(missing int) {
	s.Helper()
	slots := s.slots()
	require.NotEmpty(s, slots)
	assert.Equal(s, slots, slices.CompactFunc(slices.Clone(slots), time.Time.Equal), "one job each slot")
	span := int(slots[len(slots)-1].Sub(slots[0])/time.Second) + 1
	assert.LessOrEqual(s, span-len(slots), missing, "slots without a job")
	s.Logf("%d slots in %d s have made %d jobs", span, span, len(slots))
}

// noMoreTicks lets the queue drain: nobody makes ticks any more.
func (s *scenario) noMoreTicks() {
	s.Helper()
	for _, p := range s.processes {
		if !p.ended() {
			require.NoError(s, p.stop())
		}
	}
	s.inside("last", worker, orchestrator, func(r *role) {
		r.register = func(h *hands) error { return h.mq.Register(work.Handle(h.handle), tick.Handle(h.ticked)) }
	})
}

// Row 40. Five orchestrators make one job each slot, or none where all of them
// were late.
func fiveOrchestrators(t *testing.T) {
	s := begin(t)
	for _, name := range []string{"O1", "O2", "O3"} {
		s.inside(name, orchestrator, ticks)
	}
	for _, name := range []string{"O4", "O5"} {
		s.spawn(name, orchestrator, ticks)
	}
	s.inside("worker", worker, ticks)
	s.within(patience, "some slots are over", func() bool { return len(s.slots()) >= size(6, 60) })
	makers := map[string]int{}
	for _, r := range s.find(told("ORCHESTRATOR_JOB_SCHEDULE")) {
		makers[r.Process]++
	}
	s.noMoreTicks()
	s.settled()
	s.oneEach(1)
	s.Logf("made by %v", makers)
}

// Row 41. The slot at which an orchestrator froze is made by another, and once;
// and what it goes on with when it wakes does no harm.
func frozenTick(t *testing.T) {
	s := begin(t)
	a := s.spawn("A", orchestrator, ticks)
	s.inside("worker", worker, ticks, func(r *role) { r.Channels = []string{"default"} })
	w := s.spawn("W", worker, func(r *role) { r.Channels = []string{"other"} })
	s.within(patience, "A makes ticks", func() bool { return len(s.slots()) > 1 })
	s.letThrough("freeze A")
	s.await(patience, "A freezes", is(noted), by("A"))
	s.own.add(record{Process: "A", PID: a.cmd.Process.Pid, Step: frozen})
	// Meanwhile something else than ticks needs an orchestrator, so that A finds it done.
	job := s.enqueue(task{Do: "hold once", For: time.Minute}, bearmq.InChannel("other"))
	s.await(patience, "it runs", is(started), of(job))
	s.inside("B", orchestrator, ticks)
	w.kill()
	frozenFor := len(s.slots())
	s.within(patience, "B makes ticks", func() bool { return len(s.slots()) > frozenFor+5 })
	s.within(2*recovery, "B recovers", func() bool { return len(s.find(told("ORCHESTRATOR_JOB_RECOVER"))) > 0 })
	a.thaw()
	s.await(patience, "A goes on", is(noted), by("A"), note("is thawed"))
	slots := len(s.slots())
	s.within(patience, "both make ticks", func() bool { return len(s.slots()) > slots+3 })
	s.noMoreTicks()
	s.settled()
	s.oneEach(4)
	assert.Len(s, s.find(told("ORCHESTRATOR_JOB_RECOVER")), 1)
}

// Row 42. A slot and its job are one statement: killed in between, there are
// both or neither. A trigger holds the tick where the slot has advanced and the
// job is not there yet.
func killedTick(t *testing.T) {
	s := begin(t)
	s.exec(`CREATE FUNCTION bearmq.fault_hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(3); RETURN NEW; END $$;
		CREATE TRIGGER hold BEFORE INSERT ON bearmq.job FOR EACH ROW WHEN (NEW.name = 'tick') EXECUTE FUNCTION bearmq.fault_hold()`)
	held := func() []int32 {
		return column[int32](s, `SELECT pid FROM pg_stat_activity WHERE application_name LIKE $1 || ' %' AND wait_event = 'PgSleep'`, s.schema)
	}
	slot := func() time.Time { return value[time.Time](s, `SELECT next_at FROM bearmq.schedule`) }
	jobs := func() int { return value[int](s, `SELECT count(*) FROM bearmq.job WHERE name = 'tick'`) }
	for i, terminate := range []bool{true, false} { // the backend dies with the process, or goes on for it
		a := s.spawn([]string{"A", "B"}[i], orchestrator, ticks)
		s.within(patience, "a tick is half done", func() bool { return len(held()) == 1 })
		next, made := slot(), jobs()
		backend := held()
		a.kill()
		if terminate {
			require.EqualValues(s, 1, s.exec(`SELECT pg_terminate_backend($1)`, backend[0]))
		}
		s.within(patience, "the statement is over", func() bool { return len(held()) == 0 })
		advanced, more := slot().After(next), jobs()-made
		assert.Equal(s, map[bool]int{true: 1, false: 0}[advanced], more, "slot and job")
		s.Logf("the backend was terminated: %v, the slot has advanced: %v", terminate, advanced)
	}
	s.exec(`DROP TRIGGER hold ON bearmq.job`)
	s.inside("C", orchestrator, worker, ticks)
	n := jobs()
	s.within(patience, "ticks go on", func() bool { return jobs() > n+1 })
	s.noMoreTicks()
	s.settled()
	slots := s.slots()
	assert.Equal(s, slots, slices.CompactFunc(slices.Clone(slots), time.Time.Equal), "one job each slot")
}
