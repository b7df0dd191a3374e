package bearmq

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// overdue makes the next tick of all schedules due: the last whole interval
// that began back ago.
func overdue(t *testing.T, mq *Context, interval, back time.Duration) time.Time {
	t.Helper()
	now, err := mq.store.Now(t.Context())
	require.NoError(t, err)
	slot := nextMultiple(now.Add(-back), interval)
	require.Positive(t, exec(t, mq, "UPDATE bearmq.schedule SET next_at = $1", slot))
	return slot
}

func newScheduler(mq *Context) *scheduler { return &scheduler{daemon: &daemon{mq: mq, name: "test"}} }

// One job for each slot, however many orchestrators tick at once.
func TestOneJobForEachSlot(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	job := Define(Spec[time.Time]{Name: "report", Channel: "c", Group: func(time.Time) string { return "g" }})
	var schedulers []*scheduler
	for range 5 {
		c := sibling(t, mq)
		require.NoError(t, c.Register(job.RepeatWith(Every(time.Hour), func(tick time.Time) time.Time { return tick })))
		s := newScheduler(c)
		wait, err := s.tick(t.Context())
		require.NoError(t, err)
		require.Positive(t, wait)
		require.LessOrEqual(t, wait, time.Hour)
		schedulers = append(schedulers, s)
	}
	require.Empty(t, jobs(t, mq), "no slot is due")
	for round := range 10 {
		exec(t, mq, "DELETE FROM bearmq.job")
		slot := overdue(t, mq, time.Hour, time.Hour)
		var all sync.WaitGroup
		for _, s := range schedulers {
			all.Go(func() {
				_, err := s.tick(context.Background())
				assert.NoError(t, err)
			})
		}
		all.Wait()
		made := jobs(t, mq)
		require.Len(t, made, 1, "round %d", round)
		require.Equal(t, "report", made[0].Name)
		require.Equal(t, "c", made[0].Channel)
		require.Equal(t, "g", *made[0].Group)
		require.JSONEq(t, `"`+slot.Format(time.RFC3339)+`"`, made[0].Payload)
		require.True(t, value[bool](t, mq, "SELECT next_at > clock_timestamp() AND last_at < next_at FROM bearmq.schedule"))
	}
	exec(t, mq, "DELETE FROM bearmq.job")
}

// Slots that nobody made in time are one job, of the last of them.
func TestMissedSlotsAreOneJob(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	events := listen(t, mq)
	job := Define(Spec[None]{Name: "j", Delay: time.Minute})
	require.NoError(t, mq.Register(job.Repeat(Every(time.Hour))))
	s := newScheduler(mq)
	_, err := s.tick(t.Context())
	require.NoError(t, err)
	first := overdue(t, mq, time.Hour, 10*time.Hour)
	for range 3 {
		wait, err := s.tick(t.Context())
		require.NoError(t, err)
		require.LessOrEqual(t, wait, time.Hour)
	}
	made := jobs(t, mq)
	require.Len(t, made, 1)
	require.InDelta(t, 60, *made[0].Wait, patience.Seconds(), "the definition's delay")
	scheduled := seen[JobScheduled](events)
	require.Len(t, scheduled, 1)
	require.Equal(t, made[0].ID, scheduled[0].JobID)
	require.Equal(t, first.Add(9*time.Hour).UTC(), scheduled[0].Tick.UTC())
}

// A slot that this process does not know is reported once and left to one that
// knows it.
func TestUnknownSchedule(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	other := sibling(t, mq)
	for _, name := range []string{"a", "b"} {
		require.NoError(t, other.Register(Define(Spec[None]{Name: name}).Repeat(Every(time.Hour))))
	}
	theirs := newScheduler(other)
	_, err := theirs.tick(t.Context())
	require.NoError(t, err)
	events := listen(t, mq)
	s := newScheduler(mq)
	for round := range 2 {
		slot := overdue(t, mq, time.Hour, time.Hour*time.Duration(2-round))
		for range 3 {
			_, err = s.tick(t.Context())
			require.NoError(t, err)
		}
		orphans := seen[ScheduleOrphaned](events)
		require.Len(t, orphans, 2*(round+1))
		for _, e := range orphans[2*round:] {
			require.Equal(t, slot.UTC(), e.Tick.UTC())
		}
		require.Empty(t, jobs(t, mq))
	}
	_, err = theirs.tick(t.Context())
	require.NoError(t, err)
	require.Len(t, jobs(t, mq), 2)
}

// A payload function that panics is reported and tried again, and holds up no
// other schedule.
func TestSchedulePayloadPanics(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	broken, calls := true, 0
	require.NoError(t, mq.Register(
		Define(Spec[int]{Name: "broken"}).RepeatWith(Every(time.Hour), func(time.Time) int {
			if calls++; broken {
				panic("no")
			}
			return 7
		}),
		Define(Spec[None]{Name: "fine"}).Repeat(Every(time.Hour))))
	s := newScheduler(mq)
	_, err := s.tick(t.Context())
	require.NoError(t, err)
	overdue(t, mq, time.Hour, time.Hour)
	for range 2 {
		_, err = s.tick(t.Context())
		var p *PanicError
		require.ErrorAs(t, err, &p)
		require.ErrorContains(t, err, `definition "broken"`)
	}
	require.Equal(t, 2, calls)
	made := jobs(t, mq)
	require.Len(t, made, 1)
	require.Equal(t, "fine", made[0].Name)
	broken = false
	_, err = s.tick(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"{}", "7"}, payloads(jobs(t, mq)))
}

// A running orchestrator makes ticks on time, and takes up what is registered.
func TestSchedulesRun(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	events := listen(t, mq)
	launch(t, NewOrchestrator(mq, OrchestratorOptions{SchedulePoll: time.Hour}))
	await[DaemonStarted](t, events, 1)
	job := Define(Spec[time.Time]{Name: "j"})
	require.NoError(t, mq.Register(job.RepeatWith(Every(time.Second), func(tick time.Time) time.Time { return tick })))
	made := await[JobScheduled](t, events, 3)
	for i := range made[1:] {
		require.Positive(t, made[i+1].Tick.Sub(made[i].Tick))
		require.Zero(t, made[i].Tick.UnixMilli()%1000)
	}
	// A definition that gets another schedule has only that.
	require.NoError(t, sibling(t, mq).store.DeploySchedules(t.Context(), "j", []string{"every 2s"}, []time.Time{time.Now()}))
	require.Equal(t, []string{"every 2s"}, column[string](t, mq, "SELECT spec FROM bearmq.schedule"))
}
