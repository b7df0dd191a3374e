package bearmq

import (
	"context"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A gauge counts how many are inside at once.
type gauge struct {
	mu  sync.Mutex
	now map[string]int
}

func (g *gauge) enter(name string) (n int, leave func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.now == nil {
		g.now = map[string]int{}
	}
	g.now[name]++
	return g.now[name], func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.now[name]--
	}
}

// The limit of a definition is kept, in groups too, and everything runs soon
// though the worker does not poll.
func TestPerJobLimit(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	events := listen(t, mq)
	var g gauge
	for name, limit := range map[string]int{"one": 1, "three": 3, "free": 0} {
		handled(t, mq, Define(Spec[int]{Name: name}), func(_ context.Context, j *Job[int]) error {
			n, leave := g.enter(name)
			defer leave()
			if limit > 0 && n > limit {
				t.Errorf("%d of %s at once", n, name)
			}
			return nil
		})
	}
	for i := range 60 {
		group := []string{"", "a", "b"}[i%3]
		for _, name := range []string{"one", "three", "free"} {
			_, err := mq.EnqueueRaw(t.Context(), name, []byte("1"), InGroup(group))
			require.NoError(t, err)
		}
	}
	work(t, mq, WorkerOptions{Concurrency: 8, PerJob: map[string]int{"one": 1, "three": 3}, PollInterval: time.Hour})
	await[JobSucceeded](t, events, 180)
}

// Slow jobs of a limited definition hold up neither those of others on the
// same worker, nor those of their own on another one.
func TestPerJobLimitStarvesNobody(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	other := sibling(t, mq)
	slow, quick := Define(Spec[int]{Name: "slow"}), Define(Spec[int]{Name: "quick"})
	events := listen(t, mq)
	let := make(chan struct{})
	defer close(let)
	handled(t, mq, slow, func(ctx context.Context, _ *Job[int]) error {
		select {
		case <-let:
		case <-ctx.Done():
		}
		return nil
	})
	handled(t, mq, quick, func(context.Context, *Job[int]) error { return nil })
	_, err := slow.EnqueueMany(t.Context(), mq, upTo(20))
	require.NoError(t, err)
	w := work(t, mq, WorkerOptions{Concurrency: 6, PerJob: map[string]int{"slow": 3}, StopGrace: NoStopGrace})
	await[JobStarted](t, events, 3)
	_, err = quick.EnqueueMany(t.Context(), mq, upTo(50))
	require.NoError(t, err)
	await[JobSucceeded](t, events, 50)
	require.Len(t, seen[JobStarted](events), 53, "the limit holds")

	done := make(chan int, 20)
	handled(t, other, slow, func(_ context.Context, j *Job[int]) error { done <- j.Payload; return nil })
	work(t, other, WorkerOptions{})
	for range 17 {
		soon(t, "a job on the other worker", done)
	}
	require.NoError(t, w.stop(t))
}

// What a worker has claimed ahead while its jobs were quick does not wait
// behind a slow one: another worker gets it.
func TestNothingWaitsBehindSlowJobs(t *testing.T) {
	t.Parallel()
	for _, quick := range []int{0, 300} {
		mq := quiet(t, Options{})
		other := sibling(t, mq)
		events := listen(t, mq)
		let := make(chan struct{})
		handled(t, mq, numbers, func(_ context.Context, j *Job[int]) error {
			if j.Payload == quick {
				<-let
			}
			return nil
		})
		ids, err := numbers.EnqueueMany(t.Context(), mq, upTo(quick+500))
		require.NoError(t, err)
		w := work(t, mq, WorkerOptions{Concurrency: 1, PollInterval: time.Hour})
		await[JobStarted](t, events, quick+1)
		var elsewhere notebook[int]
		theirs := listen(t, other)
		handled(t, other, numbers, func(_ context.Context, j *Job[int]) error { elsewhere.add(j.Payload); return nil })
		work(t, other, WorkerOptions{PollInterval: time.Hour})
		await[JobSucceeded](t, theirs, 499)
		all := elsewhere.all()
		slices.Sort(all)
		require.Len(t, all, 499)
		require.Equal(t, quick+1, all[0])
		close(let)
		await[JobSucceeded](t, events, quick+1)
		require.NoError(t, w.stop(t))
		for _, id := range ids {
			r := recordOf(t, mq, id)
			require.Equal(t, record{State: StateCompleted, Attempt: 1, Finished: true}, r)
		}
	}
}

// A name that nobody here knows is not attempted: it is reported, and left to
// a worker that knows it.
func TestUnknownNames(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	other := sibling(t, mq)
	mine, theirs := listen(t, mq), listen(t, other)
	handled(t, mq, numbers, func(context.Context, *Job[int]) error { return nil })
	id, err := mq.EnqueueRaw(t.Context(), "theirs", []byte("1"))
	require.NoError(t, err)
	work(t, mq, WorkerOptions{Name: "w"})
	orphan := await[JobOrphaned](t, mine, 1)[0]
	assert.Equal(t, id, orphan.JobID)
	assert.Equal(t, "theirs", orphan.Definition)
	assert.Equal(t, "default", orphan.Channel)
	assert.Equal(t, "w", orphan.Worker)
	enqueued(t, mq, numbers, 1)
	await[JobSucceeded](t, mine, 1)
	until(t, "it is parked", func() bool { return recordOf(t, mq, id).State == StateParked })
	require.Zero(t, recordOf(t, mq, id).Losses)

	handled(t, other, Define(Spec[int]{Name: "theirs"}), func(_ context.Context, j *Job[int]) error {
		assert.Equal(t, 1, j.Attempt)
		return nil
	})
	work(t, other, WorkerOptions{})
	await[JobSucceeded](t, theirs, 1)
	require.Len(t, seen[JobOrphaned](mine), 1, "it was handed out here once")
	require.Empty(t, seen[JobOrphaned](theirs))
}

// Register while the worker runs takes effect at once.
func TestRegisterWhileRunning(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	events := listen(t, mq)
	late := Define(Spec[int]{Name: "late"})
	_, err := late.EnqueueMany(t.Context(), mq, upTo(10), InGroup("g"))
	require.NoError(t, err)
	_, err = late.EnqueueMany(t.Context(), mq, upTo(10))
	require.NoError(t, err)
	work(t, mq, WorkerOptions{PollInterval: time.Hour})
	await[JobOrphaned](t, events, 11)
	handled(t, mq, late, func(context.Context, *Job[int]) error { return nil })
	await[JobSucceeded](t, events, 20)
	require.Equal(t, "late", await[JobDefinitionDeployed](t, events, 1)[0].Definition)
}

// A group whose next job nobody here knows waits for one who does.
func TestUnknownNameKeepsItsPlaceInTheGroup(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	other := sibling(t, mq)
	mine := listen(t, mq)
	var order notebook[string]
	write := func(_ context.Context, j *Job[string]) error { order.add(j.Payload); return nil }
	a, b := Define(Spec[string]{Name: "a"}), Define(Spec[string]{Name: "b"})
	handled(t, mq, a, write)
	batch := []NewJob{a.Job("a1", InGroup("g")), b.Job("b2", InGroup("g")), a.Job("a3", InGroup("g")),
		b.Job("b4", InGroup("g")), b.Job("b5", InGroup("g")), a.Job("a6", InGroup("g"))}
	_, err := mq.EnqueueBatch(t.Context(), batch...)
	require.NoError(t, err)
	_, err = mq.EnqueueBatch(t.Context(), a.Job("free"))
	require.NoError(t, err)
	work(t, mq, WorkerOptions{PollInterval: time.Hour})
	await[JobSucceeded](t, mine, 2)
	await[JobOrphaned](t, mine, 1)
	require.ElementsMatch(t, []string{"a1", "free"}, order.all())
	handled(t, other, b, write)
	work(t, other, WorkerOptions{PollInterval: time.Hour})
	await[JobSucceeded](t, mine, 4)
	require.Equal(t, []string{"a1", "b2", "a3", "b4", "b5", "a6"}, slices.DeleteFunc(order.all(), func(s string) bool { return s == "free" }))
}

// Two services that share a channel and know none of each other's names.
func TestDisjointServicesShareAChannel(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	other := sibling(t, mq)
	var batch []NewJob
	done := make(chan string, 1000)
	for i, c := range []*Context{mq, other} {
		name := []string{"a", "b"}[i]
		d := Define(Spec[int]{Name: name})
		handled(t, c, d, func(context.Context, *Job[int]) error { done <- name; return nil })
		for n := range 200 {
			batch = append(batch, d.Job(n, InGroup([]string{"", "", "g" + name}[n%3])))
		}
	}
	_, err := mq.EnqueueBatch(t.Context(), batch...)
	require.NoError(t, err)
	work(t, mq, WorkerOptions{PollInterval: time.Hour})
	work(t, other, WorkerOptions{PollInterval: time.Hour})
	ran := map[string]int{}
	for range 400 {
		ran[soon(t, "a job", done)]++
	}
	require.Equal(t, map[string]int{"a": 200, "b": 200}, ran)
	until(t, "they are done", func() bool {
		return value[int](t, mq, "SELECT count(*) FROM bearmq.job_state WHERE state = 'completed' AND attempt = 1 AND losses = 0") == 400
	})
}

// The claim loop is told when it may ask again for jobs of a limited
// definition, or for one that runs alone: it may be asleep for an hour.
func TestSlotsTellWhenThereIsRoomAgain(t *testing.T) {
	t.Parallel()
	told := 0
	s := newSlots(4, map[string]int{"limited": 1})
	s.run, s.spared = func(*mailbox) {}, func() { told++ }
	put := func(id JobID, name string, alone bool) (*mailbox, *attempt) {
		a := &attempt{job: &RawJob{ID: id, Name: name}, lease: &lease{session: &session{ctx: context.Background()}}, alone: alone}
		if alone {
			s.addAlone()
		}
		m := &mailbox{lease: a.lease, jobs: []*attempt{a}}
		require.False(t, s.put(m))
		return m, a
	}
	_, first := put(1, "limited", false)
	second, _ := put(2, "limited", false)
	require.Zero(t, s.room("limited"))
	s.end(first, time.Second)
	s.leave("limited") // to the second
	require.Zero(t, told)
	require.Zero(t, s.room("limited"))
	s.forget(second)
	s.leave("limited")
	require.Equal(t, 1, told)
	require.Equal(t, 2, s.room("limited"), "one that may run, and one to follow it")
	require.Equal(t, math.MaxInt32, s.room("free"))

	_, alone := put(3, "free", true)
	require.False(t, s.takeAlone())
	s.end(alone, time.Second)
	require.Equal(t, 2, told)
	require.True(t, s.takeAlone())
	_, _ = put(4, "free", false)
	require.Equal(t, 2, told)
}
