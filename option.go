package bearmq

import (
	"encoding/json"
	"fmt"
	"time"
)

// An EnqueueOption changes one enqueue; what it does not set is as the
// [Spec] says. An option given twice counts as given last.
type EnqueueOption func(*settings)

// Delay makes the job wait for d before its first attempt: 0 to ten years, by
// the database's clock.
func Delay(d time.Duration) EnqueueOption { return func(s *settings) { s.delay = &d } }

// RunAt makes the job wait until t, which may be past, by the database's
// clock: the years 1970 to 9999. It excludes Delay.
func RunAt(t time.Time) EnqueueOption { return func(s *settings) { s.runAt = &t } }

// InChannel puts the job into another channel: 1 to 128 bytes without control
// characters.
func InChannel(name string) EnqueueOption { return func(s *settings) { s.channel = &name } }

// Priority puts the job before all of its channel that have a lower one, and
// behind those that have a higher one: -100 to 100.
func Priority(n int) EnqueueOption { return func(s *settings) { s.priority = &n } }

// InGroup puts the job into another group, or with "" into none: at most 512
// bytes.
func InGroup(group string) EnqueueOption { return func(s *settings) { s.group = &group } }

// Attempts is how often the job may be tried: 1 to 32767.
func Attempts(n int) EnqueueOption { return func(s *settings) { s.attempts = &n } }

// WithBackoff is the wait after a failed attempt of the job, five minutes for
// the zero Backoff. It is stored
// with the job and so cannot be a [BackoffFunc].
func WithBackoff(b Backoff) EnqueueOption { return func(s *settings) { s.backoff = &b } }

// WithTimeout is how long one attempt of the job may run: up to ten years, 0
// for no limit. A job with a group may not have more than
// [Options].GroupUnlock.
func WithTimeout(d time.Duration) EnqueueOption { return func(s *settings) { s.timeout = &d } }

// settings are what the options of an enqueue have set; nil is unset.
type settings struct {
	delay    *time.Duration
	runAt    *time.Time
	channel  *string
	priority *int
	group    *string
	attempts *int
	backoff  *Backoff
	timeout  *time.Duration

	stored []byte // the overrides, nil if there are none
	err    error
}

var noSettings = &settings{}

func newSettings(opts []EnqueueOption) *settings {
	if len(opts) == 0 {
		return noSettings
	}
	s := &settings{}
	for i, opt := range opts {
		if opt == nil {
			s.err = &FieldError{Field: "EnqueueOption", Value: i, Reason: "must not be nil"}
			return s
		}
		opt(s)
	}
	if s.err = s.check(); s.err == nil {
		s.stored, s.err = s.encodeOverrides()
	}
	return s
}

func (s *settings) check() error {
	if s.delay != nil && s.runAt != nil {
		return &FieldError{Field: "RunAt", Value: *s.runAt, Reason: "must not be given together with Delay"}
	}
	for _, err := range []error{
		ifSet(s.delay, func(d time.Duration) error { return checkDuration("Delay", d) }),
		ifSet(s.runAt, checkRunAt),
		ifSet(s.channel, func(name string) error { return checkName("Channel", name) }),
		ifSet(s.priority, checkPriority),
		ifSet(s.group, checkGroup),
		ifSet(s.attempts, checkAttempts),
		ifSet(s.backoff, Backoff.checkStored),
		ifSet(s.timeout, func(d time.Duration) error { return checkDuration("Timeout", d) }),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

func ifSet[T any](value *T, check func(T) error) error {
	if value == nil {
		return nil
	}
	return check(*value)
}

// storedOverrides is what of the settings is stored with the job, for the
// worker that runs it.
type storedOverrides struct {
	Attempts  int            `json:"attempts,omitempty"`
	Backoff   *storedBackoff `json:"backoff,omitempty"`
	TimeoutMS *int64         `json:"timeout_ms,omitempty"`
}

func (s *settings) encodeOverrides() ([]byte, error) {
	if s.attempts == nil && s.backoff == nil && s.timeout == nil {
		return nil, nil
	}
	var stored storedOverrides
	if s.attempts != nil {
		stored.Attempts = *s.attempts
	}
	if s.backoff != nil {
		stored.Backoff = s.backoff.stored()
	}
	if s.timeout != nil {
		ms := milliseconds(*s.timeout)
		stored.TimeoutMS = &ms
	}
	return json.Marshal(stored)
}

// overrides are what a job has instead of its definition's values; zero and
// nil are unset.
type overrides struct {
	attempts int
	backoff  *Backoff
	timeout  *time.Duration
}

// decodeOptions reads the options stored with a job, which SQL producers may
// have written: numbers out of range are brought into it.
func decodeOptions(text []byte) (overrides, error) {
	if len(text) == 0 {
		return overrides{}, nil
	}
	var stored storedOverrides
	if err := json.Unmarshal(text, &stored); err != nil {
		return overrides{}, fmt.Errorf("bearmq: the job's options: %w", err)
	}
	o := overrides{attempts: min(max(stored.Attempts, 0), maxAttempts)}
	if stored.Backoff != nil {
		backoff, err := stored.Backoff.backoff()
		if err != nil {
			return overrides{}, err
		}
		o.backoff = &backoff
	}
	if stored.TimeoutMS != nil {
		timeout := fromMilliseconds(*stored.TimeoutMS)
		o.timeout = &timeout
	}
	return o, nil
}
