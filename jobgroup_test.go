package bearmq

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// No two jobs of a group run at once, on two processes together; the jobs of a
// group run in their order, and its tokens rise.
func TestGroupsExcludeAcrossProcesses(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	var g gauge
	type run struct {
		group   string
		payload int
		token   int64
	}
	var runs notebook[run]
	done := make(chan struct{}, 1000)
	job := Define(Spec[int]{Name: "j"})
	for _, c := range []*Context{mq, sibling(t, mq)} {
		handled(t, c, job, func(_ context.Context, j *Job[int]) error {
			n, leave := g.enter(j.Group)
			defer leave()
			if n > 1 {
				t.Errorf("%d of group %s at once", n, j.Group)
			}
			runs.add(run{j.Group, j.Payload, j.FenceToken()})
			done <- struct{}{}
			return nil
		})
		work(t, c, WorkerOptions{Concurrency: 10})
	}
	const groups, each = 7, 60
	for i := range each { // one transaction after another, so all of this order is promised
		var batch []NewJob
		for n := range groups {
			batch = append(batch, job.Job(i, InGroup(fmt.Sprint(n))))
		}
		_, err := mq.EnqueueBatch(t.Context(), batch...)
		require.NoError(t, err)
	}
	for range groups * each {
		soon(t, "a job", done)
	}
	payloads, tokens := map[string][]int{}, map[string][]int64{}
	for _, r := range runs.all() {
		payloads[r.group] = append(payloads[r.group], r.payload)
		tokens[r.group] = append(tokens[r.group], r.token)
	}
	require.Len(t, payloads, groups)
	for group := range payloads {
		require.Equal(t, upTo(each), payloads[group])
		require.Positive(t, tokens[group][0])
		require.IsNonDecreasing(t, tokens[group])
	}
	until(t, "they are done", func() bool {
		return value[int](t, mq, "SELECT count(*) FROM bearmq.job_state WHERE state = 'completed' AND attempt = 1 AND losses = 0") == groups*each
	})
}

// What a job of the group does first, and the order in which all start.
func TestGroupOrder(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		order GroupOrder
		first func(call int) error // of job 1, from 1
		want  []int
		state State // of job 1 in the end
	}{
		"release, retried":           {Release, func(int) error { return RetryAfter(time.Nanosecond, errBoom) }, []int{0, 1, 2, 3, 4, 1, 1}, StateFailed},
		"release, snoozed":           {Release, func(n int) error { return only(n < 3, Snooze(0)) }, []int{0, 1, 2, 3, 4, 1, 1}, StateCompleted},
		"strict, failed for good":    {Strict, func(int) error { return RetryAfter(0, errBoom) }, []int{0, 1, 1, 1, 2, 3, 4}, StateFailed},
		"strict, retried with delay": {Strict, func(n int) error { return only(n < 3, RetryAfter(50*time.Millisecond, errBoom)) }, []int{0, 1, 1, 1, 2, 3, 4}, StateCompleted},
		"strict, snoozed":            {Strict, func(n int) error { return only(n < 3, Snooze(50*time.Millisecond)) }, []int{0, 1, 1, 1, 2, 3, 4}, StateCompleted},
		"strict, permanent":          {Strict, func(int) error { return Permanent(errBoom) }, []int{0, 1, 2, 3, 4}, StateFailed},
		"strict, panics":             {Strict, func(n int) error { panicIf(n == 1); return nil }, []int{0, 1, 1, 2, 3, 4}, StateCompleted},
	} {
		for _, size := range []int{1, 8} {
			t.Run(fmt.Sprint(name, size), func(t *testing.T) {
				t.Parallel()
				mq := quiet(t, Options{})
				job := Define(Spec[int]{Name: "j", Attempts: 3, Backoff: Constant(0), GroupOrder: test.order})
				var order notebook[int]
				calls := 0
				handled(t, mq, job, func(_ context.Context, j *Job[int]) error {
					order.add(j.Payload)
					if j.Payload == 1 {
						calls++
						return test.first(calls)
					}
					return nil
				})
				ids, err := job.EnqueueMany(t.Context(), mq, upTo(5), InGroup("g"))
				require.NoError(t, err)
				work(t, mq, WorkerOptions{Concurrency: size, PollInterval: time.Hour})
				until(t, "all are finished", func() bool {
					return value[int](t, mq, "SELECT count(*) FROM bearmq.outcome") == 5
				})
				got := order.all()
				if test.order == Strict {
					assert.Equal(t, test.want, got)
				} else { // the first starts are in order; retries come when they come
					assert.ElementsMatch(t, test.want, got)
					var firsts []int
					for _, n := range got {
						if !slices.Contains(firsts, n) {
							firsts = append(firsts, n)
						}
					}
					assert.Equal(t, upTo(5), firsts)
				}
				assert.Equal(t, test.state, recordOf(t, mq, ids[1]).State)
				for _, id := range []JobID{ids[0], ids[2], ids[3], ids[4]} {
					assert.Equal(t, record{State: StateCompleted, Attempt: 1, Finished: true}, recordOf(t, mq, id))
				}
			})
		}
	}
}

func only(yes bool, err error) error {
	if yes {
		return err
	}
	return nil
}

func panicIf(yes bool) {
	if yes {
		panic("no")
	}
}

// A Strict job that waits to be retried holds its group against every
// definition and channel, and against delayed jobs that become due; a delayed
// job that never started holds nobody.
func TestStrictHoldsAgainstEverybody(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	var order notebook[string]
	write := func(_ context.Context, j *Job[string]) error { order.add(j.Payload); return nil }
	strict := Define(Spec[string]{Name: "strict", Attempts: 2, Backoff: Constant(time.Hour), GroupOrder: Strict})
	handled(t, mq, strict, func(_ context.Context, j *Job[string]) error {
		order.add(j.Payload)
		return only(j.Attempt == 1, errBoom)
	})
	other := Define(Spec[string]{Name: "other", Channel: "c"})
	handled(t, mq, other, write)

	delayed := enqueued(t, mq, strict, "delayed", InGroup("g"), Delay(time.Hour))
	enqueued(t, mq, other, "passes", InGroup("g"))
	drain(t, mq, WorkerOptions{})
	require.Equal(t, []string{"passes"}, order.all())

	id := enqueued(t, mq, strict, "strict", InGroup("g"))
	drain(t, mq, WorkerOptions{})
	enqueued(t, mq, other, "other channel", InGroup("g"))
	enqueued(t, mq, other, "due", InGroup("g"), Delay(time.Nanosecond))
	enqueued(t, mq, other, "free")
	drain(t, mq, WorkerOptions{})
	require.ElementsMatch(t, []string{"passes", "strict", "free"}, order.all())
	require.Equal(t, StateRetrying, recordOf(t, mq, id).State)

	exec(t, mq, "UPDATE bearmq.ticket SET run_at = clock_timestamp() WHERE job_id = $1", id)
	drain(t, mq, WorkerOptions{})
	all := order.all()
	require.Equal(t, "strict", all[3])
	require.ElementsMatch(t, []string{"other channel", "due"}, all[4:])
	require.Equal(t, StateScheduled, recordOf(t, mq, delayed).State)
}

// A group spans definitions, channels and workers.
func TestGroupAcrossDefinitionsAndChannels(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	var g gauge
	done := make(chan string, 1000)
	run := func(_ context.Context, j *Job[int]) error {
		n, leave := g.enter(j.Group)
		defer leave()
		if n > 1 {
			t.Errorf("%d of group %s at once", n, j.Group)
		}
		done <- j.Channel
		return nil
	}
	a, b := Define(Spec[int]{Name: "a", Channel: "x"}), Define(Spec[int]{Name: "b", Channel: "y"})
	handled(t, mq, a, run)
	handled(t, mq, b, run)
	other := sibling(t, mq)
	handled(t, other, a, run)
	handled(t, other, b, run)
	for i := range 50 {
		_, err := mq.EnqueueBatch(t.Context(), a.Job(i, InGroup("g")), b.Job(i, InGroup("g")), b.Job(i, InGroup("h"), Delay(time.Nanosecond)), a.Job(i, InGroup("h")))
		require.NoError(t, err)
	}
	work(t, mq, WorkerOptions{PollInterval: time.Hour})
	work(t, other, WorkerOptions{Channels: []string{"x"}, PollInterval: time.Hour})
	work(t, other, WorkerOptions{Channels: []string{"y"}, PollInterval: time.Hour})
	ran := map[string]int{}
	for range 200 {
		ran[soon(t, "a job", done)]++
	}
	require.Equal(t, map[string]int{"x": 100, "y": 100}, ran)
}

// What a dead process held of a group goes on in its order, from its first
// unfinished job, under a higher token.
func TestGroupOfADeadProcess(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{SessionTTL: 3 * time.Second})
	leaves(t, mq)
	gone := sibling(t, mq)
	job := Define(Spec[int]{Name: "j", GroupOrder: Strict})
	var first, tokens notebook[int64]
	started := make(chan struct{}, 1)
	require.NoError(t, gone.Register(job.Handle(func(ctx context.Context, j *Job[int]) error {
		first.add(j.FenceToken())
		if j.Payload == 3 {
			started <- struct{}{}
			<-ctx.Done()
		}
		return ctx.Err()
	})))
	var order notebook[int]
	handled(t, mq, job, func(_ context.Context, j *Job[int]) error {
		order.add(j.Payload)
		tokens.add(j.FenceToken())
		return nil
	})
	_, err := job.EnqueueMany(t.Context(), mq, upTo(50), InGroup("g"))
	require.NoError(t, err)
	events := listen(t, mq)
	lost := listen(t, gone)
	w := work(t, gone, WorkerOptions{Concurrency: 1})
	soon(t, "the handler", started)
	until(t, "those before are done", func() bool { return value[int](t, mq, "SELECT count(*) FROM bearmq.outcome") == 3 })
	drain(t, mq, WorkerOptions{})
	require.Empty(t, order.all(), "the group is busy")
	recoverAll(t, mq)
	require.Empty(t, seen[JobRecovered](events), "its session lives")
	kill(t, mq)
	w.cancel()
	recoverAll(t, mq)
	require.Len(t, seen[JobRecovered](events), 1)
	drain(t, mq, WorkerOptions{})
	require.Equal(t, upTo(50)[3:], order.all())
	require.Greater(t, slices.Min(tokens.all()), slices.Max(first.all()))
	await[LeaseLost](t, lost, 1)
	require.NoError(t, w.stop(t))
}

// Groups that nobody has used for a while are deleted; those in use are not,
// and a token never falls.
func TestIdleGroupsAreCollected(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	events := listen(t, mq)
	var tokens notebook[int64]
	handled(t, mq, numbers, func(_ context.Context, j *Job[int]) error {
		tokens.add(j.FenceToken())
		return only(j.Payload == 1, Snooze(time.Hour))
	})
	strict := Define(Spec[int]{Name: "strict", GroupOrder: Strict})
	handled(t, mq, strict, func(context.Context, *Job[int]) error { return Snooze(time.Hour) })
	enqueued(t, mq, numbers, 0, InGroup("idle"))
	enqueued(t, mq, numbers, 1, InGroup("snoozing"))
	enqueued(t, mq, strict, 1, InGroup("held"))
	drain(t, mq, WorkerOptions{})
	collector := &groupCollector{daemon: &daemon{mq: mq, name: "test"}}
	collect := func() []string {
		_, err := collector.tick(t.Context())
		require.NoError(t, err)
		anchors := column[string](t, mq, "SELECT key FROM bearmq.group_anchor ORDER BY key")
		require.Subset(t, anchors, column[string](t, mq, "SELECT key FROM bearmq.job_group"))
		return anchors
	}
	require.Equal(t, []string{"held", "idle", "snoozing"}, collect(), "not idle for long enough")
	require.Empty(t, seen[JobGroupsDeleted](events))
	for _, table := range []string{"job_group", "group_anchor"} {
		exec(t, mq, "UPDATE bearmq."+table+" SET ver = ver - $1", (groupIdle + time.Second).Microseconds())
	}
	require.Equal(t, []string{"held"}, collect())
	deleted := seen[JobGroupsDeleted](events)
	require.Len(t, deleted, 1)
	require.EqualValues(t, 2, deleted[0].Count)
	enqueued(t, mq, numbers, 0, InGroup("idle"))
	drain(t, mq, WorkerOptions{})
	require.Greater(t, tokens.all()[2], slices.Max(tokens.all()[:2]))
}
