package bearmq

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files of testdata anew")

// describe is an event without what differs from run to run.
func describe(e Event) string {
	about := e.Common()
	var b strings.Builder
	b.WriteString(string(e.Kind()))
	add := func(format string, args ...any) { fmt.Fprintf(&b, " "+format, args...) }
	if about.JobID != 0 {
		add("job=%d", about.JobID)
	}
	for _, f := range []struct{ name, value string }{{"definition", about.Definition}, {"channel", about.Channel}, {"group", about.Group}, {"worker", about.Worker}} {
		if f.value != "" {
			add("%s=%s", f.name, f.value)
		}
	}
	if about.Attempt != 0 {
		add("attempt=%d", about.Attempt)
	}
	failure := func(err error) {
		if err != nil {
			line, _, _ := strings.Cut(err.Error(), "\n")
			add("error=%q", line)
		}
	}
	switch e := e.(type) {
	case JobEnqueued:
		add("in_tx=%t", e.InTx)
	case JobErrored:
		failure(e.Err)
		add("retry=%t", e.Retry)
		if e.Retry {
			add("in=%v", e.RetryIn)
		}
	case JobExpired:
		failure(e.Err)
		add("losses=%d", e.Losses)
	case LeaseLost:
		add("jobs=%v", e.Jobs)
	case JobRecovered:
		add("losses=%d", e.Losses)
	case JobsDeleted:
		add("count=%d", e.Count)
	case JobGroupsDeleted:
		add("count=%d", e.Count)
	case DaemonStarted:
		add("daemon=%s", e.Daemon)
	case DaemonStopped:
		add("daemon=%s", e.Daemon)
		failure(e.Err)
	case DaemonFailing:
		add("daemon=%s loop=%s", e.Daemon, e.Loop)
		failure(e.Err)
	}
	return b.String()
}

// golden wants the events to be those of testdata/events.
func golden(t *testing.T, name string, r *recorder) {
	t.Helper()
	var text strings.Builder
	all, _ := r.all()
	for _, e := range all {
		require.WithinDuration(t, time.Now(), e.Common().Time, 10*time.Minute, "every event has its time")
		fmt.Fprintln(&text, describe(e))
	}
	path := filepath.Join("testdata", "events", name+".golden")
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text.String()), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "go test -run TestOrderOfEvents -update writes it")
	require.Equal(t, string(want), text.String())
}

// The events of a job's ways through the system, in their order. Each way runs
// alone on a worker of its own, so that the order is the only possible one.
func TestOrderOfEvents(t *testing.T) {
	t.Parallel()
	one := WorkerOptions{Name: "w", Concurrency: 1}
	o := func(mq *Context) *daemon { return &daemon{mq: mq, name: "o"} }
	job := func(order GroupOrder) *JobDefinition[string] {
		return Define(Spec[string]{Name: "j", Channel: "c", Attempts: 2, Backoff: Constant(0), GroupOrder: order})
	}
	never := func(ctx context.Context, _ *Job[string]) error { <-ctx.Done(); return ctx.Err() }
	for name, way := range map[string]func(t *testing.T, mq *Context, r *recorder){
		"success": func(t *testing.T, mq *Context, _ *recorder) {
			d := job(Release)
			handled(t, mq, d, func(context.Context, *Job[string]) error { return nil })
			enqueued(t, mq, d, "x", InGroup("g"))
			drain(t, mq, one)
		},
		"transaction": func(t *testing.T, mq *Context, _ *recorder) {
			tx, err := mq.pool.Begin(t.Context())
			require.NoError(t, err)
			enqueued(t, mq.In(tx), job(Release), "x")
			require.NoError(t, tx.Rollback(t.Context()))
		},
		"retry": func(t *testing.T, mq *Context, _ *recorder) {
			d := job(Release)
			handled(t, mq, d, func(_ context.Context, j *Job[string]) error {
				return only(j.Attempt == 1, RetryAfter(time.Microsecond, errBoom))
			})
			enqueued(t, mq, d, "x")
			drain(t, mq, one)
		},
		"snooze": func(t *testing.T, mq *Context, _ *recorder) {
			d, calls := job(Release), 0
			handled(t, mq, d, func(context.Context, *Job[string]) error { calls++; return only(calls == 1, Snooze(0)) })
			enqueued(t, mq, d, "x")
			drain(t, mq, one)
		},
		"expiry": func(t *testing.T, mq *Context, _ *recorder) {
			d := job(Release)
			handled(t, mq, d, func(context.Context, *Job[string]) error { panic("no") })
			enqueued(t, mq, d, "x")
			drain(t, mq, one)
		},
		"permanent": func(t *testing.T, mq *Context, _ *recorder) {
			d := job(Release)
			handled(t, mq, d, func(context.Context, *Job[string]) error { return Permanent(errBoom) })
			enqueued(t, mq, d, "x")
			drain(t, mq, one)
		},
		"strict": func(t *testing.T, mq *Context, _ *recorder) {
			d := job(Strict)
			handled(t, mq, d, func(_ context.Context, j *Job[string]) error { return only(j.Payload == "1", errBoom) })
			for _, payload := range []string{"1", "2"} {
				enqueued(t, mq, d, payload, InGroup("g"))
			}
			drain(t, mq, one)
		},
		"orphan": func(t *testing.T, mq *Context, _ *recorder) {
			enqueued(t, mq, job(Release), "x")
			drain(t, mq, one)
			d := job(Release)
			handled(t, mq, d, func(context.Context, *Job[string]) error { return nil })
			drain(t, mq, one)
		},
		"timeout": func(t *testing.T, mq *Context, r *recorder) {
			d := job(Release)
			handled(t, mq, d, func(ctx context.Context, _ *Job[string]) error {
				<-ctx.Done()
				await[JobStuck](t, r, 1)
				return ctx.Err()
			})
			enqueued(t, mq, d, "x", WithTimeout(time.Millisecond), Attempts(1))
			drain(t, mq, one)
		},
		"loss": func(t *testing.T, mq *Context, r *recorder) {
			d := job(Release)
			handled(t, mq, d, never)
			id := enqueued(t, mq, d, "x", InGroup("g"))
			for n := range 3 {
				w := work(t, mq, one)
				await[JobStarted](t, r, n+1)
				kill(t, mq)
				await[LeaseLost](t, r, n+1)
				require.NoError(t, w.stop(t))
				recoverNamed(t, o(mq))
			}
			require.Equal(t, StateFailed, recordOf(t, mq, id).State)
		},
		"unlock": func(t *testing.T, mq *Context, r *recorder) {
			d := job(Release)
			handled(t, mq, d, func(ctx context.Context, j *Job[string]) error {
				if j.Payload == "1" {
					return never(ctx, j)
				}
				return nil
			})
			id := enqueued(t, mq, d, "1", InGroup("g"))
			exec(t, mq, "INSERT INTO bearmq.ticket (job_id, lane, name, group_key, state, run_at, losses, xid) SELECT id, lane, name, group_key, 'd', clock_timestamp(), 2, xid FROM bearmq.job")
			exec(t, mq, "UPDATE bearmq.job SET xid = NULL WHERE id = $1", id)
			w := work(t, mq, one)
			await[JobStarted](t, r, 1)
			exec(t, mq, "UPDATE bearmq.lease SET created_at = created_at - interval '61 seconds' WHERE NOT finished")
			require.NoError(t, second((&groupUnlocker{o(mq)}).tick(t.Context())))
			await[LeaseLost](t, r, 1)
			require.NoError(t, w.stop(t))
		},
		"stop": func(t *testing.T, mq *Context, r *recorder) {
			d := job(Release)
			handled(t, mq, d, never)
			enqueued(t, mq, d, "1")
			opts := one
			opts.StopGrace = NoStopGrace
			w := work(t, mq, opts)
			await[JobStarted](t, r, 1)
			require.NoError(t, w.stop(t))
		},
		"schedule": func(t *testing.T, mq *Context, _ *recorder) {
			require.NoError(t, mq.Register(Define(Spec[None]{Name: "tick", Channel: "c"}).Repeat(Every(time.Hour))))
			s := &scheduler{daemon: o(mq)}
			require.NoError(t, second(s.tick(t.Context())))
			overdue(t, mq, time.Hour, time.Hour)
			require.NoError(t, second(s.tick(t.Context())))
			exec(t, mq, "INSERT INTO bearmq.schedule (name, spec, next_at) VALUES ('unknown', 'every 1h0m0s', clock_timestamp())")
			require.NoError(t, second(s.tick(t.Context())))
		},
		"delete": func(t *testing.T, mq *Context, _ *recorder) {
			d := job(Release)
			handled(t, mq, d, func(context.Context, *Job[string]) error { return nil })
			enqueued(t, mq, d, "x", InGroup("g"))
			drain(t, mq, one)
			exec(t, mq, "UPDATE bearmq.outcome SET finished_at = finished_at - interval '1 day'")
			exec(t, mq, "UPDATE bearmq.group_anchor SET ver = ver - 61000000")
			require.NoError(t, second((&deleter{daemon: o(mq)}).tick(t.Context())))
			require.NoError(t, second((&groupCollector{daemon: o(mq)}).tick(t.Context())))
		},
		"daemon": func(t *testing.T, mq *Context, r *recorder) {
			running := launch(t, NewOrchestrator(mq, OrchestratorOptions{Name: "o"}))
			await[DaemonStarted](t, r, 1)
			require.NoError(t, running.stop(t))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mq := quiet(t, Options{SessionTTL: 3 * time.Second, GroupUnlock: time.Minute})
			leaves(t, mq)
			r := listen(t, mq)
			way(t, mq, r)
			golden(t, name, r)
		})
	}
}

func recoverNamed(t *testing.T, d *daemon) {
	t.Helper()
	require.NoError(t, second((&recoverer{daemon: d, every: time.Second}).tick(t.Context())))
}

// Every job has one end, and tells it once.
func TestOneEndForEachJob(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	r := listen(t, mq)
	handled(t, mq, Define(Spec[int]{Name: "numbers", Attempts: 2, Backoff: Constant(0)}), func(_ context.Context, j *Job[int]) error {
		switch {
		case j.Payload%5 == 0:
			return errBoom
		case j.Payload%5 == 1 && j.Attempt == 1:
			panic("no")
		}
		return nil
	})
	_, err := numbers.EnqueueMany(t.Context(), mq, upTo(500))
	require.NoError(t, err)
	drain(t, mq, WorkerOptions{})
	ends, starts := map[JobID]int{}, map[JobID]int{}
	all, _ := r.all()
	for _, e := range all {
		id := e.Common().JobID
		switch e.(type) {
		case JobStarted:
			starts[id]++
			require.Zero(t, ends[id], "nothing starts after the end")
		case JobSucceeded, JobExpired:
			ends[id]++
		}
	}
	require.Len(t, ends, 500)
	for id, n := range ends {
		require.Equal(t, 1, n)
		require.LessOrEqual(t, starts[id], 2)
	}
}

// No handler, no cost.
func TestUnobservedEventsCostNothing(t *testing.T) {
	mq := offline(t, Options{})
	r := &workerRun{daemon: daemon{mq: mq, name: "w"}}
	a := &attempt{job: &RawJob{ID: 1, Name: "j"}}
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if r.mq.observed() {
			r.mq.emit(JobStarted{a.job.about(r.name)})
		}
	}))
	b := &batch{}
	require.Zero(t, testing.AllocsPerRun(1000, func() { b.tell(mq, false) }))
}
