package bearmq

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type email struct {
	To     string
	Tenant string
	Size   int
}

func TestSpecRefused(t *testing.T) {
	t.Parallel()
	mq := offline(t, Options{GroupUnlock: time.Hour})
	group := func(e email) string { return e.Tenant }
	for _, test := range []struct {
		field string
		spec  Spec[email]
	}{
		{"Name", Spec[email]{}},
		{"Name", Spec[email]{Name: strings.Repeat("x", maxName+1)}},
		{"Name", Spec[email]{Name: "a\x00"}},
		{"Name", Spec[email]{Name: "a\nb"}},
		{"Name", Spec[email]{Name: "\xff"}},
		{"Channel", Spec[email]{Name: "x", Channel: strings.Repeat("x", maxName+1)}},
		{"Channel", Spec[email]{Name: "x", Channel: "\t"}},
		{"Attempts", Spec[email]{Name: "x", Attempts: -1}},
		{"Attempts", Spec[email]{Name: "x", Attempts: 1 << 31}},
		{"Backoff", Spec[email]{Name: "x", Backoff: Constant(-1)}},
		{"Backoff", Spec[email]{Name: "x", Backoff: Constant(maxDuration + 1)}},
		{"Backoff", Spec[email]{Name: "x", Backoff: BackoffFunc(nil)}},
		{"Timeout", Spec[email]{Name: "x", Timeout: -1}},
		{"Timeout", Spec[email]{Name: "x", Timeout: maxDuration + 1}},
		{"Timeout", Spec[email]{Name: "x", Timeout: time.Hour + 1, Group: group}},
		{"Delay", Spec[email]{Name: "x", Delay: -1}},
		{"Delay", Spec[email]{Name: "x", Delay: maxDuration + 1}},
		{"GroupOrder", Spec[email]{Name: "x", GroupOrder: 2}},
		{"Middleware", Spec[email]{Name: "x", Middleware: []Middleware{nil}}},
	} {
		d := Define(test.spec)
		for _, err := range enqueueing(t, mq, d, email{Tenant: "acme"}) {
			requireRefused(t, err, test.field)
			assert.Equal(t, 1, strings.Count(err.Error(), "definition"), "%v", err)
		}
		err := mq.Register(d.Handle(func(context.Context, *Job[email]) error { return nil }))
		requireRefused(t, err, test.field)
		err = mq.Register(d.RepeatWith(Every(time.Minute), func(time.Time) email { return email{} }))
		requireRefused(t, err, test.field)
		assert.Empty(t, mq.registry.definitions())
	}
	ungrouped := Define(Spec[email]{Name: "x", Timeout: 2 * time.Hour})
	require.NoError(t, mq.Register(ungrouped.Handle(func(context.Context, *Job[email]) error { return nil })))
}

// row is what of a job is written.
func row(t *testing.T, mq *Context, job NewJob) (b batch) {
	t.Helper()
	require.NoError(t, b.add(mq, job))
	return b
}

func TestJobFollowsSpecAndOptions(t *testing.T) {
	t.Parallel()
	mq := offline(t, Options{})
	d := Define(Spec[email]{
		Name: "send_email", Channel: "mail", Delay: time.Hour,
		Group: func(e email) string { return e.Tenant },
	})
	e := email{To: "a@b.c", Tenant: "acme"}
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

	b := row(t, mq, d.Job(e))
	assert.Equal(t, "send_email", b.jobs[0].Name)
	assert.JSONEq(t, `{"To":"a@b.c","Tenant":"acme","Size":0}`, string(b.jobs[0].Payload))
	assert.Equal(t, "acme", b.jobs[0].Group)
	assert.Equal(t, time.Hour, b.jobs[0].Delay)
	assert.Nil(t, b.jobs[0].Options)
	assert.Equal(t, []place{{"mail", 0}}, b.places)

	b = row(t, mq, d.Job(e, Delay(0), InChannel("slow"), Priority(3), InGroup(""), Attempts(2)))
	assert.Zero(t, b.jobs[0].Delay)
	assert.Empty(t, b.jobs[0].Group)
	assert.Equal(t, `{"attempts":2}`, string(b.jobs[0].Options))
	assert.Equal(t, []place{{"slow", 3}}, b.places)

	b = row(t, mq, d.Job(e, RunAt(at), InGroup("other")))
	assert.Equal(t, at, b.jobs[0].RunAt)
	assert.Zero(t, b.jobs[0].Delay, "RunAt replaces the Spec's Delay")
	assert.Equal(t, "other", b.jobs[0].Group)

	b = row(t, mq, d.Job(email{}))
	assert.Empty(t, b.jobs[0].Group)
}

func TestJobEncodesAtOnce(t *testing.T) {
	t.Parallel()
	mq := offline(t, Options{})
	d := Define(Spec[[]string]{Name: "x"})
	payload := []string{"before"}
	job := d.Job(payload)
	payload[0] = "after"
	assert.Equal(t, `["before"]`, string(row(t, mq, job).jobs[0].Payload))
}

func TestRawFollowsRegistration(t *testing.T) {
	t.Parallel()
	mq := offline(t, Options{})
	d := Define(Spec[email]{Name: "send_email", Channel: "mail", Group: func(e email) string { return e.Tenant }})
	require.NoError(t, mq.Register(d.Handle(func(context.Context, *Job[email]) error { return nil })))
	def := mq.registry.definition("send_email")

	b := row(t, mq, def.rawJob([]byte(`{"Tenant":"acme"}`), noSettings))
	assert.Equal(t, "acme", b.jobs[0].Group)
	assert.Equal(t, []place{{"mail", 0}}, b.places)

	job := def.rawJob([]byte(`{"Size":"secret"}`), noSettings)
	err := (&batch{}).add(mq, job)
	requireRefused(t, err, "Payload")
	job = def.rawJob([]byte(`{"Size":"secret"}`), newSettings([]EnqueueOption{InGroup("g")}))
	assert.NoError(t, (&batch{}).add(mq, job), "whose group is given need not decode here")

	_, err = mq.EnqueueRaw(t.Context(), "", json.RawMessage(`1`))
	requireRefused(t, err, "Name")
	_, err = mq.EnqueueRaw(t.Context(), "unknown", json.RawMessage(`1`))
	requireUnreachable(t, err, "a name that is not registered")
}

// run calls the registered handler of a definition.
func run(t *testing.T, mq *Context, name, payload string) (*RawJob, error) {
	t.Helper()
	h := mq.registry.handler(name)
	require.NotNil(t, h)
	raw := &RawJob{ID: 7, Name: name, RawPayload: json.RawMessage(payload)}
	return raw, h.run(t.Context(), raw)
}

func TestHandle(t *testing.T) {
	t.Parallel()
	mq := offline(t, Options{})
	failure := errors.New("failure")
	d := Define(Spec[email]{Name: "send_email"})
	require.NoError(t, mq.Register(d.Handle(func(_ context.Context, job *Job[email]) error {
		assert.Equal(t, JobID(7), job.ID)
		if job.Payload.To == "" {
			return failure
		}
		return nil
	})))
	_, err := run(t, mq, "send_email", `{"To":"a@b.c"}`)
	assert.NoError(t, err)
	_, err = run(t, mq, "send_email", `{}`)
	assert.Equal(t, failure, err)

	for payload, want := range map[string]string{
		`{"To":["secret"]}`:   `field "To"`,
		`{"Size":9876543.5}`:  `number for int`,
		`"secret"`:            `string for`,
		`{"secret":`:          `not JSON`,
		``:                    `not JSON`,
		`{"Size":"secret"}`:   `field "Size"`,
		`[{"To":"secret"},1]`: `does not decode into bearmq.email`,
	} {
		_, err := run(t, mq, "send_email", payload)
		require.ErrorContains(t, err, want, payload)
		assert.NotContains(t, err.Error(), "secret")
		assert.NotContains(t, err.Error(), "9876543")
	}
}

func TestMiddlewareOrder(t *testing.T) {
	t.Parallel()
	var calls []string
	mark := func(name string) Middleware {
		calls = append(calls, "make "+name)
		return func(next Handler) Handler {
			return func(ctx context.Context, job *RawJob) error {
				calls = append(calls, name)
				job.RawPayload = append(job.RawPayload, ' ')
				return next(ctx, job)
			}
		}
	}
	mq := offline(t, Options{Middleware: []Middleware{mark("a"), mark("b")}})
	d := Define(Spec[int]{Name: "n", Middleware: []Middleware{mark("c"), mark("d")}})
	require.NoError(t, mq.Register(d.Handle(func(_ context.Context, job *Job[int]) error {
		calls = append(calls, "handler")
		assert.Equal(t, "5    ", string(job.RawPayload))
		assert.Equal(t, 5, job.Payload)
		return nil
	})))
	calls = nil
	_, err := run(t, mq, "n", "5")
	require.NoError(t, err)
	assert.Equal(t, []string{"a", "b", "c", "d", "handler"}, calls)

	broken := Define(Spec[int]{Name: "broken", Middleware: []Middleware{func(Handler) Handler { return nil }}})
	err = mq.Register(broken.Handle(func(context.Context, *Job[int]) error { return nil }))
	requireRefused(t, err, "Middleware")
}

func TestResultHandle(t *testing.T) {
	t.Parallel()
	mq := offline(t, Options{MaxPayload: 20})
	echo := DefineResult[string, string](Spec[string]{Name: "echo"})
	require.NoError(t, mq.Register(echo.Handle(func(_ context.Context, job *Job[string]) (string, error) {
		if job.Payload == "fail" {
			return "secret", errors.New("failed")
		}
		return strings.Repeat(job.Payload, 3), nil
	})))
	raw, err := run(t, mq, "echo", `"<x>"`)
	require.NoError(t, err)
	assert.Equal(t, `"<x><x><x>"`, string(raw.result))
	raw, err = run(t, mq, "echo", `"fail"`)
	require.EqualError(t, err, "failed")
	assert.Nil(t, raw.result)
	_, err = run(t, mq, "echo", `"1234567"`)
	require.ErrorIs(t, err, ErrPayloadTooLarge)
	requireRefused(t, err, "Result")
	_, err = run(t, mq, "echo", `"\u0000"`)
	requireRefused(t, err, "Result")
	_, err = run(t, mq, "echo", `5`)
	require.ErrorContains(t, err, "does not decode")
}

func TestRegister(t *testing.T) {
	t.Parallel()
	mq := offline(t, Options{})
	noop := func(context.Context, *Job[None]) error { return nil }
	a, b := Define(Spec[None]{Name: "a"}), Define(Spec[None]{Name: "b"})

	requireRefused(t, mq.Register(Registration{}), "Registration")
	requireRefused(t, mq.Register(a.Handle(nil)), "Handle")
	requireRefused(t, mq.Register(DefineResult[None, int](Spec[None]{Name: "r"}).Handle(nil)), "Handle")

	changed := mq.registry.changed()
	assert.Empty(t, mq.registry.names())
	require.NoError(t, mq.Register(b.Handle(noop), a.Handle(noop), a.Repeat(Every(time.Minute))))
	assert.Equal(t, []string{"a", "b"}, mq.registry.names())
	select {
	case <-changed:
	default:
		t.Error("changed is open after a registration")
	}

	// None of a refused registration counts, wherever in it the fault is.
	changed = mq.registry.changed()
	c := Define(Spec[None]{Name: "c"})
	for _, regs := range [][]Registration{
		{c.Handle(noop), a.Handle(noop)},
		{c.Handle(noop), c.Handle(noop)},
		{c.Handle(noop), a.Repeat(Every(time.Second))},
		{c.Handle(noop), Define(Spec[None]{Name: "a"}).Repeat(Every(time.Hour))},
		{c.Handle(noop), c.Repeat(Every(time.Hour)), c.Repeat(Every(time.Minute))},
	} {
		require.ErrorIs(t, mq.Register(regs...), ErrAlreadyRegistered)
	}
	requireRefused(t, mq.Register(c.Handle(noop), c.Repeat(Every(0))), "Every")
	assert.Nil(t, mq.registry.handler("c"))
	assert.Nil(t, mq.registry.definition("c"))
	assert.Len(t, mq.registry.schedules(), 1)
	select {
	case <-changed:
		t.Error("changed is closed without a registration")
	default:
	}

	require.NoError(t, mq.Register(c.Repeat(Every(time.Hour))))
	assert.Len(t, mq.registry.schedules(), 2)
	assert.Nil(t, mq.registry.handler("c"), "a schedule is no handler")
	names := []string{}
	for _, def := range mq.registry.definitions() {
		names = append(names, def.name)
	}
	assert.Equal(t, []string{"a", "b", "c"}, names)
}
