package bearmq

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestBackoffDelay(t *testing.T) {
	t.Parallel()
	seconds := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	nan := math.NaN()
	for name, test := range map[string]struct {
		backoff  Backoff
		attempt  int
		low, top time.Duration
	}{
		"zero value":               {Backoff{}, 1, 5 * time.Minute, 5 * time.Minute},
		"constant":                 {Constant(time.Second), 7, time.Second, time.Second},
		"constant 0":               {Constant(0), 1, 0, 0},
		"constant, negative":       {Constant(-1), 1, 0, 0},
		"constant, too long":       {Constant(math.MaxInt64), 1, maxDuration, maxDuration},
		"exponential, first":       {Exponential(), 1, seconds(2.718), seconds(2.991)},
		"exponential, second":      {Exponential(), 2, seconds(7.389), seconds(8.13)},
		"exponential, tenth":       {Exponential(), 10, seconds(22026), seconds(24231)},
		"exponential, eleventh":    {Exponential(), 11, seconds(22026), seconds(24231)},
		"exponential, last":        {Exponential(), math.MaxInt, seconds(22026), seconds(24231)},
		"exponential, zeroth":      {Exponential(), 0, seconds(2.718), seconds(2.991)},
		"exponential, far below":   {Exponential(), math.MinInt, seconds(2.718), seconds(2.991)},
		"function":                 {BackoffFunc(func(n int) time.Duration { return time.Duration(n) * time.Second }), 3, 3 * time.Second, 3 * time.Second},
		"function, negative":       {BackoffFunc(func(int) time.Duration { return math.MinInt64 }), 1, 0, 0},
		"function, overflow":       {BackoffFunc(func(int) time.Duration { return math.MaxInt64 }), 1, maxDuration, maxDuration},
		"function, NaN":            {BackoffFunc(func(int) time.Duration { return time.Duration(nan) }), 1, 0, maxDuration},
		"function, panics":         {BackoffFunc(func(int) time.Duration { panic("x") }), 1, 5 * time.Minute, 5 * time.Minute},
		"function, nil":            {BackoffFunc(nil), 1, 5 * time.Minute, 5 * time.Minute},
		"function, attempt from 1": {BackoffFunc(func(n int) time.Duration { return time.Duration(n) }), -4, 1, 1},
	} {
		for range 100 {
			d := test.backoff.Delay(test.attempt)
			require.GreaterOrEqual(t, d, test.low, name)
			require.LessOrEqual(t, d, test.top, name)
		}
	}
}

func TestExponentialIsSpread(t *testing.T) {
	t.Parallel()
	seen := map[time.Duration]bool{}
	for range 100 {
		seen[Exponential().Delay(1)] = true
	}
	assert.Greater(t, len(seen), 90)
}

func TestOverrides(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		opts   []EnqueueOption
		stored string
	}{
		"none":         {nil, ""},
		"others":       {[]EnqueueOption{Delay(0), InChannel("c"), InGroup("g")}, ""},
		"attempts":     {[]EnqueueOption{Attempts(3)}, `{"attempts":3}`},
		"last counts":  {[]EnqueueOption{Attempts(3), Attempts(4)}, `{"attempts":4}`},
		"constant":     {[]EnqueueOption{WithBackoff(Constant(90 * time.Second))}, `{"backoff":{"kind":"constant","ms":90000}}`},
		"constant 0":   {[]EnqueueOption{WithBackoff(Constant(0))}, `{"backoff":{"kind":"constant"}}`},
		"zero backoff": {[]EnqueueOption{WithBackoff(Backoff{})}, `{"backoff":{"kind":"constant","ms":300000}}`},
		"exponential":  {[]EnqueueOption{WithBackoff(Exponential())}, `{"backoff":{"kind":"exponential"}}`},
		"no timeout":   {[]EnqueueOption{WithTimeout(0)}, `{"timeout_ms":0}`},
		"tiny timeout": {[]EnqueueOption{WithTimeout(1)}, `{"timeout_ms":1}`},
		"all": {[]EnqueueOption{WithTimeout(time.Hour), Attempts(1), WithBackoff(Constant(time.Millisecond))},
			`{"attempts":1,"backoff":{"kind":"constant","ms":1},"timeout_ms":3600000}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set := newSettings(test.opts)
			require.NoError(t, set.err)
			require.Equal(t, test.stored, string(set.stored))
			read, err := decodeOptions(set.stored)
			require.NoError(t, err)
			assert.Equal(t, or(set.attempts, 0), read.attempts)
			assert.Equal(t, set.timeout == nil, read.timeout == nil)
			require.Equal(t, set.backoff == nil, read.backoff == nil)
			if set.backoff != nil && set.backoff.kind != backoffExponential {
				assert.Equal(t, set.backoff.Delay(1), read.backoff.Delay(1))
			}
		})
	}
}

func TestDecodeOptionsOfOthers(t *testing.T) {
	t.Parallel()
	o, err := decodeOptions([]byte(`{"attempts":-5,"timeout_ms":9223372036854775807,"backoff":{"kind":"constant","ms":-1},"new":1}`))
	require.NoError(t, err)
	assert.Zero(t, o.attempts)
	assert.Equal(t, maxDuration, *o.timeout)
	assert.Zero(t, o.backoff.Delay(1))
	for _, text := range []string{`{`, `[]`, `{"attempts":1e9999}`, `{"backoff":{"kind":"func"}}`, `{"backoff":{}}`} {
		_, err := decodeOptions([]byte(text))
		assert.Error(t, err, text)
	}
}

func TestStoredDefaults(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		spec Spec[None]
		want string
	}{
		{Spec[None]{Name: "x"}, `{"attempts":1,"backoff":{"kind":"constant","ms":300000},"timeout_ms":0,"delay_ms":0,"group_order":"release"}`},
		{Spec[None]{Name: "x", Attempts: 7, Backoff: Exponential(), Timeout: time.Second, Delay: time.Minute, GroupOrder: Strict},
			`{"attempts":7,"backoff":{"kind":"exponential"},"timeout_ms":1000,"delay_ms":60000,"group_order":"strict"}`},
		{Spec[None]{Name: "x", Backoff: BackoffFunc(func(int) time.Duration { return 0 })},
			`{"attempts":1,"timeout_ms":0,"delay_ms":0,"group_order":"release"}`},
	} {
		stored, err := Define(test.spec).def.defaults()
		require.NoError(t, err)
		assert.Equal(t, test.want, string(stored))
		assert.True(t, json.Valid(stored))
	}
}
