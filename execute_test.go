package bearmq

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var errBoom = errors.New("boom")

func TestSuccessIsStored(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	job := Define(Spec[email]{Name: "j", Channel: "mail", Attempts: 4, Group: func(e email) string { return e.Tenant }})
	var saw *Job[email]
	handled(t, mq, job, func(_ context.Context, j *Job[email]) error { saw = j; return nil })
	before := time.Now()
	id := enqueued(t, mq, job, email{To: "x", Tenant: "acme"})
	drain(t, mq, WorkerOptions{})

	require.NotNil(t, saw)
	assert.Equal(t, email{To: "x", Tenant: "acme"}, saw.Payload)
	assert.Equal(t, id, saw.ID)
	assert.Equal(t, "j", saw.Name)
	assert.Equal(t, "mail", saw.Channel)
	assert.Equal(t, "acme", saw.Group)
	assert.Equal(t, 1, saw.Attempt)
	assert.Equal(t, 4, saw.MaxAttempts)
	assert.WithinRange(t, saw.EnqueuedAt, before.Add(-time.Minute), time.Now().Add(time.Minute))
	assert.Positive(t, saw.FenceToken())
	assert.Equal(t, record{State: StateCompleted, Attempt: 1, Finished: true}, recordOf(t, mq, id))
	assert.Zero(t, value[int](t, mq, "SELECT count(*) FROM bearmq.ticket"))
}

// The attempts that a job has, and what is kept of each.
func TestAttempts(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		spec    int
		options []EnqueueOption
		want    int
	}{
		"one by default":                  {0, nil, 1},
		"of the definition":               {3, nil, 3},
		"of the job, more":                {1, []EnqueueOption{Attempts(4)}, 4},
		"of the job, fewer":               {5, []EnqueueOption{Attempts(2)}, 2},
		"of the job, with other options":  {2, []EnqueueOption{WithTimeout(time.Hour), WithBackoff(Constant(0))}, 2},
		"of a delayed job":                {3, []EnqueueOption{Delay(time.Nanosecond)}, 3},
		"of a job in a group, of its own": {1, []EnqueueOption{InGroup("g"), Attempts(3)}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mq := quiet(t, Options{})
			events := listen(t, mq)
			job := Define(Spec[int]{Name: "j", Attempts: test.spec, Backoff: Constant(0)})
			var attempts []int
			handled(t, mq, job, func(_ context.Context, j *Job[int]) error {
				attempts = append(attempts, j.Attempt)
				assert.Equal(t, test.want, j.MaxAttempts)
				return fmt.Errorf("failed %d: %w", j.Attempt, errBoom)
			})
			id := enqueued(t, mq, job, 1, test.options...)
			drain(t, mq, WorkerOptions{})
			var wanted []int
			var texts []string
			for i := range test.want {
				wanted = append(wanted, i+1)
				texts = append(texts, fmt.Sprintf("%d failed %d: boom", i+1, i+1))
			}
			require.Equal(t, wanted, attempts)
			require.Equal(t, texts, attemptErrors(t, mq, id))
			last := texts[test.want-1][2:]
			assert.Equal(t, record{State: StateFailed, Attempt: test.want, Finished: true, Error: &last}, recordOf(t, mq, id))
			errored := seen[JobErrored](events)
			require.Len(t, errored, test.want)
			for i, e := range errored {
				assert.ErrorIs(t, e.Err, errBoom)
				assert.Equal(t, i+1, e.Attempt)
				assert.Equal(t, i+1 < test.want, e.Retry)
			}
			expired := seen[JobExpired](events)
			require.Len(t, expired, 1)
			assert.ErrorIs(t, expired[0].Err, errBoom)
		})
	}
}

// When the next attempt is due is what the database has.
func TestBackoffIsStored(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		spec         Backoff
		options      []EnqueueOption
		returned     error
		from, before float64 // seconds
	}{
		"five minutes by default":  {Backoff{}, nil, errBoom, 300, 300},
		"constant":                 {Constant(42 * time.Second), nil, errBoom, 42, 42},
		"exponential":              {Exponential(), nil, errBoom, 2.71, 3},
		"a function":               {BackoffFunc(func(n int) time.Duration { return time.Duration(n) * time.Hour }), nil, errBoom, 3600, 3600},
		"a function that panics":   {BackoffFunc(func(int) time.Duration { panic("no") }), nil, errBoom, 300, 300},
		"of the job":               {Constant(0), []EnqueueOption{WithBackoff(Constant(17 * time.Minute))}, errBoom, 1020, 1020},
		"of the job, exponential":  {Constant(0), []EnqueueOption{WithBackoff(Exponential())}, errBoom, 2.71, 3},
		"RetryAfter":               {Exponential(), nil, RetryAfter(7*time.Minute, errBoom), 420, 420},
		"RetryAfter, wrapped":      {Exponential(), nil, fmt.Errorf("so: %w", RetryAfter(7*time.Minute, errBoom)), 420, 420},
		"RetryAfter, ten years up": {Exponential(), nil, RetryAfter(1<<62, errBoom), maxDuration.Seconds(), maxDuration.Seconds()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mq := quiet(t, Options{})
			job := Define(Spec[int]{Name: "j", Attempts: 2, Backoff: test.spec})
			handled(t, mq, job, func(context.Context, *Job[int]) error { return test.returned })
			id := enqueued(t, mq, job, 1, test.options...)
			drain(t, mq, WorkerOptions{})
			r := recordOf(t, mq, id)
			require.Equal(t, StateRetrying, r.State)
			assert.Equal(t, 2, r.Attempt)
			assert.LessOrEqual(t, *r.Wait, test.before)
			assert.Greater(t, *r.Wait, test.from-patience.Seconds(), "with the time since then")
			assert.Len(t, attemptErrors(t, mq, id), 1)
		})
	}
}

func TestExponentialGrowsWithTheAttempt(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	job := Define(Spec[int]{Name: "j", Attempts: 10, Backoff: Exponential()})
	handled(t, mq, job, func(context.Context, *Job[int]) error { return errBoom })
	id := enqueued(t, mq, job, 1)
	events := listen(t, mq)
	drain(t, mq, WorkerOptions{})
	for range 6 { // the next attempts, at once
		require.EqualValues(t, 1, exec(t, mq, "UPDATE bearmq.ticket SET run_at = clock_timestamp() WHERE job_id = $1", id))
		drain(t, mq, WorkerOptions{})
	}
	r := recordOf(t, mq, id)
	require.Equal(t, 8, r.Attempt)
	require.InDelta(t, 1152, *r.Wait, 90) // e^7 s and up to a tenth more
	require.InDelta(t, *r.Wait, seen[JobErrored](events)[6].RetryIn.Seconds(), patience.Seconds())
}

func TestPermanentFailsAtOnce(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	job := Define(Spec[int]{Name: "j", Attempts: 5, Backoff: Constant(0)})
	var ran atomic.Int32
	handled(t, mq, job, func(context.Context, *Job[int]) error {
		ran.Add(1)
		return fmt.Errorf("so: %w", Permanent(errBoom))
	})
	id := enqueued(t, mq, job, 1)
	drain(t, mq, WorkerOptions{})
	require.EqualValues(t, 1, ran.Load())
	text := "so: boom"
	require.Equal(t, record{State: StateFailed, Attempt: 1, Finished: true, Error: &text}, recordOf(t, mq, id))
	require.Equal(t, []string{"1 so: boom"}, attemptErrors(t, mq, id))
}

// A snooze is no failure: it costs no attempt, leaves no error, and comes as
// often as the handler wants.
func TestSnoozeCostsNoAttempt(t *testing.T) {
	t.Parallel()
	for _, group := range []string{"", "g"} {
		mq := quiet(t, Options{})
		events := listen(t, mq)
		job := Define(Spec[int]{Name: "j"})
		ran := 0
		handled(t, mq, job, func(_ context.Context, j *Job[int]) error {
			assert.Equal(t, 1, j.Attempt)
			if ran++; ran <= 4 {
				return Snooze(0)
			}
			return Snooze(time.Hour)
		})
		id := enqueued(t, mq, job, 1, InGroup(group))
		drain(t, mq, WorkerOptions{})
		require.Equal(t, 5, ran)
		r := recordOf(t, mq, id)
		require.Equal(t, StateScheduled, r.State)
		require.InDelta(t, 3600, *r.Wait, patience.Seconds())
		require.Equal(t, 1, r.Attempt)
		require.Zero(t, r.Losses)
		require.Empty(t, attemptErrors(t, mq, id))
		require.Empty(t, seen[JobErrored](events))
	}
}

func TestResults(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{MaxPayload: 100})
	ctx := t.Context()
	type answer struct{ Sum int }
	sum := DefineResult[[]int, answer](Spec[[]int]{Name: "sum"})
	require.NoError(t, mq.Register(sum.Handle(func(_ context.Context, j *Job[[]int]) (answer, error) {
		a := answer{}
		for _, n := range j.Payload {
			a.Sum += n
		}
		if a.Sum < 0 {
			return a, errBoom
		}
		return a, nil
	})))
	text := DefineResult[int, string](Spec[int]{Name: "text"})
	require.NoError(t, mq.Register(text.Handle(func(_ context.Context, j *Job[int]) (string, error) {
		if j.Payload < 0 {
			return "\x00", nil
		}
		return strings.Repeat("x", j.Payload), nil
	})))
	good := enqueued(t, mq, sum.JobDefinition, []int{1, 2, 39})
	bad := enqueued(t, mq, sum.JobDefinition, []int{-1})
	large := enqueued(t, mq, text.JobDefinition, 100)
	fits := enqueued(t, mq, text.JobDefinition, 98)
	nul := enqueued(t, mq, text.JobDefinition, -1)
	later := enqueued(t, mq, sum.JobDefinition, nil, Delay(time.Hour))
	_, err := sum.Result(ctx, mq, good)
	require.ErrorIs(t, err, ErrNotFinished)
	drain(t, mq, WorkerOptions{})

	got, err := sum.Result(ctx, mq, good)
	require.NoError(t, err)
	assert.Equal(t, answer{42}, got)
	_, err = sum.Result(ctx, mq, later)
	require.ErrorIs(t, err, ErrNotFinished)
	_, err = sum.Result(ctx, mq, later+1000)
	require.ErrorIs(t, err, ErrJobNotFound)
	_, err = text.Result(ctx, mq, fits)
	require.NoError(t, err)
	_, err = text.Result(ctx, mq, good)
	require.ErrorContains(t, err, "does not decode")

	var failed *JobFailedError
	_, err = sum.Result(ctx, mq, bad)
	require.ErrorAs(t, err, &failed)
	assert.Equal(t, JobFailedError{ID: bad, State: StateFailed, Message: "boom"}, *failed)
	for _, id := range []JobID{large, nul} { // a result that cannot be stored is a failed attempt
		_, err = text.Result(ctx, mq, id)
		require.ErrorAs(t, err, &failed)
		assert.Contains(t, failed.Message, "Result must")
	}
}

// evil is an error with methods that panic.
type evil struct{ text, is bool }

func (e evil) Error() string {
	if e.text {
		panic("Error")
	}
	return "evil"
}

func (e evil) Is(error) bool {
	if e.is {
		panic("Is")
	}
	return false
}

// Whatever an error's text is, the failure is stored.
func TestErrorTextIsSanitized(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err  error
		want string
	}{
		"NUL":                  {errors.New("a\x00b"), "ab"},
		"invalid UTF-8":        {errors.New("a\xffb\xc3"), "a\uFFFDb\uFFFD"},
		"quotes and backslash": {errors.New(`a"b\u0000\c'`), `a"b\u0000\c'`},
		"empty":                {errors.New(""), "without text"},
		"Error panics":         {evil{text: true}, "panic"},
		"Is panics":            {evil{is: true}, "panic: Is"},
		"a nil in an error":    {(*evilPointer)(nil), "evilPointer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mq := quiet(t, Options{})
			handled(t, mq, numbers, func(context.Context, *Job[int]) error { return test.err })
			id := enqueued(t, mq, numbers, 1)
			drain(t, mq, WorkerOptions{})
			r := recordOf(t, mq, id)
			require.Equal(t, StateFailed, r.State)
			require.Contains(t, *r.Error, test.want)
			require.Len(t, attemptErrors(t, mq, id), 1)
		})
	}
}

type evilPointer struct{ text string }

func (e *evilPointer) Error() string { return e.text } // panics for nil

func TestErrorTextIsCut(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	handled(t, mq, numbers, func(context.Context, *Job[int]) error { return errors.New(strings.Repeat("ä", 50_000)) })
	id := enqueued(t, mq, numbers, 1)
	drain(t, mq, WorkerOptions{})
	text := *recordOf(t, mq, id).Error
	require.LessOrEqual(t, len(text), maxErrorText)
	require.Greater(t, len(text), maxErrorText-100)
	require.True(t, utf8.ValidString(text))
	require.Contains(t, text, "100000 bytes")
}

// A payload that is not one of the definition's fails without a call, and
// nothing of it is told.
func TestPayloadThatDoesNotDecode(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	called := false
	handled(t, mq, Define(Spec[int]{Name: "numbers", Attempts: 2, Backoff: Constant(0)}), func(context.Context, *Job[int]) error { called = true; return nil })
	other, err := New(mq.pool, Options{Schema: mq.opts.Schema})
	require.NoError(t, err)
	id, err := other.EnqueueRaw(t.Context(), "numbers", []byte(`"secret"`))
	require.NoError(t, err)
	drain(t, mq, WorkerOptions{})
	require.False(t, called)
	r := recordOf(t, mq, id)
	require.Equal(t, StateFailed, r.State)
	require.Equal(t, 2, r.Attempt)
	require.Contains(t, *r.Error, "does not decode")
	require.NotContains(t, *r.Error, "secret")
}

// exits are the ways in which a handler can end other than by returning.
var exits = map[string]struct {
	exit func()
	want string
}{
	"panic with a string": {func() { panic("splash\x00\xff") }, "panic: splash\uFFFD"},
	"panic with an error": {func() { panic(errBoom) }, "panic: boom"},
	"panic with nil":      {func() { panic(nil) }, "panic: panic called with nil argument"},
	"a runtime error":     {func() { _ = make([]int, 0)[len(errBoom.Error())] }, "index out of range"},
	"panic with evil":     {func() { panic(evil{text: true}) }, "PANIC"},
	"Goexit":              {runtime.Goexit, "exited its goroutine"},
	"FailNow":             {func() { new(testing.T).FailNow() }, "exited its goroutine"},
}

// A handler that panics or exits has failed an attempt; its slot is free, even
// if it is the only one, and the rest of its mailbox runs.
func TestPanicAndExit(t *testing.T) {
	t.Parallel()
	for name, test := range exits {
		for _, group := range []string{"", "g"} {
			t.Run(name+" in group "+group, func(t *testing.T) {
				t.Parallel()
				mq := quiet(t, Options{})
				events := listen(t, mq)
				job := Define(Spec[int]{Name: "j", Attempts: 2, Backoff: Constant(time.Hour)})
				var ran notebook[int]
				handled(t, mq, job, func(_ context.Context, j *Job[int]) error {
					ran.add(j.Payload)
					if j.Payload%3 == 1 {
						test.exit()
					}
					return nil
				})
				ids, err := job.EnqueueMany(t.Context(), mq, upTo(9), InGroup(group))
				require.NoError(t, err)
				last := enqueued(t, mq, job, 10, InGroup(group), Attempts(1))
				drain(t, mq, WorkerOptions{Concurrency: 1})
				require.Equal(t, append(upTo(9), 10), ran.all())
				for i, id := range ids {
					r := recordOf(t, mq, id)
					if i%3 != 1 {
						require.Equal(t, StateCompleted, r.State)
						continue
					}
					require.Equal(t, StateRetrying, r.State)
					require.Equal(t, 2, r.Attempt)
					text := attemptErrors(t, mq, id)[0]
					require.Contains(t, text, test.want)
					if !strings.Contains(test.want, "exited") {
						require.Contains(t, text, "execute_test.go", "the stack")
					}
				}
				require.Equal(t, StateFailed, recordOf(t, mq, last).State)
				for _, e := range seen[JobErrored](events) {
					var p *PanicError
					require.Equal(t, !strings.Contains(test.want, "exited"), errors.As(e.Err, &p))
				}
			})
		}
	}
}

// Middleware runs from the outside in: the Options', then the Spec's; it may
// replace the payload, and its panic is the attempt's.
func TestMiddleware(t *testing.T) {
	t.Parallel()
	var order notebook[string]
	named := func(name string) Middleware {
		return func(next Handler) Handler {
			return func(ctx context.Context, job *RawJob) error {
				order.add("+" + name)
				err := next(ctx, job)
				order.add("-" + name)
				return err
			}
		}
	}
	decrypt := func(next Handler) Handler {
		return func(ctx context.Context, job *RawJob) error {
			job.RawPayload = []byte(`"decrypted ` + string(job.RawPayload[1:]))
			return next(ctx, job)
		}
	}
	mq := quiet(t, Options{Middleware: []Middleware{named("a"), named("b")}})
	job := Define(Spec[string]{Name: "j", Middleware: []Middleware{named("c"), decrypt, named("d")}})
	handled(t, mq, job, func(_ context.Context, j *Job[string]) error { order.add(j.Payload); return nil })
	short := Define(Spec[int]{Name: "short", Middleware: []Middleware{func(Handler) Handler {
		return func(context.Context, *RawJob) error { return errBoom }
	}}})
	handled(t, mq, short, func(context.Context, *Job[int]) error { panic("not called") })
	enqueued(t, mq, job, "secret")
	drain(t, mq, WorkerOptions{})
	require.Equal(t, []string{"+a", "+b", "+c", "+d", "decrypted secret", "-d", "-c", "-b", "-a"}, order.all())
	id := enqueued(t, mq, short, 1)
	drain(t, mq, WorkerOptions{})
	require.Equal(t, []string{"1 boom"}, attemptErrors(t, mq, id))
}

// The timeout is the attempt's, of the definition or of the job, and its cause
// is told also by a handler that only says "context canceled".
func TestTimeout(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]EnqueueOption{"of the definition": nil, "of the job": {WithTimeout(30 * time.Millisecond)}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mq := quiet(t, Options{})
			job := Define(Spec[int]{Name: "j", Timeout: 20 * time.Millisecond})
			if options != nil {
				job = Define(Spec[int]{Name: "j", Timeout: time.Hour})
			}
			events := listen(t, mq)
			handled(t, mq, job, func(ctx context.Context, _ *Job[int]) error {
				<-ctx.Done()
				assert.ErrorIs(t, context.Cause(ctx), ErrTimeout)
				return ctx.Err()
			})
			id := enqueued(t, mq, job, 1, options...)
			drain(t, mq, WorkerOptions{})
			r := recordOf(t, mq, id)
			require.Equal(t, StateFailed, r.State)
			require.Contains(t, *r.Error, ErrTimeout.Error())
			e := seen[JobErrored](events)[0]
			require.ErrorIs(t, e.Err, ErrTimeout)
			require.ErrorIs(t, e.Err, context.DeadlineExceeded)
			require.Empty(t, seen[JobStuck](events))
		})
	}
}

// A job without a timeout of its own can be given none.
func TestNoTimeout(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	job := Define(Spec[int]{Name: "j", Timeout: time.Nanosecond})
	handled(t, mq, job, func(ctx context.Context, _ *Job[int]) error { return ctx.Err() })
	id := enqueued(t, mq, job, 1, WithTimeout(0))
	drain(t, mq, WorkerOptions{})
	require.Equal(t, StateCompleted, recordOf(t, mq, id).State)
}

// A handler that ignores its timeout is reported, once, and success is still
// success.
func TestStuck(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	events := listen(t, mq)
	job := Define(Spec[int]{Name: "j", Timeout: 10 * time.Millisecond})
	let := make(chan struct{})
	handled(t, mq, job, func(context.Context, *Job[int]) error { <-let; return nil })
	id := enqueued(t, mq, job, 1)
	w := work(t, mq, WorkerOptions{})
	stuck := await[JobStuck](t, events, 1)[0]
	assert.Equal(t, id, stuck.JobID)
	assert.GreaterOrEqual(t, stuck.Running, 20*time.Millisecond)
	close(let)
	await[JobSucceeded](t, events, 1)
	require.NoError(t, w.stop(t))
	require.Len(t, seen[JobStuck](events), 1)
	require.Equal(t, StateCompleted, recordOf(t, mq, id).State)
}

// Options that SQL producers got wrong are left out, not the job.
func TestOptionsThatDoNotDecode(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	handled(t, mq, numbers, func(context.Context, *Job[int]) error { return nil })
	id := enqueued(t, mq, numbers, 1)
	exec(t, mq, `UPDATE bearmq.job SET options = '{"attempts": "many"}'`)
	drain(t, mq, WorkerOptions{})
	require.Equal(t, StateCompleted, recordOf(t, mq, id).State)
}
