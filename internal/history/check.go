package history

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// A Class is a promise that was broken.
type Class string

// The classes.
const (
	Lost      Class = "lost"      // an acknowledged job has no end
	Phantom   Class = "phantom"   // a job exists, or ran, whose transaction was rolled back
	Outcome   Class = "outcome"   // an end that nothing explains, or a second one
	Rerun     Class = "rerun"     // a job ran again without a reason on record
	Stale     Class = "stale"     // the end was accepted of a run that had lost its job
	Overlap   Class = "overlap"   // two jobs of a group ran at once while their sessions were valid
	Token     Class = "token"     // a group's token did not rise
	Order     Class = "order"     // the promised order was inverted
	Strict    Class = "strict"    // a Strict job's group was given to another job before it was finished
	Effects   Class = "effect"    // an effect of CompleteTx is missing, doubled, or somebody else's
	Slot      Class = "slot"      // a slot of a schedule has two jobs, or lost its one
	Trust     Class = "trust"     // a handler was not told that its session had ended
	Restart   Class = "restart"   // the jobs of a dead process started too late elsewhere
	Invariant Class = "invariant" // of the tables, at the end
	Liveness  Class = "liveness"  // not quiet in time, or a process that did not end well
	Leak      Class = "leak"      // a goroutine or a connection is left
)

// A Violation says what broke which promise.
type Violation struct {
	Class Class
	Text  string
}

func (v Violation) String() string { return fmt.Sprintf("%s: %s", v.Class, v.Text) }

// Summary counts what a history was like.
type Summary struct {
	Acknowledged, RolledBack, Unknown int // jobs
	Slots                             int // jobs of schedules
	Runs, Reruns, Failures, Losses    int
	Takeovers                         int            // reruns because the process or the session of the run before had ended
	Groups, Zombies                   int            // Zombies: overlaps after the end of a session
	Pairs                             int            // whose order was promised and could be compared
	Faults                            map[string]int // by kind
	Restarts                          []Restarted    // in the order of the kills
}

// Restarted is what became of the jobs that a killed process was running: when
// the last of them had started elsewhere. Those of which it was not the first
// loss do not count: they may have to run alone, and wait for that.
type Restarted struct {
	Process string
	Jobs    int
	Alone   int // that do not count
	After   time.Duration
	Slow    bool // the machine was too slow meanwhile: it is not judged
}

// slack is for what separates the database's clock from the processes': both
// are of one machine, and read one after the other.
const slack = int64(5 * time.Millisecond)

// A run is one call of a handler.
type run struct {
	Record        // of its start
	end     int64 // when it ended, or its process; math.MaxInt64 where nobody knows
	note    string
	killed  bool
	expires int64 // when its session ended for the database
}

// zombie: it began when its session was over already. Nobody may know that yet,
// see taken.
func (r *run) zombie() bool { return r.Time > r.expires-slack }

// valid is until when it ran with a right to.
func (r *run) valid() int64 { return min(r.end, r.expires-slack) }

type checker struct {
	*Facts
	Summary
	found  []Violation
	counts map[Class]int

	intents map[int64]*intent // by Seq
	txs     map[int64]*transaction
	runs    []*run // in the order of their starts
	byJob   map[int64][]*run
	job     map[int64]*Job // by id
	given   map[int64][]Given
	crashes []int64 // of the database
	stops   map[string][]span
	slow    []span // of the machine
	kills   []*kill
}

type intent struct {
	Record
	undone bool
	first  *run
}

func (i *intent) delayed() bool { return strings.HasSuffix(i.Note, Delayed) }

type transaction struct {
	began  int64 // before its first write
	end    int64
	result Step
	jobs   []*intent
}

type span struct{ from, to int64 }

type kill struct {
	Record
	runs []*run // that it ended
}

// Check finds every broken promise, the first few of each class.
func Check(f *Facts) ([]Violation, Summary) {
	c := &checker{Facts: f, counts: map[Class]int{}, intents: map[int64]*intent{}, txs: map[int64]*transaction{},
		byJob: map[int64][]*run{}, job: map[int64]*Job{}, given: map[int64][]Given{}, stops: map[string][]span{}}
	c.Summary.Faults = map[string]int{}
	c.index()
	c.existence()
	c.reruns()
	c.outcomes()
	c.effects()
	c.trust()
	c.restarts()
	groups := map[string][]*run{}
	for _, r := range c.runs {
		if r.Group != "" {
			groups[r.Group] = append(groups[r.Group], r)
		}
	}
	c.Groups = len(groups)
	for _, runs := range groups {
		c.exclusion(runs)
		c.strictness(runs)
	}
	c.order()
	for class, n := range c.counts {
		if n > reported {
			c.found = append(c.found, Violation{class, fmt.Sprintf("%d more of these", n-reported)})
		}
	}
	return c.found, c.Summary
}

// reported is how many violations of a class are told.
const reported = 5

func (c *checker) violate(class Class, format string, args ...any) {
	if c.counts[class]++; c.counts[class] <= reported {
		c.found = append(c.found, Violation{class, fmt.Sprintf(format, args...)})
	}
}

// index sorts what was written by what it is about.
func (c *checker) index() {
	for i := range c.Jobs {
		c.job[c.Jobs[i].ID] = &c.Jobs[i]
	}
	for _, g := range c.Given {
		c.given[g.Job] = append(c.given[g.Job], g)
		c.Losses += g.Losses
	}
	pids := map[string]int64{}
	sessions := map[int64][]Session{}
	for _, s := range c.Sessions {
		sessions[s.PID] = append(sessions[s.PID], s)
	}
	open := map[int64]*run{}
	for _, r := range c.History {
		switch r.Step {
		case Intent:
			in := &intent{Record: r}
			c.intents[r.Seq] = in
			tx := c.txs[r.N]
			if tx == nil {
				tx = &transaction{began: r.Time}
				c.txs[r.N] = tx
			}
			tx.jobs = append(tx.jobs, in)
		case Undone:
			c.intents[r.Seq].undone = true
		case Commit, Rollback, Unknown:
			if tx := c.txs[r.N]; tx != nil {
				tx.result, tx.end = r.Step, r.Time
			}
		case Spawn:
			pids[r.Process] = r.N
		case Kill:
			k := &kill{Record: r}
			c.kills = append(c.kills, k)
			for n, run := range open {
				if run.Process == r.Process {
					run.end, run.killed = r.Time, true
					k.runs = append(k.runs, run)
					delete(open, n)
				}
			}
		case Stop:
			c.stops[r.Process] = append(c.stops[r.Process], span{r.Time, math.MaxInt64})
		case Resume:
			c.stops[r.Process][len(c.stops[r.Process])-1].to = r.Time
		case Crash:
			c.crashes = append(c.crashes, r.Time)
		case Slow:
			c.slow = append(c.slow, span{r.Time - r.N, r.Time})
		case Harm:
			c.Faults[r.Note]++
		case Start:
			run := &run{Record: r, end: math.MaxInt64}
			for _, s := range sessions[pids[r.Process]] {
				// the last session that had begun, of a process that has several one after another
				if s.Started-slack <= r.Time {
					run.expires = max(run.expires, s.Expire)
				}
			}
			open[r.N] = run
			c.runs = append(c.runs, run)
			c.byJob[r.Job] = append(c.byJob[r.Job], run)
			if in := c.intents[r.Seq]; in != nil && in.first == nil {
				in.first = run
			}
		case End:
			if run := open[r.N]; run != nil {
				run.end, run.note = r.Time, r.Note
				delete(open, r.N)
			}
		}
	}
	c.Runs = len(c.runs)
}
