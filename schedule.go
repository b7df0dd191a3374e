package bearmq

import (
	"strings"
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
	zone *time.Location                  // of the slots
	next func(after time.Time) time.Time // the first slot later than after
	err  error
}

// String is the text under which the schedule is stored: "every 1m0s", "cron 0
// 9 * * 1-5 Europe/Berlin". Schedules that mean the same have the same text.
func (s Schedule[T]) String() string { return s.text }

// Next is the first slot later than after, in the zone of the schedule. It is
// zero for a schedule that Register refuses.
func (s Schedule[T]) Next(after time.Time) time.Time {
	if s.check() != nil {
		return time.Time{}
	}
	return s.next(after)
}

func (s Schedule[T]) check() error {
	if s.err == nil && s.next == nil {
		return &FieldError{Field: "Schedule", Reason: "must be made by Every or Cron"}
	}
	return s.err
}

// Preview is the next n slots by this machine's clock, none for a schedule
// that Register refuses.
func (s Schedule[T]) Preview(n int) []time.Time {
	var slots []time.Time
	for slot := s.Next(time.Now()); !slot.IsZero() && len(slots) < n; slot = s.next(slot) {
		slots = append(slots, slot)
	}
	return slots
}

// Every is due once in each interval: 1 s to 366 days, in whole
// milliseconds. Its slots are the multiples of the interval since 1970 in UTC
// and so do not move when processes restart.
func Every(interval time.Duration) Schedule[None] {
	s := Schedule[None]{
		text: "every " + interval.String(),
		zone: time.UTC,
		next: func(after time.Time) time.Time { return nextMultiple(after, interval) },
	}
	if interval < time.Second || interval > 366*24*time.Hour || interval%time.Millisecond != 0 {
		s.err = &FieldError{Field: "Every", Value: interval, Reason: "must be 1 s to 366 days, in whole milliseconds"}
	}
	return s
}

// parseSchedule reads the text of a schedule.
func parseSchedule(text string) Schedule[None] {
	kind, rest, _ := strings.Cut(text, " ")
	switch kind {
	case "every":
		if interval, err := time.ParseDuration(rest); err == nil {
			return Every(interval)
		}
	case "cron":
		if i := strings.LastIndexByte(rest, ' '); i > 0 {
			return Cron(rest[:i], rest[i+1:])
		}
	}
	return Schedule[None]{err: &FieldError{Field: "Schedule", Value: text, Reason: "must be the text of a schedule"}}
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
