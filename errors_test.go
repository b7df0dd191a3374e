package bearmq

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	failure := errors.New("failure")
	for name, test := range map[string]struct {
		err      error
		kind     verdictKind
		delay    time.Duration
		hasDelay bool
	}{
		"plain":                {failure, verdictRetry, 0, false},
		"permanent":            {Permanent(failure), verdictPermanent, 0, false},
		"retry after":          {RetryAfter(time.Second, failure), verdictRetry, time.Second, true},
		"retry at once":        {RetryAfter(0, failure), verdictRetry, 0, true},
		"retry before":         {RetryAfter(-1, failure), verdictRetry, 0, true},
		"retry never":          {RetryAfter(math.MaxInt64, failure), verdictRetry, maxDuration, true},
		"snooze":               {Snooze(time.Minute), verdictSnooze, time.Minute, true},
		"snooze 0":             {Snooze(0), verdictSnooze, 0, true},
		"snooze for ever":      {Snooze(math.MaxInt64), verdictSnooze, maxDuration, true},
		"wrapped":              {fmt.Errorf("while sending: %w", Permanent(failure)), verdictPermanent, 0, false},
		"joined":               {errors.Join(failure, Snooze(time.Second)), verdictSnooze, time.Second, true},
		"outermost counts":     {Permanent(RetryAfter(time.Second, failure)), verdictPermanent, 0, false},
		"outermost counts too": {RetryAfter(time.Second, Permanent(failure)), verdictRetry, time.Second, true},
	} {
		got := classify(test.err)
		assert.Equal(t, verdict{test.kind, test.delay, test.hasDelay, test.err}, got, name)
	}
	assert.NoError(t, Permanent(nil))
	assert.NoError(t, RetryAfter(time.Second, nil))
	assert.ErrorIs(t, Permanent(failure), failure)
	assert.EqualError(t, Permanent(failure), "failure")
	assert.EqualError(t, Snooze(time.Minute), "bearmq: snooze for 1m0s")
}

func TestErrorTexts(t *testing.T) {
	t.Parallel()
	assert.ErrorIs(t, ErrTimeout, context.DeadlineExceeded)
	cause := errors.New("cause")
	assert.ErrorIs(t, &PanicError{Value: cause}, cause)
	assert.NotErrorIs(t, &PanicError{Value: "cause"}, cause)
	assert.EqualError(t, &PanicError{Value: "text"}, "panic: text")
	assert.EqualError(t, &PanicError{}, "panic: <nil>")
	assert.EqualError(t, &JobFailedError{ID: 7, State: StateFailed, Message: "text"}, "bearmq: job 7 failed: text")
	assert.EqualError(t, &JobFailedError{ID: 7, State: StateCancelled}, "bearmq: job 7 cancelled")
	assert.EqualError(t, &FieldError{Field: "Channel", Value: "a\nb", Reason: "must be nice"}, `bearmq: Channel "a\nb" must be nice`)
	assert.EqualError(t, &FieldError{Field: "Delay", Value: time.Second, Reason: "must be longer"}, "bearmq: Delay 1s must be longer")
	assert.EqualError(t, at("here", &FieldError{Field: "Group", Reason: "must be valid"}), "bearmq: here: Group must be valid")
	assert.EqualError(t, at("here", cause), "bearmq: here: cause")
	assert.ErrorIs(t, at("here", cause), cause)
	assert.Equal(t, "42", JobID(42).String())
	assert.Equal(t, "42", fmt.Sprint(JobID(42)))
	assert.Equal(t, "GroupOrder(5)", GroupOrder(5).String())
}
