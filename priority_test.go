package bearmq

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// Of a channel, and of all channels of a worker, the highest priority comes first.
func TestPriority(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	var ran notebook[string]
	low := Define(Spec[string]{Name: "low", Priority: -5})
	high := Define(Spec[string]{Name: "high", Channel: "other", Priority: 7})
	plain := Define(Spec[string]{Name: "plain"})
	for _, d := range []*JobDefinition[string]{low, high, plain} {
		handled(t, mq, d, func(_ context.Context, j *Job[string]) error { ran.add(j.Payload); return nil })
	}
	enqueued(t, mq, low, "low")
	enqueued(t, mq, low, "first", Priority(100))
	enqueued(t, mq, plain, "plain")
	enqueued(t, mq, high, "high")
	enqueued(t, mq, plain, "last", Priority(-100))
	enqueued(t, mq, high, "zero", Priority(0), InChannel("default"))
	_, err := mq.EnqueueBatch(t.Context(), plain.Job("ninety", Priority(90)), low.Job("low too"))
	require.NoError(t, err)
	drain(t, mq, WorkerOptions{Concurrency: 1})
	require.Equal(t, []string{"first", "ninety", "high", "plain", "zero", "low", "low too", "last"}, ran.all())

	channels, err := mq.Channels(t.Context())
	require.NoError(t, err)
	require.Equal(t, []Channel{{Name: "default"}, {Name: "other"}}, channels, "a channel is one, whatever its priorities")
}

// Jobs with a higher priority overtake those that wait, not those that have started.
func TestPriorityOvertakes(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	var ran notebook[int]
	started, goOn := make(chan int), make(chan bool)
	handled(t, mq, numbers, func(_ context.Context, j *Job[int]) error {
		started <- j.Payload
		<-goOn
		ran.add(j.Payload)
		return nil
	})
	for i := range 3 {
		enqueued(t, mq, numbers, i)
	}
	work(t, mq, WorkerOptions{Concurrency: 1})
	require.Equal(t, 0, soon(t, "the first job", started))
	enqueued(t, mq, numbers, 10, Priority(1))
	goOn <- true
	for range 3 {
		soon(t, "the next job", started)
		goOn <- true
	}
	until(t, "all have run", func() bool { return len(ran.all()) == 4 })
	require.Equal(t, []int{0, 10, 1, 2}, ran.all())
}

// Pausing a channel pauses all its priorities, also those that come later.
func TestPauseHoldsForAllPriorities(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	var ran notebook[int]
	handled(t, mq, numbers, func(_ context.Context, j *Job[int]) error { ran.add(j.Payload); return nil })
	enqueued(t, mq, numbers, 1, Priority(1))
	require.NoError(t, mq.Pause(t.Context(), "default"))
	enqueued(t, mq, numbers, 2, Priority(2))
	drain(t, mq, WorkerOptions{})
	require.Empty(t, ran.all())
	require.NoError(t, mq.Resume(t.Context(), "default"))
	drain(t, mq, WorkerOptions{Concurrency: 1})
	require.Equal(t, []int{2, 1}, ran.all())
}

// Lanes of one priority take turns, also when others are served in between.
func TestLanesOfEqualPriorityTakeTurns(t *testing.T) {
	t.Parallel()
	high, a, b := &laneState{id: 1, priority: 1}, &laneState{id: 2, log: true}, &laneState{id: 3, due: true}
	l := &claimLoop{order: []*laneState{high, a, b}, turn: map[int16]int{}}
	served := map[*laneState]int{}
	for range 100 {
		high.log = true
		require.Same(t, high, l.nextLane())
		high.log = false
		served[l.nextLane()]++
	}
	require.Equal(t, map[*laneState]int{a: 50, b: 50}, served)
}
