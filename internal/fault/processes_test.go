//go:build fault && unix

package fault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq"
)

var processRows = []row{
	{1, "kill a worker in the middle of a job", false, killWorker},
	{2, "kill a worker after the handler's return", false, killBeforeFinish},
	{3, "freeze a worker for thrice its TTL", false, freezeLong},
	{4, "freeze a worker for less than half its TTL", false, freezeShort},
	{5, "SIGTERM with good handlers", false, terminate},
	{6, "SIGTERM with handlers that ignore their context", false, terminateDeaf},
	{7, "panics", false, panics},
	{8, "handlers that exit their goroutine", false, exits},
	{9, "a job that kills its process each time", false, killer},
	{10, "a handler that never returns", false, stuck},
	{11, "a handler that burns the CPU", false, hog},
}

// deeds are what handlers do, by name.
var deeds = map[string]deed{
	"":      func(context.Context, *hands, *bearmq.Job[task]) error { return nil },
	"sleep": sleep,
	"deaf": func(_ context.Context, _ *hands, job *bearmq.Job[task]) error {
		wait(context.Background(), job.Payload.For)
		return nil
	},
	"hold once": func(ctx context.Context, h *hands, job *bearmq.Job[task]) error {
		if !h.first(job.ID, "held") {
			return nil
		}
		return sleep(ctx, h, job)
	},
	"deaf once": func(_ context.Context, h *hands, job *bearmq.Job[task]) error {
		if h.first(job.ID, "held") {
			wait(context.Background(), job.Payload.For)
		}
		return nil
	},
	"wait at the gate": func(ctx context.Context, h *hands, job *bearmq.Job[task]) error {
		for !h.open(job.Payload.Group) {
			if !wait(ctx, 10*time.Millisecond) {
				return ctx.Err()
			}
		}
		return nil
	},
	"nothing " + dieAfter: func(context.Context, *hands, *bearmq.Job[task]) error { return nil },
	"effect " + dieAfter:  complete,
	"effect":              complete,
	"effect, die uncommitted": func(ctx context.Context, h *hands, job *bearmq.Job[task]) error {
		tx, err := h.effect(ctx, job)
		if err != nil {
			return err
		}
		if h.first(job.ID, "died") {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return tx.Commit(ctx)
	},
	"effect, hold uncommitted": func(ctx context.Context, h *hands, job *bearmq.Job[task]) error {
		tx, err := h.effect(ctx, job)
		if err != nil {
			return err
		}
		if h.first(job.ID, "held") {
			h.note(job, "uncommitted")
			<-ctx.Done()
		}
		err = tx.Commit(context.WithoutCancel(ctx))
		if err != nil {
			h.note(job, "commit refused")
			_ = tx.Rollback(context.WithoutCancel(ctx))
		}
		return err
	},
	// It is awake again when its context has ended, and tries everything.
	"effect when it is late": func(ctx context.Context, h *hands, job *bearmq.Job[task]) error {
		if !h.first(job.ID, "held") {
			return complete(ctx, h, job)
		}
		<-ctx.Done()
		err := complete(context.WithoutCancel(ctx), h, job)
		h.note(job, fmt.Sprintf("late: %v", errors.Is(err, bearmq.ErrLeaseLost)))
		return nil
	},
	"panic with a string": func(context.Context, *hands, *bearmq.Job[task]) error { panic("it was a string") },
	"panic with an error": func(context.Context, *hands, *bearmq.Job[task]) error { panic(errors.New("it was an error")) },
	"panic with nil":      func(context.Context, *hands, *bearmq.Job[task]) error { panic(nil) },
	"panic in the runtime": func(_ context.Context, _ *hands, job *bearmq.Job[task]) error {
		return errors.New([]string{}[job.Payload.N])
	},
	"goexit": func(context.Context, *hands, *bearmq.Job[task]) error {
		runtime.Goexit()
		return nil
	},
	"fail now": func(context.Context, *hands, *bearmq.Job[task]) error {
		new(testing.T).FailNow()
		return nil
	},
	"fail once": func(_ context.Context, h *hands, job *bearmq.Job[task]) error {
		if h.first(job.ID, "failed") {
			return errors.New("on purpose")
		}
		return nil
	},
	"snooze once": func(_ context.Context, h *hands, job *bearmq.Job[task]) error {
		if h.first(job.ID, "snoozed") {
			return bearmq.Snooze(20 * time.Millisecond)
		}
		return nil
	},
	"kill the process": killProcess,
	"burn":             burn,
}

func sleep(ctx context.Context, _ *hands, job *bearmq.Job[task]) error {
	if !wait(ctx, job.Payload.For) {
		return ctx.Err()
	}
	return nil
}

// complete finishes a job together with its effect.
func complete(ctx context.Context, h *hands, job *bearmq.Job[task]) error {
	tx, err := h.effect(ctx, job)
	if err != nil {
		return err
	}
	return tx.Commit(ctx)
}

type transaction interface {
	Commit(context.Context) error
	Rollback(context.Context) error
}

// effect does a job's work in a transaction and completes the job in it.
func (h *hands) effect(ctx context.Context, job *bearmq.Job[task]) (transaction, error) {
	tx, err := h.pool.Begin(ctx)
	if err != nil {
		return nil, err
	}
	_, err = tx.Exec(ctx, "INSERT INTO "+h.table("fault_effect")+" VALUES ($1, $2)", job.Payload.N, h.runs.Load())
	if err == nil {
		err = job.CompleteTx(ctx, tx)
	}
	if err != nil {
		_ = tx.Rollback(context.WithoutCancel(ctx))
		return nil, err
	}
	return tx, nil
}

// Row 1. Another worker starts the job within the recovery time; it has a loss
// and no attempt more; jobs of other groups go on meanwhile.
func killWorker(t *testing.T) {
	s := begin(t)
	s.inside("orchestrator", orchestrator)
	a := s.spawn("A", worker)
	job := s.enqueue(task{Do: "hold once", For: time.Minute, Group: "held"})
	s.await(patience, "A has the job", is(started), of(job), by("A"))
	behind := s.enqueue(task{Group: "held"})
	s.inside("B", worker)
	at := a.kill() // before the load, of which it would take some with it
	stop := s.load(s.mq, 100*time.Millisecond, func(i int) task { return task{Group: fmt.Sprint("other ", i%5)} })
	again := s.await(2*recovery, "B starts the job", is(started), of(job), by("B"))
	stop()
	assert.LessOrEqual(s, again.At.Sub(at), recovery)
	s.settled()

	assert.Equal(s, tally{State: "completed", Attempt: 1, Losses: 1}, s.tally(job))
	assert.Equal(s, tally{State: "completed", Attempt: 1}, s.tally(behind))
	waited := value[float64](s, `SELECT max(extract(epoch FROM finished_at - created_at))::float8 FROM bearmq.job_state WHERE group_key LIKE 'other%'`)
	assert.Less(s, waited, 2.0, "jobs of other groups waited")
	s.Logf("started elsewhere after %s; other groups' jobs took %.2f s at most", seconds(again.At.Sub(at)), waited)
}

// Row 2. A job whose end was not written runs again; one that CompleteTx has
// finished does not; and the effects are there once.
func killBeforeFinish(t *testing.T) {
	s := begin(t)
	s.inside("orchestrator", orchestrator)
	var jobs []int
	for i, do := range []string{"nothing " + dieAfter, "effect " + dieAfter, "effect, die uncommitted"} {
		p := s.spawn(fmt.Sprintf("A%d", i+1), worker)
		jobs = append(jobs, s.enqueue(task{Do: do}))
		p.died()
	}
	s.inside("B", worker)
	s.settled()
	assert.Len(s, s.runs(jobs[0]), 2)
	assert.Len(s, s.runs(jobs[1]), 1)
	assert.Len(s, s.runs(jobs[2]), 2)
	assert.Equal(s, []int{0, 1, 1}, []int{s.effects(jobs[0]), s.effects(jobs[1]), s.effects(jobs[2])})
	assert.Equal(s, []int{1, 0, 1}, []int{s.tally(jobs[0]).Losses, s.tally(jobs[1]).Losses, s.tally(jobs[2]).Losses})
	s.unburnt()
}

// Row 3. What the frozen worker had is taken over within the recovery time, also
// where a transaction of CompleteTx was open. When it wakes, its contexts end
// within a second, and nothing that it says counts any more.
func freezeLong(t *testing.T) {
	s := begin(t)
	s.inside("orchestrator", orchestrator)
	a := s.spawn("A", worker)
	late := s.enqueue(task{Do: "effect when it is late", Group: "g"})
	deaf := s.enqueue(task{Do: "deaf once", For: 6 * ttl}) // it must not end with the freeze, however late that begins
	open := s.enqueue(task{Do: "effect, hold uncommitted"})
	for _, n := range []int{late, deaf} {
		s.await(patience, "A has the job", is(started), of(n), by("A"))
	}
	s.await(patience, "A has a transaction open", is(noted), of(open))
	s.inside("B", worker)
	at := a.freeze()
	var last time.Duration
	for _, n := range []int{late, deaf, open} {
		again := s.await(2*recovery, "B starts the job", is(started), of(n), by("B"))
		last = max(last, again.At.Sub(at))
	}
	assert.LessOrEqual(s, last, recovery)
	s.within(time.Until(at.Add(3*ttl))+time.Second, "three TTL", func() bool { return time.Since(at) > 3*ttl })
	woken := a.thaw()
	var noticed time.Duration
	for _, n := range []int{late, deaf, open} {
		c := s.await(patience, "A's context ends", is(cancelled), of(n), by("A"))
		assert.Equal(s, bearmq.ErrLeaseLost.Error(), c.Note)
		noticed = max(noticed, c.At.Sub(woken))
	}
	assert.LessOrEqual(s, noticed, time.Second)
	for _, n := range []int{late, deaf, open} {
		s.await(patience, "A's handler returns", is(ended), of(n), by("A"))
	}
	s.await(patience, "A is told", told("WORKER_LEASE_LOST"), by("A"))
	s.settled()
	require.Len(s, s.find(is(noted), of(late), by("A"), note("late: true")), 1, "CompleteTx says ErrLeaseLost")
	require.Len(s, s.find(is(noted), of(open), by("A"), note("commit refused")), 1)
	for _, n := range []int{late, deaf, open} {
		assert.Equal(s, tally{State: "completed", Attempt: 1, Losses: 1}, s.tally(n))
	}
	assert.Equal(s, []int{1, 1}, []int{s.effects(late), s.effects(open)})
	s.Logf("taken over after %s; contexts ended %s after SIGCONT", seconds(last), seconds(noticed))
}

// Row 4. Nobody takes anything over from a worker that slept for less than half
// its TTL.
func freezeShort(t *testing.T) {
	s := begin(t)
	s.inside("orchestrator", orchestrator)
	a := s.spawn("A", worker)
	job := s.enqueue(task{Do: "sleep", For: ttl, Group: "g"})
	s.await(patience, "A has the job", is(started), of(job), by("A"))
	s.inside("B", worker)
	at := a.freeze()
	s.during(ttl/2-100*time.Millisecond, "the job runs once", func() bool { return len(s.runs(job)) == 1 })
	s.Logf("asleep for %s", seconds(a.thaw().Sub(at)))
	s.settled()
	assert.Len(s, s.runs(job), 1)
	assert.Equal(s, tally{State: "completed", Attempt: 1}, s.tally(job))
}

// Row 5. The process exits within its grace; what it had claimed and not started
// runs elsewhere at once; no attempt is burnt.
func terminate(t *testing.T) {
	const grace = 3 * time.Second
	s := begin(t)
	s.inside("orchestrator", orchestrator)
	// Fast ones first, so that it claims ahead.
	var fast, slow []task
	for range 300 {
		fast = append(fast, s.fill(task{}))
	}
	for range 50 {
		slow = append(slow, s.fill(task{Do: "hold once", For: time.Minute}))
	}
	ids, err := work.EnqueueMany(s.Context(), s.mq, append(fast, slow...))
	require.NoError(s, err)
	s.ack(ids...)
	a := s.spawn("A", worker, func(r *role) { r.Concurrency, r.Grace = 2, grace })
	isSlow := func(r record) bool { return r.N > len(fast) }
	claimed := 0
	s.within(patience, "A runs slow ones and has claimed ahead", func() bool {
		claimed = value[int](s, `SELECT count(*) FROM bearmq.job_state WHERE state = 'running'`)
		return len(s.find(is(started), isSlow)) == 2 && claimed > 2
	})
	at := time.Now()
	a.signal(syscall.SIGTERM)
	s.within(2*time.Second, "what has not started is given back", func() bool {
		return value[int](s, `SELECT count(*) FROM bearmq.job_state WHERE state = 'running'`) <= 2
	})
	back := time.Since(at)
	s.inside("B", worker, func(r *role) {
		r.deed = func(context.Context, *hands, *bearmq.Job[task]) error { return nil }
	})
	s.within(drainTime, "and runs elsewhere", func() bool { return len(s.find(is(ended), isSlow, by("B"))) >= len(slow)-2 })
	a.ends(patience)
	exit := time.Since(at)
	assert.NoError(s, a.err, a.output.String())
	assert.Less(s, exit, grace+2*time.Second)
	for _, r := range s.find(is(cancelled), by("A")) {
		assert.Equal(s, bearmq.ErrShutdown.Error(), r.Note)
	}
	s.settled()
	s.unburnt()
	assert.Zero(s, value[int](s, `SELECT coalesce(sum(losses), 0) FROM bearmq.fault_given`))
	s.Logf("%d claimed jobs were given back %s after SIGTERM, exit after %s of %v grace", claimed-2, seconds(back), seconds(exit), grace)
}

// Row 6. Stop returns at its deadline and names the jobs; the process exits, and
// they are recovered within the recovery time.
func terminateDeaf(t *testing.T) {
	const grace = time.Second
	s := begin(t)
	s.inside("orchestrator", orchestrator)
	a := s.spawn("A", worker, func(r *role) { r.Grace = grace })
	job := s.enqueue(task{Do: "deaf once", For: time.Minute})
	s.await(patience, "A has the job", is(started), of(job))
	at := time.Now()
	a.signal(syscall.SIGTERM)
	a.dead = true // it says so by its exit code
	a.ends(patience)
	exit := time.Since(at)
	assert.Less(s, exit, grace+3*time.Second)
	assert.Equal(s, 1, a.cmd.ProcessState.ExitCode())
	s.own.add(record{Process: "A", PID: a.cmd.Process.Pid, Step: killed})
	said := s.find(is(stopped), by("A"))
	require.Len(s, said, 1)
	id := value[int64](s, `SELECT id FROM bearmq.job WHERE (payload->>'N')::int = $1`, job)
	assert.Contains(s, said[0].Note, fmt.Sprintf(": %d (work)", id))
	s.inside("B", worker)
	again := s.await(2*recovery, "B starts the job", is(started), of(job), by("B"))
	assert.LessOrEqual(s, again.At.Sub(at.Add(exit)), recovery)
	s.settled()
	assert.Equal(s, tally{State: "completed", Attempt: 1, Losses: 1}, s.tally(job))
	s.Logf("exit after %s, started elsewhere %s later", seconds(exit), seconds(again.At.Sub(at.Add(exit))))
}

// failsWith runs jobs that fail in certain ways on a worker of one slot, and
// then one that must run on it all the same.
func failsWith(t *testing.T, ways map[string][]string) {
	s := begin(t)
	s.failing = true
	jobs := map[int][]string{}
	for do, texts := range ways {
		jobs[s.enqueue(task{Do: do}, bearmq.Attempts(2))] = texts
		jobs[s.enqueue(task{Do: do, Group: "g"})] = texts
	}
	w := s.inside("worker", worker, func(r *role) { r.Concurrency = 1 })
	last := s.enqueue(task{Do: ""}, bearmq.Delay(200*time.Millisecond))
	s.drained()
	require.False(s, w.ended())
	s.settled()
	assert.Equal(s, "completed", s.tally(last).State)
	for n, texts := range jobs {
		got := s.tally(n)
		assert.Equal(s, "failed", got.State)
		assert.Zero(s, got.Losses)
		failures := column[string](s, `SELECT e.error FROM bearmq.attempt_error e JOIN bearmq.job j ON j.id = e.job_id WHERE (j.payload->>'N')::int = $1`, n)
		assert.Len(s, failures, got.Attempt, "each attempt has left its error")
		for _, text := range append(failures, got.Error) {
			for _, part := range texts {
				assert.Contains(s, text, part)
			}
		}
	}
	sessions := value[int](s, `SELECT count(*) FROM bearmq.session`)
	assert.Equal(s, 1, sessions, "the worker has lived on")
}

// Row 7. A panic is a failed attempt with its stack, and harms nobody else.
func panics(t *testing.T) {
	failsWith(t, map[string][]string{
		"panic with a string":  {"panic: it was a string", "goroutine ", "processes_test.go"},
		"panic with an error":  {"panic: it was an error", "goroutine ", "processes_test.go"},
		"panic with nil":       {"panic called with nil argument", "goroutine ", "processes_test.go"},
		"panic in the runtime": {"index out of range", "goroutine ", "processes_test.go"},
	})
}

// Row 8. A handler that ends its goroutine has failed, and its slot is free.
func exits(t *testing.T) {
	failsWith(t, map[string][]string{"goexit": {"the handler exited"}, "fail now": {"the handler exited"}})
}

// killProcess ends its process in another way each time.
func killProcess(_ context.Context, h *hands, job *bearmq.Job[task]) error {
	switch {
	case h.first(job.ID, "exit"):
		os.Exit(7)
	case h.first(job.ID, "memory"):
		// Its memory is used up: the runtime ends the process, no handler can recover.
		_ = syscall.Setrlimit(syscall.RLIMIT_AS, &syscall.Rlimit{Cur: 1 << 20, Max: 1 << 20})
		debug.SetGCPercent(-1)
		for kept := [][]byte(nil); ; {
			kept = append(kept, make([]byte, 64<<20))
			kept[len(kept)-1][0] = 1
		}
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// Row 9. A job that kills its process each time has failed at its third loss,
// and its neighbours are completed.
func killer(t *testing.T) {
	s := begin(t)
	s.failing = true
	s.inside("orchestrator", orchestrator)
	var neighbours []int
	for range 3 {
		neighbours = append(neighbours, s.enqueue(task{Do: "sleep", For: 500 * time.Millisecond}))
	}
	job := s.enqueue(task{Do: "kill the process"})
	deaths := 0
	for began := time.Now(); s.tally(job).State != "failed"; deaths++ {
		require.Less(s, time.Since(began), 4*recovery, "it goes on for ever")
		p := s.launch(fmt.Sprintf("A%d", deaths+1), worker)
		s.within(4*recovery, "the process dies, or the job is given up", func() bool { return p.ended() || s.tally(job).State == "failed" })
		if !p.ended() {
			break
		}
		p.died()
	}
	s.settled()
	got := s.tally(job)
	assert.Equal(s, 3, deaths)
	assert.Equal(s, 3, got.Losses)
	assert.Contains(s, got.Error, "lost 3 times")
	assert.Len(s, s.runs(job), 3)
	for _, n := range neighbours {
		assert.Equal(s, "completed", s.tally(n).State)
	}
	expired := s.find(told("WORKER_JOB_EXPIRE"))
	require.Len(s, expired, 1)
	assert.True(s, strings.HasPrefix(expired[0].Note, "losses 3: "), expired[0].Note)
	s.Logf("%d processes died of it; neighbours' losses: %d", deaths, s.tally(neighbours[0]).Losses+s.tally(neighbours[1]).Losses+s.tally(neighbours[2]).Losses)
}

// Row 10. A handler that never returns has its context ended at the timeout and
// is reported; it keeps its slot and its group for as long as its session lives,
// and the other slots go on.
func stuck(t *testing.T) {
	s := begin(t)
	s.inside("orchestrator", orchestrator)
	let := make(chan struct{})
	open := sync.OnceFunc(func() { close(let) })
	defer open()
	s.inside("worker", worker, func(r *role) {
		r.Concurrency = 2
		r.deed = func(_ context.Context, _ *hands, job *bearmq.Job[task]) error {
			if job.Payload.Do == "stick" {
				<-let
			}
			return nil
		}
	})
	job := s.enqueue(task{Do: "stick", Group: "g"}, bearmq.WithTimeout(300*time.Millisecond))
	began := s.await(patience, "it runs", is(started), of(job))
	behind := s.enqueue(task{Group: "g"})
	c := s.await(patience, "its context ends", is(cancelled), of(job))
	assert.Equal(s, bearmq.ErrTimeout.Error(), c.Note)
	assert.Less(s, c.At.Sub(began.At), 300*time.Millisecond+time.Second)
	said := s.await(patience, "it is reported", told("WORKER_JOB_STUCK"))
	s.during(ttl+2*sweep, "its group is locked", func() bool { return len(s.runs(behind)) == 0 })
	other := s.enqueue(task{})
	ran := s.await(patience, "the other slot goes on", is(started), of(other))
	assert.Equal(s, "blocked", s.tally(behind).State)
	open()
	s.settled()
	assert.Equal(s, tally{State: "completed", Attempt: 1}, s.tally(job))
	assert.Len(s, s.find(told("WORKER_JOB_STUCK")), 1)
	s.Logf("context ended after %s, reported after %s; another job started at once: %v", seconds(c.At.Sub(began.At)), seconds(said.At.Sub(began.At)), !ran.At.IsZero())
}

// burn uses all that its process gets of the CPU.
func burn(_ context.Context, _ *hands, job *bearmq.Job[task]) error {
	for until := time.Now().Add(job.Payload.For); time.Now().Before(until); {
		for range 1_000_000 {
		}
	}
	return nil
}

// Row 11. Handlers that burn the only CPU of their process for twice the TTL do
// not stop the renewal of its session; or else they are fenced. Either way no
// two jobs of a group meet, which the oracle sees.
func hog(t *testing.T) {
	s := begin(t)
	s.inside("orchestrator", orchestrator)
	a := s.spawn("A", worker, func(r *role) { r.CPUs = 1 })
	// Only so much of the machine: other rows are waiting for it.
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, a.cmd.Process.Pid, 5)
	var jobs []int
	for i := range 4 {
		jobs = append(jobs, s.enqueue(task{Do: "burn", For: 2 * ttl, Group: fmt.Sprint("g", i)}))
		s.await(patience, "A has the job", is(started), of(jobs[i]), by("A"))
		s.enqueue(task{Group: fmt.Sprint("g", i)})
	}
	s.inside("B", worker)
	s.settled()
	losses := 0
	for _, n := range jobs {
		losses += s.tally(n).Losses
	}
	if losses > 0 {
		assert.NotEmpty(s, s.find(is(cancelled), by("A"), note(bearmq.ErrLeaseLost.Error())), "it was fenced, and told")
	}
	s.Logf("4 handlers burnt the only CPU for %v each: %d losses", 2*ttl, losses)
}
