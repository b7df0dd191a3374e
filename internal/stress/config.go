//go:build unix

package stress

import (
	"cmp"
	"fmt"
	"time"

	"github.com/bearmq/bearmq"
	"github.com/bearmq/bearmq/internal/pgserver"
	"github.com/bearmq/bearmq/internal/proxy"
)

// A Config is one run. All of it follows from the seed, except what the
// machine's scheduler adds.
type Config struct {
	Schema string // is migrated already
	Dir    string // for the history
	Seed   uint64

	Jobs          int           // that are to be committed
	Producers     int           // goroutines
	Workers       int           // processes
	Orchestrators int           // processes
	Over          time.Duration // how long the producers take
	Wave          time.Duration // they work in waves that are so far apart; 0: evenly
	TTL           time.Duration // of sessions
	Sweep         time.Duration // of orchestrators
	Poll          time.Duration // of workers
	Grace         time.Duration // of workers that are told to stop
	Quiet         time.Duration // how long after the last fault everything must be done

	// Restart is by when the jobs of a killed process must have started
	// elsewhere. It is judged where it is not 0: other faults may delay it.
	Restart time.Duration

	Load   Load
	Faults Faults

	Retention time.Duration // of finished jobs; 0: they are kept
	// Sampled takes a sample every Sample, one after the other. 0: none are taken.
	Sample  time.Duration
	Sampled func(Sample) `json:"-"`

	Place `json:"-"`
	// Say takes what is going on. Nil: nobody wants to know.
	Say func(text string) `json:"-"`
}

// A Place is where the job system is.
type Place struct {
	URL    string           // of the database
	Proxy  *proxy.Proxy     // between it and the processes; nil: none, and no faults of it
	Via    string           // the URL through the proxy
	Server *pgserver.Server // to be restarted; nil: not to be
	Binary string           // of the children; empty: this one
}

// Load is what the jobs are like.
type Load struct {
	Channels []string
	Groups   int           // among which the jobs are spread unevenly
	Grouped  float64       // share of jobs with a group
	Hot      float64       // share of jobs in one group
	Behind   int           // the most jobs that this group may be behind before others get its share; 0: any number
	Most     int           // jobs of a transaction; 0: some hundred
	Task     time.Duration // the longest
	Even     bool          // all tasks are as long as the longest; else most are much shorter:
	Tail     float64       // their mean is the longest by 1 + Tail
	HotTail  float64       // the same for the hot group; 0: as Tail
	Fail     float64       // share of attempts that return an error
	Panic    float64       // share of attempts
	Exit     float64       // share of attempts that end their process
	Snooze   float64       // share of attempts
	Complete float64       // share of jobs that finish by CompleteTx
	Delay    float64       // share of calls
	Strict   float64       // share of jobs
	Deaf     float64       // share of jobs that take no notice of their context
	Repeat   bool          // a schedule is due every second
}

// Faults are the mean times between faults of a kind, 0: none.
type Faults struct {
	Spare int // so many workers and orchestrators live from the beginning to the end; fewer than there are

	Kill         time.Duration // of a worker, which is replaced
	Kills        int           // that are to be made: the producers go on until then
	Term         time.Duration // a worker is told to stop, and replaced
	Stop         time.Duration // of a worker, for longer than the TTL
	Asleep       float64       // share of the stopped workers that are killed before they wake
	Pause        time.Duration // of a worker, for less than half the TTL
	Orchestrator time.Duration // a kill of an orchestrator, which is replaced
	Terminate    time.Duration // of some of the server's backends

	// At the proxy.
	Cut       time.Duration // of some connections
	CutReply  time.Duration // of one connection, just before it gets an answer
	Slow      time.Duration // one connection
	Stall     time.Duration // one connection
	Blackhole time.Duration // one connection
	// The same of all connections of one process.
	SlowProcess, StallProcess, BlackholeProcess time.Duration

	// Of the server.
	RestartFast      time.Duration
	RestartImmediate time.Duration
	Outage           time.Duration // it is down for some seconds
}

// Full is the size of the ordinary tests.
func Full() Config {
	return Config{
		Jobs: 60_000, Producers: 6, Workers: 4, Orchestrators: 1, Over: 45 * time.Second, Wave: 2 * time.Second,
		TTL: 2500 * time.Millisecond, Sweep: 500 * time.Millisecond, Poll: time.Second, Grace: 5 * time.Second, Quiet: time.Minute,
		Load: Load{
			Channels: []string{"one", "two", "three"}, Groups: 500, Grouped: 0.65, Hot: 0.04, Task: 50 * time.Millisecond, Tail: 26,
			Fail: 0.05, Snooze: 0.01, Complete: 0.05, Delay: 0.1, Strict: 0.3, Deaf: 0.3,
		},
		Faults: Faults{Kill: 3 * time.Second, Stop: 6 * time.Second, Asleep: 0.1, Pause: 5 * time.Second, Terminate: 500 * time.Millisecond,
			Orchestrator: 8 * time.Second, Cut: 3 * time.Second, CutReply: 2 * time.Second},
	}
}

func (c Config) options() bearmq.Options {
	return bearmq.Options{Schema: c.Schema, SessionTTL: c.TTL, Retention: c.retention()}
}

func (c Config) retention() time.Duration { return cmp.Or(c.Retention, 24*time.Hour) }

// application is how PostgreSQL knows the connections of a process.
func (c Config) application(process string) string { return fmt.Sprintf("%s %s", c.Schema, process) }

// through is how the processes reach the database.
func (c Config) through() string {
	if c.Proxy == nil {
		return c.URL
	}
	return c.Via
}

func (c Config) say(format string, args ...any) {
	if c.Say != nil {
		c.Say(fmt.Sprintf(format, args...))
	}
}
