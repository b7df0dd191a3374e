package bearmq

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
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

func newScheduler(mq *Context) *scheduler {
	return &scheduler{daemon: &daemon{mq: mq, name: "test"}, poll: 2 * time.Hour}
}

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

// halfPast is a schedule of every hour whose last slot was about half an hour
// ago, and the slot before its last n.
func halfPast(t *testing.T, mq *Context, n int) (s Schedule[None], before time.Time) {
	t.Helper()
	now, err := mq.store.Now(t.Context())
	require.NoError(t, err)
	last := now.UTC().Add(-30 * time.Minute).Truncate(time.Minute)
	return Cron(fmt.Sprintf("%d * * * *", last.Minute()), "UTC"), last.Add(-time.Duration(n) * time.Hour)
}

// Slots that nobody made are caught up with as configured.
func TestCatchUp(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		missed int
		opts   []RepeatOption
		want   int // the last of them
	}{
		{3, nil, 1},
		{3, []RepeatOption{CatchUp(0)}, 0},
		{3, []RepeatOption{CatchUp(1)}, 1},
		{3, []RepeatOption{CatchUp(2)}, 2},
		{3, []RepeatOption{CatchUp(3)}, 3},
		{3, []RepeatOption{CatchUp(1000)}, 3},
		{1, []RepeatOption{CatchUp(0)}, 0},
		{24 * 400, []RepeatOption{CatchUp(5)}, 5},
	} {
		t.Run(fmt.Sprintf("%d of %d", test.want, test.missed), func(t *testing.T) {
			t.Parallel()
			mq := quiet(t, Options{})
			schedule, before := halfPast(t, mq, test.missed)
			job := Define(Spec[time.Time]{Name: "j"})
			require.NoError(t, mq.Register(job.RepeatWith(schedule, func(tick time.Time) time.Time { return tick }, test.opts...)))
			s := newScheduler(mq)
			_, err := s.tick(t.Context())
			require.NoError(t, err)
			require.Empty(t, jobs(t, mq))
			exec(t, mq, "UPDATE bearmq.schedule SET next_at = $1", before.Add(time.Hour))
			for range 2 {
				wait, err := s.tick(t.Context())
				require.NoError(t, err)
				require.LessOrEqual(t, wait, time.Hour)
			}
			want := []string{}
			for i := test.missed - test.want; i < test.missed; i++ {
				want = append(want, `"`+before.Add(time.Duration(i+1)*time.Hour).Format(time.RFC3339)+`"`)
			}
			require.Equal(t, want, payloads(jobs(t, mq)))
			require.Equal(t, before.Add(time.Duration(test.missed+1)*time.Hour), value[time.Time](t, mq, "SELECT next_at FROM bearmq.schedule").UTC())
		})
	}
}

// With CatchUp(0) a slot that is only a little late is made.
func TestCatchUpNoneMakesWhatIsOnTime(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	job := Define(Spec[None]{Name: "j"})
	require.NoError(t, mq.Register(job.Repeat(Every(20*time.Second), CatchUp(0))))
	s := newScheduler(mq)
	_, err := s.tick(t.Context())
	require.NoError(t, err)
	overdue(t, mq, 20*time.Second, time.Hour)
	_, err = s.tick(t.Context())
	require.NoError(t, err)
	require.Len(t, jobs(t, mq), 1)
}

// Orchestrators that catch up at once make each slot once.
func TestCatchUpTogether(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	schedule, before := halfPast(t, mq, 30)
	job := Define(Spec[time.Time]{Name: "j"})
	var schedulers []*scheduler
	for range 5 {
		c := sibling(t, mq)
		require.NoError(t, c.Register(job.RepeatWith(schedule, func(tick time.Time) time.Time { return tick }, CatchUp(20))))
		s := newScheduler(c)
		_, err := s.tick(t.Context())
		require.NoError(t, err)
		schedulers = append(schedulers, s)
	}
	exec(t, mq, "UPDATE bearmq.schedule SET next_at = $1", before.Add(time.Hour))
	var all sync.WaitGroup
	for _, s := range schedulers {
		all.Go(func() {
			for range 5 { // one that was too late goes on with what is left
				_, err := s.tick(context.Background())
				assert.NoError(t, err)
			}
		})
	}
	all.Wait()
	var want []string
	for i := 10; i < 30; i++ {
		want = append(want, `"`+before.Add(time.Duration(i+1)*time.Hour).Format(time.RFC3339)+`"`)
	}
	require.Equal(t, want, payloads(jobs(t, mq)))
}

func TestLastDue(t *testing.T) {
	t.Parallel()
	first := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, s := range []Schedule[None]{Every(time.Second), Every(time.Hour), Every(7 * 24 * time.Hour), Cron("30 2 * * *", "America/New_York")} {
		start := s.Next(first)
		slots := []time.Time{start}
		for len(slots) < 700 {
			slots = append(slots, s.Next(slots[len(slots)-1]))
		}
		for _, due := range []int{1, 2, 3, 100, 700} {
			for _, n := range []int{1, 2, 99, 1000} {
				for _, late := range []time.Duration{0, time.Millisecond, 500 * time.Millisecond} {
					got := lastDue(s.next, start, slots[due-1].Add(late), n)
					require.Equal(t, slots[max(due-n, 0):due], got, "%v, the last %d of %d", s, n, due)
				}
			}
		}
	}
	// A year of seconds is not walked through, nor do 200 years overflow.
	now := time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
	require.Equal(t, []time.Time{now.Add(-time.Second), now}, lastDue(Every(time.Second).next, first.AddDate(-50, 0, 0), now, 2))
	years := Every(366 * 24 * time.Hour)
	all := lastDue(years.next, years.Next(first.AddDate(-50, 0, 0)), now, 1000)
	require.Equal(t, years.Next(first.AddDate(-50, 0, 0)), all[0])
	require.Len(t, all, 224)
}

// One job for each slot that is documented, over at least a year with the clocks
// changed in both directions.
func TestScheduleThroughDaylightSaving(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ spec, zone string }{
		{"30 2 * * *", "America/New_York"},    // in the gap
		{"30 1 * * *", "America/New_York"},    // comes twice
		{"15 2 * * *", "Australia/Lord_Howe"}, // in the gap
		{"45 1 * * *", "Australia/Lord_Howe"}, // comes twice
	} {
		t.Run(test.spec+" "+test.zone, func(t *testing.T) {
			t.Parallel()
			mq := quiet(t, Options{})
			zone, err := time.LoadLocation(test.zone)
			require.NoError(t, err)
			schedule := Cron(test.spec, test.zone)
			job := Define(Spec[time.Time]{Name: "j"})
			require.NoError(t, mq.Register(job.RepeatWith(schedule, func(tick time.Time) time.Time { return tick }, CatchUp(1000))))
			s := newScheduler(mq)
			_, err = s.tick(t.Context())
			require.NoError(t, err)
			now, err := mq.store.Now(t.Context())
			require.NoError(t, err)
			first := now.In(zone).AddDate(-1, 0, -10)
			exec(t, mq, "UPDATE bearmq.schedule SET next_at = $1", schedule.Next(first))
			_, err = s.tick(t.Context())
			require.NoError(t, err)

			days := map[string]int{}
			odd := 0
			for _, payload := range payloads(jobs(t, mq)) {
				var tick time.Time
				require.NoError(t, json.Unmarshal([]byte(payload), &tick))
				tick = tick.In(zone)
				days[tick.Format(time.DateOnly)]++
				if start, _ := tick.ZoneBounds(); tick.Equal(start) {
					odd++ // a slot of the gap, right after it
					continue
				}
				require.Equal(t, strings.Fields(test.spec)[1], strconv.Itoa(tick.Hour()))
				require.Equal(t, strings.Fields(test.spec)[0], strconv.Itoa(tick.Minute()))
			}
			require.Equal(t, strings.Fields(test.spec)[1] == "2", odd > 0)
			for day := first.AddDate(0, 0, 1); day.Before(now.AddDate(0, 0, -2)); day = day.AddDate(0, 0, 1) {
				require.Equal(t, 1, days[day.Format(time.DateOnly)], day.Format(time.DateOnly))
			}
		})
	}
}

// Jitter delays the jobs, not the slots.
func TestJitter(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	schedule, before := halfPast(t, mq, 50)
	job := Define(Spec[None]{Name: "j", Delay: time.Hour})
	require.NoError(t, mq.Register(job.Repeat(schedule, CatchUp(50), Jitter(24*time.Hour))))
	s := newScheduler(mq)
	_, err := s.tick(t.Context())
	require.NoError(t, err)
	exec(t, mq, "UPDATE bearmq.schedule SET next_at = $1", before.Add(time.Hour))
	_, err = s.tick(t.Context())
	require.NoError(t, err)
	made := jobs(t, mq)
	require.Len(t, made, 50)
	low, high := *made[0].Wait, *made[0].Wait
	for _, j := range made {
		low, high = min(low, *j.Wait), max(high, *j.Wait)
	}
	require.Greater(t, low, time.Hour.Seconds()-patience.Seconds())
	require.Less(t, high, 25*time.Hour.Seconds()+1)
	require.Greater(t, high-low, 12*time.Hour.Seconds(), "as even as not to fail in one of 10^12 runs")
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
	require.NoError(t, sibling(t, mq).store.DeploySchedule(t.Context(), "j", "every 2s", time.Now()))
	require.Equal(t, []string{"every 2s"}, column[string](t, mq, "SELECT spec FROM bearmq.schedule"))
}
