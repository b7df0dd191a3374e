package bearmq

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestEverySlots(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		interval    time.Duration
		after, want string
	}{
		{time.Minute, "2026-01-02T03:04:05Z", "2026-01-02T03:05:00Z"},
		{time.Minute, "2026-01-02T03:04:59.999999Z", "2026-01-02T03:05:00Z"},
		{time.Minute, "2026-01-02T03:05:00Z", "2026-01-02T03:06:00Z"},
		{time.Minute, "2026-01-02T03:04:05+05:30", "2026-01-01T21:35:00Z"},
		{24 * time.Hour, "2026-01-02T03:04:05Z", "2026-01-03T00:00:00Z"},
		{1500 * time.Millisecond, "1970-01-01T00:00:00Z", "1970-01-01T00:00:01.5Z"},
		{1500 * time.Millisecond, "1970-01-01T00:00:01.5Z", "1970-01-01T00:00:03Z"},
		{time.Minute, "1969-12-31T23:58:30Z", "1969-12-31T23:59:00Z"},
		{time.Minute, "1969-12-31T23:59:00Z", "1970-01-01T00:00:00Z"},
		{time.Minute, "1969-12-31T23:59:59.9999Z", "1970-01-01T00:00:00Z"},
		{366 * 24 * time.Hour, "9999-01-01T00:00:00Z", "9999-08-15T00:00:00Z"},
		{time.Second, "0001-01-01T00:00:00Z", "0001-01-01T00:00:01Z"},
	} {
		after, err := time.Parse(time.RFC3339Nano, test.after)
		require.NoError(t, err)
		next := Every(test.interval).next(after)
		assert.Equal(t, test.want, next.Format(time.RFC3339Nano), "every %v after %s", test.interval, test.after)
		assert.Zero(t, next.UnixMilli()%test.interval.Milliseconds())
	}
	assert.Equal(t, "every 1m0s", Every(time.Minute).String())
}

func TestScheduleRefused(t *testing.T) {
	t.Parallel()
	mq := offline(t, Options{})
	d := Define(Spec[None]{Name: "x"})
	for _, interval := range []time.Duration{0, -time.Second, time.Second - 1, 366*24*time.Hour + time.Millisecond, math.MaxInt64, math.MinInt64, time.Second + time.Microsecond} {
		requireRefused(t, mq.Register(d.Repeat(Every(interval))), "Every")
	}
	requireRefused(t, mq.Register(d.Repeat(Schedule[None]{})), "Schedule")
	for _, n := range []int{-1, 1001, math.MinInt} {
		requireRefused(t, mq.Register(d.Repeat(Every(time.Second), CatchUp(n))), "CatchUp")
	}
	for _, jitter := range []time.Duration{-1, 24*time.Hour + 1, math.MinInt64} {
		requireRefused(t, mq.Register(d.RepeatWith(Every(time.Second), func(time.Time) (none None) { return none }, Jitter(jitter))), "Jitter")
	}
	requireRefused(t, mq.Register(d.Repeat(Every(time.Second), nil)), "RepeatOption")
	requireRefused(t, mq.Register(d.RepeatWith(Every(time.Second), nil)), "RepeatWith")
}

func TestRepeatPayload(t *testing.T) {
	t.Parallel()
	mq := offline(t, Options{MaxPayload: 30})
	tick := time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	payloads := map[string]func(time.Time) string{
		"fine":      func(tick time.Time) string { return tick.Format(time.DateTime) },
		"panics":    func(time.Time) string { panic("secret") },
		"invalid":   func(time.Time) string { return "\xff" },
		"too large": func(time.Time) string { return "1234567890123456789012345678901" },
	}
	group := func(text string) string { return text[:4] }
	for name, fn := range payloads {
		d := Define(Spec[string]{Name: name, Group: group})
		require.NoError(t, mq.Register(d.RepeatWith(Every(time.Minute), fn)))
	}
	nothing := Define(Spec[None]{Name: "nothing"})
	require.NoError(t, mq.Register(nothing.Repeat(Every(time.Minute))))

	for _, rep := range mq.registry.schedules() {
		json, group, err := rep.payload(tick)
		switch rep.def.name {
		case "nothing":
			require.NoError(t, err)
			assert.Equal(t, `{}`, string(json))
			assert.Empty(t, group)
		case "fine":
			require.NoError(t, err)
			assert.Equal(t, `"2026-01-02 03:04:00"`, string(json))
			assert.Equal(t, "2026", group)
		case "panics":
			var cause *PanicError
			require.ErrorAs(t, err, &cause)
		case "invalid":
			requireRefused(t, err, "Payload")
		case "too large":
			require.ErrorIs(t, err, ErrPayloadTooLarge)
			assert.ErrorContains(t, err, `schedule "every 1m0s" of definition "too large"`)
		}
	}
}
