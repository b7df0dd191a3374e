package bearmq

import (
	"fmt"
	"runtime/debug"
	"time"
)

// None is the payload of a definition that has none. It is stored as {}.
type None struct{}

// A Schedule says when a repeated job is due. Its type parameter is always
// [None], the payload of the definitions that a schedule can enqueue without
// being told a payload: that is how [JobDefinition.Repeat] compiles only for
// those.
//
// A schedule is stored as its text, so that every process that has the same
// schedule shares its slots.
type Schedule[T any] struct {
	text string
	next func(after time.Time) time.Time // the first slot later than after
	err  error
}

// String is the text under which the schedule is stored: "every 1m0s".
func (s Schedule[T]) String() string { return s.text }

// Every is due once in each interval: 1 s to 366 days, in whole
// milliseconds. Its slots are the multiples of the interval since 1970 in UTC
// and so do not move when processes restart.
func Every(interval time.Duration) Schedule[None] {
	s := Schedule[None]{
		text: "every " + interval.String(),
		next: func(after time.Time) time.Time { return nextMultiple(after, interval) },
	}
	if interval < time.Second || interval > 366*24*time.Hour || interval%time.Millisecond != 0 {
		s.err = &FieldError{Field: "Every", Value: interval, Reason: "must be 1 s to 366 days, in whole milliseconds"}
	}
	return s
}

// nextMultiple is the first multiple of interval since the Unix epoch that is
// later than after.
func nextMultiple(after time.Time, interval time.Duration) time.Time {
	// In milliseconds, which do not overflow for any year that PostgreSQL has.
	step := interval.Milliseconds()
	slot := after.UnixMilli() / step
	if after.UnixMilli()%step < 0 {
		slot-- // Go's division rounds towards zero, a slot begins below it
	}
	return time.UnixMilli((slot + 1) * step).UTC()
}

// Repeat is registered like a handler and makes an orchestrator enqueue one
// job for each slot of the schedule.
func (d *JobDefinition[T]) Repeat(s Schedule[T]) Registration {
	return d.repeat(s.text, s.next, s.err, func(time.Time) (payload T) { return payload })
}

// RepeatWith is [JobDefinition.Repeat] for a definition with a payload: fn
// makes it from the time of the slot. fn runs in the orchestrator; if it
// panics, or its payload is refused, the slot is tried again later.
func (d *JobDefinition[T]) RepeatWith(s Schedule[None], fn func(tick time.Time) T) Registration {
	if fn == nil {
		return Registration{def: d.def, err: &FieldError{Field: "RepeatWith", Reason: "must have a function"}}
	}
	return d.repeat(s.text, s.next, s.err, fn)
}

func (d *JobDefinition[T]) repeat(text string, next func(time.Time) time.Time, err error, fn func(time.Time) T) Registration {
	if err == nil && next == nil {
		err = &FieldError{Field: "Schedule", Reason: "must be made by a function such as Every"}
	}
	payload := func(tick time.Time) (json []byte, group string, err error) {
		defer func() {
			if v := recover(); v != nil {
				err = &PanicError{Value: v, Stack: debug.Stack()}
			}
		}()
		job := d.job(fn(tick), noSettings)
		return job.payload, job.group, job.err
	}
	return Registration{def: d.def, err: err, repeat: &repeat{def: d.def, text: text, next: next, payload: payload}}
}

// A repeat is a schedule of a definition, ready for the orchestrator.
type repeat struct {
	def     *definition
	text    string
	next    func(after time.Time) time.Time
	payload func(tick time.Time) (json []byte, group string, err error)
}

// limited is the repeat with payloads held to the Context's limits.
func (r *repeat) limited(mq *Context) *repeat {
	limited := *r
	limited.payload = func(tick time.Time) ([]byte, string, error) {
		json, group, err := r.payload(tick)
		if err == nil {
			err = mq.checkLimits(json, group, r.def.timeout)
		}
		if err != nil {
			return nil, "", at(fmt.Sprintf("schedule %q of definition %q", r.text, r.def.name), err)
		}
		return json, group, nil
	}
	return &limited
}
