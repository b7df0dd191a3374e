package bearmq

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A deployed schedule, and its scheduler.
func scheduled(t *testing.T, mq *Context, s Schedule[None], opts ...RepeatOption) (*JobDefinition[None], *scheduler) {
	t.Helper()
	job := Define(Spec[None]{Name: "j"})
	require.NoError(t, mq.Register(job.Repeat(s, opts...)))
	sched := newScheduler(mq)
	ticks(t, sched)
	return job, sched
}

func ticks(t *testing.T, s *scheduler) {
	t.Helper()
	require.NoError(t, second(s.tick(t.Context())))
}

func theSchedule(t *testing.T, mq *Context) ScheduleInfo {
	t.Helper()
	all, err := mq.Schedules(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 1)
	return all[0]
}

// redeployed is another process that has come up with a schedule in its code.
func redeployed(t *testing.T, mq *Context, s Schedule[None]) *scheduler {
	t.Helper()
	_, sched := scheduled(t, sibling(t, mq), s)
	return sched
}

func TestSchedulesAreListed(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	all, err := mq.Schedules(t.Context())
	require.NoError(t, err)
	require.Empty(t, all)
	_, s := scheduled(t, mq, Every(time.Hour))
	info := theSchedule(t, mq)
	require.Equal(t, ScheduleInfo{Definition: "j", Schedule: "every 1h0m0s", Deployed: "every 1h0m0s", Next: info.Next}, info)
	slot := overdue(t, mq, time.Hour, time.Hour)
	ticks(t, s)
	info = theSchedule(t, mq)
	require.True(t, info.Last.Equal(slot), "%v", info.Last)
	require.True(t, info.Next.Equal(slot.Add(time.Hour)), "%v", info.Next)
}

// A paused schedule makes nothing, survives deploys, and goes on with the slot
// after it was resumed.
func TestPauseSchedule(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	_, s := scheduled(t, mq, Every(time.Hour), CatchUp(10))
	for range 2 {
		require.NoError(t, mq.PauseSchedule(t.Context(), "j"))
	}
	require.True(t, theSchedule(t, mq).Paused)
	overdue(t, mq, time.Hour, 3*time.Hour)
	ticks(t, s)
	ticks(t, redeployed(t, mq, Every(time.Hour)))
	require.Empty(t, jobs(t, mq))
	ticks(t, redeployed(t, mq, Every(2*time.Hour)))
	require.True(t, theSchedule(t, mq).Paused, "another schedule in the code changes nothing of it")
	overdue(t, mq, time.Hour, 3*time.Hour)
	for range 2 {
		require.NoError(t, mq.ResumeSchedule(t.Context(), "j"))
		ticks(t, s)
		require.Empty(t, jobs(t, mq), "what the pause has missed")
	}
	require.False(t, theSchedule(t, mq).Paused)
	slot := overdue(t, mq, 2*time.Hour, 2*time.Hour)
	require.NoError(t, mq.ResumeSchedule(t.Context(), "j"))
	require.True(t, theSchedule(t, mq).Next.Equal(slot), "resuming what is not paused skips nothing")
	ticks(t, s)
	require.Len(t, jobs(t, mq), 1)
}

// A tick that is under way when a schedule is paused or removed makes nothing
// after that.
func TestTickOfAPausedSchedule(t *testing.T) {
	t.Parallel()
	for name, stop := range map[string]func(*Context, context.Context, string) error{
		"paused": (*Context).PauseSchedule, "removed": (*Context).RemoveSchedule,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mq := quiet(t, Options{})
			job := Define(Spec[int]{Name: "j"})
			require.NoError(t, mq.Register(job.RepeatWith(Every(time.Hour), func(time.Time) int {
				assert.NoError(t, stop(mq, context.Background(), "j"))
				return 1
			})))
			s := newScheduler(mq)
			ticks(t, s)
			overdue(t, mq, time.Hour, time.Hour)
			ticks(t, s)
			require.Empty(t, jobs(t, mq))
		})
	}
}

// A removed schedule stays away until the code has another one.
func TestRemoveSchedule(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	_, s := scheduled(t, mq, Every(time.Hour))
	require.NoError(t, mq.RemoveSchedule(t.Context(), "j"))
	overdue(t, mq, time.Hour, time.Hour)
	ticks(t, s)
	ticks(t, redeployed(t, mq, Every(time.Hour)))
	require.Empty(t, jobs(t, mq))
	all, err := mq.Schedules(t.Context())
	require.NoError(t, err)
	require.Empty(t, all)
	require.ErrorIs(t, mq.RemoveSchedule(t.Context(), "j"), ErrScheduleNotFound)
	require.ErrorIs(t, mq.PauseSchedule(t.Context(), "j"), ErrScheduleNotFound)
	require.ErrorIs(t, mq.ChangeSchedule(t.Context(), "j", Every(time.Hour)), ErrScheduleNotFound)

	ticks(t, redeployed(t, mq, Every(2*time.Hour)))
	require.Equal(t, "every 2h0m0s", theSchedule(t, mq).Schedule)
	require.NoError(t, mq.RemoveSchedule(t.Context(), "j"))
	require.NoError(t, mq.ResumeSchedule(t.Context(), "j"))
	require.Equal(t, "every 2h0m0s", theSchedule(t, mq).Schedule)
	overdue(t, mq, 2*time.Hour, 2*time.Hour)
	ticks(t, s)
	require.Len(t, jobs(t, mq), 1)
}

// A change holds for everybody, and until the code says something new.
func TestChangeSchedule(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	hourly, other := Every(time.Hour), Cron("0 9 * * *", "Asia/Tokyo")
	job := Define(Spec[string]{Name: "j"})
	require.NoError(t, mq.Register(job.RepeatWith(hourly, func(tick time.Time) string { return tick.Format("15:04 MST") })))
	s := newScheduler(mq)
	ticks(t, s)
	require.NoError(t, mq.ChangeSchedule(t.Context(), "j", other))
	ticks(t, redeployed(t, mq, hourly))
	info := theSchedule(t, mq)
	require.Equal(t, other.String(), info.Schedule)
	require.Equal(t, hourly.String(), info.Deployed)
	now, err := mq.store.Now(t.Context())
	require.NoError(t, err)
	require.True(t, info.Next.Equal(other.Next(now)), "%v", info.Next)

	exec(t, mq, "UPDATE bearmq.schedule SET next_at = $1", other.Next(now.Add(-25*time.Hour)))
	require.NoError(t, mq.ChangeSchedule(t.Context(), "j", other)) // no change: what is due stays so
	ticks(t, s)
	require.Equal(t, []string{`"09:00 JST"`}, payloads(jobs(t, mq)))
	require.True(t, theSchedule(t, mq).Next.Equal(other.Next(now)))

	ticks(t, redeployed(t, mq, Every(3*time.Hour)))
	require.Equal(t, "every 3h0m0s", theSchedule(t, mq).Schedule)

	requireRefused(t, mq.ChangeSchedule(t.Context(), "j", Every(0)), "Every")
	requireRefused(t, mq.ChangeSchedule(t.Context(), "j", Schedule[None]{}), "Schedule")
	require.Equal(t, "every 3h0m0s", theSchedule(t, mq).Schedule)
}

// A schedule whose text this process cannot read is left to one that can.
func TestScheduleOfALaterVersion(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	events := listen(t, mq)
	_, s := scheduled(t, mq, Every(time.Hour))
	for _, test := range []struct{ text, refused string }{
		{"solstice", "Schedule"}, {"every x", "Schedule"}, {"every 1ms", "Every"}, {"cron", "Schedule"}, {"cron *", "Schedule"},
		{"cron * * * * * Europe/Bonn", "Cron"}, {"cron 0 9 * * *", "Cron"},
	} {
		exec(t, mq, "UPDATE bearmq.schedule SET spec = $1, next_at = next_at - interval '10 h'", test.text)
		ticks(t, s)
		require.Empty(t, jobs(t, mq))
		requireRefused(t, mq.ResumeSchedule(t.Context(), "j"), test.refused)
	}
	require.Len(t, seen[ScheduleOrphaned](events), 7)
}

// However many deploy, pause, change and resume at once, there is one schedule
// and one job a slot.
func TestSchedulesEditedTogether(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	_, s := scheduled(t, mq, Every(time.Hour))
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			ctx := context.Background()
			for n := range 5 {
				assert.NoError(t, mq.PauseSchedule(ctx, "j"))
				assert.NoError(t, mq.ChangeSchedule(ctx, "j", Every(time.Duration(1+(i+n)%3)*time.Hour)))
				assert.NoError(t, mq.ResumeSchedule(ctx, "j"))
			}
		})
	}
	all.Wait()
	info := theSchedule(t, mq)
	require.False(t, info.Paused)
	schedule := parseSchedule(info.Schedule)
	require.NoError(t, schedule.err)
	require.True(t, info.Next.Equal(schedule.Next(info.Next.Add(-1))), "a slot of the schedule that holds")
	exec(t, mq, "UPDATE bearmq.schedule SET next_at = next_at - interval '6 h'")
	ticks(t, s)
	ticks(t, s)
	require.Len(t, jobs(t, mq), 1)
}

func TestUnknownScheduleName(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	for _, err := range []error{
		mq.PauseSchedule(t.Context(), "j"), mq.ResumeSchedule(t.Context(), "j"), mq.RemoveSchedule(t.Context(), "j"),
		mq.ChangeSchedule(t.Context(), "j", Every(time.Hour)),
	} {
		require.ErrorIs(t, err, ErrScheduleNotFound)
		require.ErrorContains(t, err, `the schedule of "j"`)
	}
}

// What becomes of a slot whose time comes while the job before is not over.
func TestOverlap(t *testing.T) {
	t.Parallel()
	for policy, want := range map[OverlapPolicy]struct {
		made   int // after the second slot
		skips  int
		cancel bool
	}{
		OverlapQueue:   {made: 2},
		OverlapSkip:    {made: 1, skips: 1},
		OverlapReplace: {made: 2, cancel: true},
	} {
		t.Run(policy.String(), func(t *testing.T) {
			t.Parallel()
			mq := quiet(t, Options{})
			events := listen(t, mq)
			job, s := scheduled(t, mq, Every(time.Hour), Overlap(policy))
			started, goOn, causes := make(chan JobID, 10), make(chan bool), make(chan error, 10)
			require.NoError(t, mq.Register(job.Handle(func(ctx context.Context, j *Job[None]) error {
				started <- j.ID
				select {
				case <-goOn:
					return nil
				case <-ctx.Done():
					causes <- context.Cause(ctx)
					return ctx.Err()
				}
			})))
			work(t, mq, WorkerOptions{})
			until(t, "it listens", mq.wakes.hears)

			overdue(t, mq, time.Hour, 3*time.Hour)
			ticks(t, s) // none was before
			first := soon(t, "the first job", started)
			slot := overdue(t, mq, time.Hour, time.Hour)
			ticks(t, s)
			made := await[JobScheduled](t, events, want.made)
			require.Len(t, made, want.made)
			skipped := seen[ScheduleSkipped](events)
			require.Len(t, skipped, want.skips)
			if want.skips > 0 {
				require.Equal(t, first, skipped[0].JobID)
				require.True(t, slot.Equal(skipped[0].Tick))
			}
			require.True(t, theSchedule(t, mq).Next.After(slot), "the schedule goes on")
			if want.cancel {
				require.ErrorIs(t, soon(t, "the end of the first job's context", causes), ErrCancelled)
				until(t, "it is cancelled", func() bool { return recordOf(t, mq, first).State == StateCancelled })
			}
			close(goOn)
			for _, e := range made {
				until(t, "all are over", func() bool { return recordOf(t, mq, e.JobID).Finished })
			}
			overdue(t, mq, time.Hour, time.Hour)
			ticks(t, s)
			require.Len(t, await[JobScheduled](t, events, want.made+1), want.made+1, "the one before is over")
			require.NoError(t, mq.Await(t.Context(), seen[JobScheduled](events)[want.made].JobID))
		})
	}
}

// A job that waits, or is to be cancelled, counts as what it is.
func TestOverlapOfJobsThatWait(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	events := listen(t, mq)
	_, s := scheduled(t, mq, Every(time.Hour), Overlap(OverlapSkip))
	overdue(t, mq, time.Hour, 3*time.Hour)
	ticks(t, s)
	overdue(t, mq, time.Hour, time.Hour)
	ticks(t, s)
	require.Len(t, seen[ScheduleSkipped](events), 1, "it is queued")
	cancelled(t, mq, seen[JobScheduled](events)[0].JobID)
	overdue(t, mq, time.Hour, time.Hour)
	ticks(t, s)
	require.Len(t, seen[JobScheduled](events), 2, "it will not run any more")
	exec(t, mq, "DELETE FROM bearmq.job")
	exec(t, mq, "DELETE FROM bearmq.cancellation")
	overdue(t, mq, time.Hour, time.Hour)
	ticks(t, s)
	require.Len(t, seen[JobScheduled](events), 3, "it was deleted")
}
