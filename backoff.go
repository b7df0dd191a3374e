package bearmq

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// A Backoff says how long a job waits after a failed attempt. The zero value
// is Constant(5 * time.Minute). It is made by [Constant], [Exponential] and
// [BackoffFunc].
type Backoff struct {
	kind  backoffKind
	delay time.Duration
	fn    func(attempt int) time.Duration
}

type backoffKind string

const (
	backoffDefault     backoffKind = ""
	backoffConstant    backoffKind = "constant"
	backoffExponential backoffKind = "exponential"
	backoffFunc        backoffKind = "func"
)

const defaultBackoff = 5 * time.Minute

// Constant waits d after each failed attempt: 0 to ten years.
func Constant(d time.Duration) Backoff { return Backoff{kind: backoffConstant, delay: d} }

// Exponential waits e^min(attempt, 10) seconds, from 2.7 s after the first
// failed attempt to 6.1 h after the tenth and every later one, and up to a
// tenth longer at random, so that jobs that failed together do not all come
// back together.
func Exponential() Backoff { return Backoff{kind: backoffExponential} }

// BackoffFunc waits as long as fn says; attempt is the number of the attempt
// that failed, from 1. What fn returns is brought into 0 to ten years; if it
// panics, the wait is five minutes. fn runs in the worker, at any time and on
// several goroutines at once. It cannot be an enqueue's [WithBackoff], which
// is stored.
func BackoffFunc(fn func(attempt int) time.Duration) Backoff {
	return Backoff{kind: backoffFunc, fn: fn}
}

// Delay is the wait after the given failed attempt, from 1: between 0 and ten
// years.
func (b Backoff) Delay(attempt int) time.Duration {
	switch b.kind {
	case backoffConstant:
		return clamp(b.delay)
	case backoffExponential:
		seconds := math.Exp(float64(min(max(attempt, 1), 10)))
		return time.Duration(seconds * (1 + rand.Float64()/10) * float64(time.Second))
	case backoffFunc:
		return b.call(max(attempt, 1))
	default:
		return defaultBackoff
	}
}

func (b Backoff) call(attempt int) (d time.Duration) {
	// The failure path must not fail: a job whose backoff panics is still one
	// whose attempt failed.
	defer func() {
		if recover() != nil {
			d = defaultBackoff
		}
	}()
	return clamp(b.fn(attempt))
}

// check refuses what a Spec or an option cannot hold.
func (b Backoff) check() error {
	switch {
	case b.kind == backoffConstant:
		return checkDuration("Backoff", b.delay)
	case b.kind == backoffFunc && b.fn == nil:
		return &FieldError{Field: "Backoff", Reason: "must have a function: BackoffFunc(nil)"}
	default:
		return nil
	}
}

// checkStored refuses what cannot be stored with a job.
func (b Backoff) checkStored() error {
	if b.kind == backoffFunc {
		return &FieldError{Field: "Backoff", Reason: "must be Constant or Exponential for one job: a function cannot be stored"}
	}
	return b.check()
}

// storedBackoff is a Backoff in the database.
type storedBackoff struct {
	Kind backoffKind `json:"kind"`
	MS   int64       `json:"ms,omitempty"`
}

// stored is nil for a function, which cannot be.
func (b Backoff) stored() *storedBackoff {
	switch b.kind {
	case backoffFunc:
		return nil
	case backoffDefault:
		b = Constant(defaultBackoff)
	}
	return &storedBackoff{Kind: b.kind, MS: milliseconds(b.delay)}
}

func (s storedBackoff) backoff() (Backoff, error) {
	switch s.Kind {
	case backoffConstant:
		return Constant(fromMilliseconds(s.MS)), nil
	case backoffExponential:
		return Exponential(), nil
	default:
		return Backoff{}, fmt.Errorf("bearmq: unknown kind of backoff %q", s.Kind)
	}
}

// maxDuration bounds every wait, so that no sum of a time and a duration
// leaves what PostgreSQL and Go can count.
const maxDuration = 10 * 365 * 24 * time.Hour

func clamp(d time.Duration) time.Duration { return min(max(d, 0), maxDuration) }

// milliseconds rounds up: a timeout of 1 µs must not become 0, which is none.
func milliseconds(d time.Duration) int64 {
	ms := d.Milliseconds()
	if d > time.Duration(ms)*time.Millisecond {
		ms++
	}
	return ms
}

// fromMilliseconds brings what is stored into 0 to ten years.
func fromMilliseconds(ms int64) time.Duration {
	return time.Duration(min(max(ms, 0), maxDuration.Milliseconds())) * time.Millisecond
}
