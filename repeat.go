package bearmq

import (
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"
)

// A RepeatOption changes what an orchestrator makes of the slots of a
// schedule. One given twice counts as given last.
type RepeatOption func(*repeatSettings)

// CatchUp says what becomes of slots that no orchestrator made in time, since
// none ran: of all slots that are due together the last n make a job each, the
// oldest first. n is 1 by default and 0 to 1000; with 0 missed slots make none
// at all, and one counts as missed after a minute.
func CatchUp(n int) RepeatOption { return func(s *repeatSettings) { s.catchUp = n } }

// Jitter delays each job of the schedule by a time of its own between 0 and d,
// on top of the definition's Delay, so that jobs of many schedules do not
// start all at once: 0, the default, to 24 h. The slots stay where they are.
func Jitter(d time.Duration) RepeatOption { return func(s *repeatSettings) { s.jitter = d } }

// Overlap says what becomes of a slot whose time comes while the job of the
// slot before is not over: [OverlapQueue] by default.
func Overlap(p OverlapPolicy) RepeatOption { return func(s *repeatSettings) { s.overlap = p } }

// An OverlapPolicy is for [Overlap].
type OverlapPolicy int

const (
	// OverlapQueue makes a job all the same. They may run at the same time;
	// a Group of the definition prevents that.
	OverlapQueue OverlapPolicy = iota
	// OverlapSkip makes none, and tells so with [ScheduleSkipped].
	OverlapSkip
	// OverlapReplace cancels the job before and makes one. The new one does not
	// wait for a handler that is slow to notice; a Group makes it wait.
	OverlapReplace
)

// String is "queue", "skip" or "replace".
func (p OverlapPolicy) String() string {
	switch p {
	case OverlapQueue:
		return "queue"
	case OverlapSkip:
		return "skip"
	case OverlapReplace:
		return "replace"
	default:
		return fmt.Sprintf("OverlapPolicy(%d)", int(p))
	}
}

type repeatSettings struct {
	catchUp int
	jitter  time.Duration
	overlap OverlapPolicy
}

const (
	defaultCatchUp = 1
	maxCatchUp     = 1000
	// onTime is how late a slot may be made with CatchUp(0): orchestrators
	// restart.
	onTime = time.Minute
)

func newRepeatSettings(opts []RepeatOption) (repeatSettings, error) {
	s := repeatSettings{catchUp: defaultCatchUp}
	for i, opt := range opts {
		if opt == nil {
			return s, &FieldError{Field: "RepeatOption", Value: i, Reason: "must not be nil"}
		}
		opt(&s)
	}
	if s.catchUp < 0 || s.catchUp > maxCatchUp {
		return s, &FieldError{Field: "CatchUp", Value: s.catchUp, Reason: fmt.Sprintf("must be 0 to %d", maxCatchUp)}
	}
	if s.overlap < OverlapQueue || s.overlap > OverlapReplace {
		return s, &FieldError{Field: "Overlap", Value: s.overlap, Reason: "must be OverlapQueue, OverlapSkip or OverlapReplace"}
	}
	return s, checkRange("Jitter", s.jitter, 0, 24*time.Hour, "must be 0 to 24 h")
}

// Repeat is registered like a handler and makes an orchestrator enqueue one
// job for each slot of the schedule, however many orchestrators run.
func (d *JobDefinition[T]) Repeat(s Schedule[T], opts ...RepeatOption) Registration {
	return d.repeat(Schedule[None](s), func(time.Time) (payload T) { return payload }, opts)
}

// RepeatWith is [JobDefinition.Repeat] for a definition with a payload: fn
// makes it from the time of the slot, in the schedule's zone. fn runs in the
// orchestrator; if it panics, or its payload is refused, the slot is tried
// again later.
func (d *JobDefinition[T]) RepeatWith(s Schedule[None], fn func(tick time.Time) T, opts ...RepeatOption) Registration {
	if fn == nil {
		return Registration{def: d.def, err: &FieldError{Field: "RepeatWith", Reason: "must have a function"}}
	}
	return d.repeat(s, fn, opts)
}

func (d *JobDefinition[T]) repeat(s Schedule[None], fn func(time.Time) T, opts []RepeatOption) Registration {
	settings, err := newRepeatSettings(opts)
	if refused := s.check(); refused != nil {
		err = refused
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
	return Registration{def: d.def, err: err, repeat: &repeat{
		def: d.def, schedule: s, payload: payload, repeatSettings: settings,
	}}
}

// A repeat is a schedule of a definition, ready for the orchestrator.
type repeat struct {
	def      *definition
	schedule Schedule[None]
	payload  func(tick time.Time) (json []byte, group string, err error)
	repeatSettings
}

// delay is how long the job of a slot waits.
func (r *repeat) delay() time.Duration { return r.def.delay + rand.N(r.jitter+1) }

// limited is the repeat with payloads held to the Context's limits.
func (r *repeat) limited(mq *Context) *repeat {
	limited := *r
	limited.payload = func(tick time.Time) ([]byte, string, error) {
		json, group, err := r.payload(tick)
		if err == nil {
			err = mq.checkLimits(json, group, r.def.timeout)
		}
		if err != nil {
			return nil, "", at(fmt.Sprintf("schedule %q of definition %q", r.schedule.text, r.def.name), err)
		}
		return json, group, nil
	}
	return &limited
}
