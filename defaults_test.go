package bearmq

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/pgtest"
)

// Every default and every limit that the documentation names.

func TestDefaultsOfOptions(t *testing.T) {
	t.Parallel()
	o := Options{}
	require.NoError(t, o.fillIn())
	assert.Equal(t, "bearmq", o.Schema)
	assert.Equal(t, slog.Default(), o.Logger)
	assert.Equal(t, 24*time.Hour, o.Retention)
	assert.Equal(t, 24*time.Hour, o.RetentionFailed)
	assert.Equal(t, 3*time.Hour, o.GroupUnlock)
	assert.Equal(t, 30*time.Second, o.SessionTTL)
	assert.Equal(t, 1<<20, o.MaxPayload)
	assert.Equal(t, 3, o.MaxLosses)
	assert.Empty(t, o.Middleware)
	for _, retention := range []time.Duration{time.Minute, NoRetention} {
		o = Options{Retention: retention}
		require.NoError(t, o.fillIn())
		assert.Equal(t, retention, o.RetentionFailed, "as Retention")
	}
}

func TestDefaultsOfWorkerOptions(t *testing.T) {
	t.Parallel()
	o := WorkerOptions{}
	require.NoError(t, o.fillIn())
	assert.NotEmpty(t, o.Name)
	assert.Nil(t, o.Channels, "all")
	assert.Equal(t, 100, o.Concurrency)
	assert.Empty(t, o.PerJob)
	assert.Equal(t, 2*time.Second, o.PollInterval)
	assert.Equal(t, 30*time.Second, o.StopGrace)
	other := WorkerOptions{Channels: []string{}, StopGrace: NoStopGrace}
	require.NoError(t, other.fillIn())
	assert.NotEqual(t, o.Name, other.Name, "each has its own")
	assert.Nil(t, other.Channels, "all")
	assert.Zero(t, other.StopGrace)
}

func TestDefaultsOfOrchestratorOptions(t *testing.T) {
	t.Parallel()
	o := OrchestratorOptions{}
	require.NoError(t, o.fillIn())
	assert.NotEmpty(t, o.Name)
	assert.Equal(t, 5*time.Second, o.SchedulePoll)
	assert.Equal(t, 5*time.Second, o.RecoverPoll)
	assert.Equal(t, 30*time.Second, o.CleanPoll)
	assert.Equal(t, 5*time.Minute, o.LongTransaction)
}

// A Spec with nothing but a name, as a job of it runs.
func TestDefaultsOfSpec(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	d := Define(Spec[None]{Name: "j"})
	var saw Job[None]
	var deadline bool
	handled(t, mq, d, func(ctx context.Context, j *Job[None]) error {
		saw = *j
		_, deadline = ctx.Deadline()
		return errBoom
	})
	id := enqueued(t, mq, d, None{})
	require.Equal(t, StateQueued, recordOf(t, mq, id).State, "no delay")
	drain(t, mq, WorkerOptions{})
	assert.Equal(t, "default", saw.Channel)
	assert.Empty(t, saw.Group)
	assert.Zero(t, saw.FenceToken())
	assert.Equal(t, 1, saw.MaxAttempts)
	assert.False(t, deadline, "no timeout")
	assert.Equal(t, StateFailed, recordOf(t, mq, id).State)
	assert.Equal(t, Constant(5*time.Minute).Delay(1), d.def.backoff.Delay(1))
	assert.Equal(t, Release, d.def.groupOrder)
	assert.Zero(t, d.def.timeout)
	assert.Zero(t, d.def.delay)
	assert.JSONEq(t, `{"attempts": 1, "backoff": {"kind": "constant", "ms": 300000}, "timeout_ms": 0, "delay_ms": 0, "group_order": "release"}`,
		value[string](t, mq, "SELECT defaults::text FROM bearmq.job_definition"))
}

// The limits, each with what just fits.
func TestLimits(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	ctx := t.Context()
	texts := Define(Spec[string]{Name: "texts"})
	x := func(n int) string { return strings.Repeat("x", n) }

	enqueued(t, mq, texts, x(1<<20-2)) // 1 MiB with its quotes
	_, err := texts.Enqueue(ctx, mq, x(1<<20-1))
	require.ErrorIs(t, err, ErrPayloadTooLarge)

	enqueued(t, mq, Define(Spec[string]{Name: x(128), Channel: x(128)}), "")
	_, err = Define(Spec[string]{Name: x(129)}).Enqueue(ctx, mq, "")
	requireRefused(t, err, "Name")
	_, err = Define(Spec[string]{Name: "x", Channel: x(129)}).Enqueue(ctx, mq, "")
	requireRefused(t, err, "Channel")
	enqueued(t, mq, texts, "", InChannel(x(128)), InGroup(x(512)))
	_, err = texts.Enqueue(ctx, mq, "", InChannel(x(129)))
	requireRefused(t, err, "Channel")
	_, err = texts.Enqueue(ctx, mq, "", InGroup(x(513)))
	requireRefused(t, err, "Group")

	enqueued(t, mq, texts, "", Attempts(32767), Delay(10*365*24*time.Hour), WithTimeout(10*365*24*time.Hour))
	for field, option := range map[string]EnqueueOption{
		"Attempts": Attempts(32768), "Delay": Delay(10*365*24*time.Hour + 1), "Timeout": WithTimeout(10*365*24*time.Hour + 1)} {
		_, err = texts.Enqueue(ctx, mq, "", option)
		requireRefused(t, err, field)
	}
	assert.Equal(t, 8<<10, maxErrorText)

	pool := pgtest.DB(t)
	for field, refused := range map[string][]Options{
		"Retention":       {{Retention: -1}, {Retention: 10*365*24*time.Hour + 1}},
		"RetentionFailed": {{RetentionFailed: -1}, {RetentionFailed: 10*365*24*time.Hour + 1}},
		"GroupUnlock":     {{GroupUnlock: time.Second - 1}, {GroupUnlock: 10*365*24*time.Hour + 1}},
		"SessionTTL":      {{SessionTTL: time.Second - 1}, {SessionTTL: time.Hour + 1}},
		"MaxPayload":      {{MaxPayload: -1}, {MaxPayload: 256<<20 + 1}},
		"MaxLosses":       {{MaxLosses: -1}, {MaxLosses: 32768}},
	} {
		for _, o := range refused {
			_, err := New(pool, o)
			requireRefused(t, err, field)
		}
	}
	for _, o := range []Options{
		{Retention: NoRetention, RetentionFailed: NoRetention, GroupUnlock: NoGroupUnlock},
		{Retention: 10 * 365 * 24 * time.Hour, GroupUnlock: time.Second, SessionTTL: time.Second, MaxPayload: 1, MaxLosses: 1},
		{GroupUnlock: 10 * 365 * 24 * time.Hour, SessionTTL: time.Hour, MaxPayload: 256 << 20, MaxLosses: 32767},
	} {
		_, err := New(pool, o)
		require.NoError(t, err)
	}
}
