//go:build unix

package stress

import (
	"fmt"
	"time"

	"github.com/bearmq/bearmq"
)

// A Config is one run. All of it follows from the seed, except what the
// machine's scheduler adds.
type Config struct {
	URL    string // of the database
	Schema string // is migrated already
	Dir    string // for the history
	Seed   uint64

	Jobs      int           // that are to be committed
	Producers int           // goroutines
	Workers   int           // processes
	Over      time.Duration // how long the producers take
	TTL       time.Duration // of sessions
	Quiet     time.Duration // how long after the last fault everything must be done

	Load   Load
	Faults Faults
}

// Load is what the jobs are like.
type Load struct {
	Channels []string
	Groups   int           // among which the jobs are spread unevenly
	Grouped  float64       // share of jobs with a group
	Hot      float64       // share of jobs in one group
	Task     time.Duration // the longest; most are much shorter
	Even     bool          // all tasks are as long as the longest
	Fail     float64       // share of attempts
	Snooze   float64       // share of attempts
	Complete float64       // share of jobs that finish by CompleteTx
	Delay    float64       // share of calls
	Strict   float64       // share of jobs
	Deaf     float64       // share of jobs that take no notice of their context
}

// Faults are the mean times between faults of a kind, 0: none.
type Faults struct {
	Kill         time.Duration // of a worker, which is replaced
	Stop         time.Duration // of a worker, for longer than the TTL
	Asleep       float64       // share of the stopped workers that are killed before they wake
	Pause        time.Duration // of a worker, for less than half the TTL
	Cut          time.Duration // of some database connections
	Orchestrator time.Duration // a kill of the orchestrator, which is replaced
}

// Full is the size of the issue.
func Full() Config {
	return Config{
		Jobs: 60_000, Producers: 6, Workers: 4, Over: 45 * time.Second, TTL: 2500 * time.Millisecond, Quiet: time.Minute,
		Load: Load{
			Channels: []string{"one", "two", "three"}, Groups: 500, Grouped: 0.65, Hot: 0.04, Task: 50 * time.Millisecond,
			Fail: 0.05, Snooze: 0.01, Complete: 0.05, Delay: 0.1, Strict: 0.3, Deaf: 0.3,
		},
		Faults: Faults{Kill: 3 * time.Second, Stop: 6 * time.Second, Asleep: 0.1, Pause: 5 * time.Second, Cut: 500 * time.Millisecond,
			Orchestrator: 8 * time.Second},
	}
}

// A work is the payload of a job: which one it is, and what its handler does.
type work struct {
	Seq      int64  `json:"s"`
	Group    string `json:"g,omitempty"`
	Micros   int64  `json:"d,omitempty"` // how long it takes
	Deaf     bool   `json:"x,omitempty"`
	Complete bool   `json:"c,omitempty"`
}

const attempts = 6

var (
	release = define("release", bearmq.Release)
	strict  = define("strict", bearmq.Strict)
)

// define: a job's result is the number of the run whose end was accepted.
func define(name string, order bearmq.GroupOrder) *bearmq.ResultDefinition[work, int64] {
	return bearmq.DefineResult[work, int64](bearmq.Spec[work]{
		Name: name, GroupOrder: order, Attempts: attempts, Backoff: bearmq.Constant(30 * time.Millisecond),
		Group: func(w work) string { return w.Group },
	})
}

func (c Config) options() bearmq.Options {
	return bearmq.Options{Schema: c.Schema, SessionTTL: c.TTL, Retention: 24 * time.Hour}
}

// application is how PostgreSQL knows the connections of a process.
func (c Config) application(process string) string { return fmt.Sprintf("%s %s", c.Schema, process) }
