//go:build unix

package stress

import (
	"time"

	"github.com/bearmq/bearmq"
)

// A work is the payload of a job: which one it is, and what its handler does.
type work struct {
	Seq      int64  `json:"s"` // negative: the time of a schedule's slot
	Group    string `json:"g,omitempty"`
	Micros   int64  `json:"d,omitempty"` // how long it takes
	Deaf     bool   `json:"x,omitempty"`
	Complete bool   `json:"c,omitempty"`
	At       int64  `json:"t,omitempty"` // when it was enqueued, where nothing but a free worker keeps it from starting
}

const (
	attempts  = 6
	maxLosses = 3 // the default of Options
)

var (
	release = define("release", bearmq.Release)
	strict  = define("strict", bearmq.Strict)
	repeat  = define("repeat", bearmq.Release)
)

// define: a job's result is the number of the run whose end was accepted.
func define(name string, order bearmq.GroupOrder) *bearmq.ResultDefinition[work, int64] {
	return bearmq.DefineResult[work, int64](bearmq.Spec[work]{
		Name: name, GroupOrder: order, Attempts: attempts, Backoff: bearmq.Constant(30 * time.Millisecond),
		Group: func(w work) string { return w.Group },
	})
}

// slot is the payload of a scheduled job.
func slot(tick time.Time) work { return work{Seq: -tick.UnixMilli()} }
