//go:build unix

package stress

import (
	"cmp"
	"fmt"
	"math"
	"slices"
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
	Held      Class = "strict"    // a Strict job's group was given to another job before it was finished
	Effects   Class = "effect"    // an effect of CompleteTx is missing, doubled, or somebody else's
	Invariant Class = "invariant" // of the tables, at the end
	Liveness  Class = "liveness"  // not quiet in time, or a process that did not end well
)

// A Violation says what broke which promise.
type Violation struct {
	Class Class
	Text  string
}

func (v Violation) String() string { return fmt.Sprintf("%s: %s", v.Class, v.Text) }

// Summary counts what a run was like.
type Summary struct {
	Acknowledged, RolledBack, Unknown   int // jobs
	Runs, Reruns, Failures, Losses      int
	Kills, Stops, Cuts, Groups, Zombies int // Zombies: overlaps after the end of a session
	Pairs                               int // whose order was promised and could be compared
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

// zombie: it began when its session was over already.
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
}

type intent struct {
	Record
	undone bool
	first  *run
}

func (i *intent) delayed() bool {
	n := len(i.Note) - len(delayedMark)
	return n >= 0 && i.Note[n:] == delayedMark
}

type transaction struct {
	began  int64 // before its first write
	end    int64
	result Step
	jobs   []*intent
}

// Check finds every broken promise, the first few of each class.
func Check(f *Facts) ([]Violation, Summary) {
	c := &checker{Facts: f, counts: map[Class]int{}, intents: map[int64]*intent{}, txs: map[int64]*transaction{},
		byJob: map[int64][]*run{}, job: map[int64]*Job{}}
	c.index()
	c.existence()
	c.reruns()
	c.outcomes()
	c.effects()
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
			c.Kills++
			for n, run := range open {
				if run.Process == r.Process {
					run.end, run.killed = r.Time, true
					delete(open, n)
				}
			}
		case Stop:
			c.Stops++
		case Cut:
			c.Cuts += int(r.N)
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

// existence: what was acknowledged is there and has ended, what was rolled
// back never was.
func (c *checker) existence() {
	stored := map[int64]*Job{}
	for i := range c.Jobs {
		j := &c.Jobs[i]
		if other := stored[j.Seq]; other != nil {
			c.violate(Phantom, "job %d is a double of job %d", j.ID, other.ID)
		}
		stored[j.Seq] = j
	}
	for seq, in := range c.intents {
		tx := c.txs[in.N]
		result := tx.result
		if in.undone {
			result = Rollback
		}
		j := stored[seq]
		switch result {
		case Commit:
			c.Acknowledged++
			if j == nil {
				c.violate(Lost, "job %x was acknowledged and is not in the database", seq)
			}
		case Rollback:
			c.RolledBack++
			if j != nil {
				c.violate(Phantom, "job %d (%x) is in the database, its transaction was rolled back", j.ID, seq)
			}
			if in.first != nil {
				c.violate(Phantom, "job %x ran, its transaction was rolled back", seq)
			}
		default:
			c.Unknown++
		}
		if j != nil && j.State == "" {
			c.violate(Lost, "job %d (%x) of %s has no end; %d runs", j.ID, seq, in.Group, len(c.byJob[j.ID]))
		}
	}
	for _, r := range c.runs {
		if c.intents[r.Seq] == nil {
			c.violate(Phantom, "job %d ran, nobody enqueued it", r.Job)
		}
	}
}

// reruns: between two runs of a job lies a reason, and the database wrote it
// down.
func (c *checker) reruns() {
	given := map[int64][]Given{}
	for _, g := range c.Given {
		given[g.Job] = append(given[g.Job], g)
		c.Losses += g.Losses
	}
	for id, runs := range c.byJob {
		var last *run
		for _, r := range runs {
			if r.zombie() {
				continue
			}
			if last != nil {
				c.Reruns++
				if !slices.ContainsFunc(given[id], func(g Given) bool { return g.At > last.Time-slack && g.At < r.Time+slack }) {
					c.violate(Rerun, "job %d: run %x by %s and run %x by %s, and nothing on record between them", id, last.N, last.Process, r.N, r.Process)
				}
				switch last.note {
				case failed, snoozed, leaseLost, shutdown, unsure:
				default:
					// It succeeded, or nobody knows: then its process or its session must have died before that was written.
					if !last.killed && last.expires-slack > r.Time {
						c.violate(Rerun, "job %d: run %x by %s ended with %q and had its session, run %x by %s came after it", id, last.N, last.Process, last.note, r.N, r.Process)
					}
				}
			}
			last = r
		}
	}
}

// outcomes: a job has one end, it is that of its last run, and it is what that
// run said.
func (c *checker) outcomes() {
	succeeded := map[int64]int{}
	for _, r := range c.History {
		if r.Step == Succeeded {
			succeeded[r.Job]++
		}
	}
	losses := map[int64]int{}
	for _, g := range c.Given {
		losses[g.Job] += g.Losses
	}
	for i := range c.Jobs {
		j := &c.Jobs[i]
		if n := succeeded[j.ID]; n > 1 || n == 1 && j.State != "c" {
			c.violate(Outcome, "job %d was reported as done %d times, it is %q", j.ID, n, j.State)
		}
		var last *run
		failures := 0
		for _, r := range c.byJob[j.ID] {
			if r.zombie() {
				continue
			}
			last = r
			if r.note == failed || r.note == permanent || r.note == unsure {
				failures++
			}
		}
		c.Failures += failures
		switch j.State {
		case "c":
			switch {
			case last == nil:
				c.violate(Outcome, "job %d is completed and never ran", j.ID)
			case j.Run != 0 && j.Run != last.N:
				c.violate(Stale, "job %d: the end of run %x was accepted at %d, run %x by %s had started at %d", j.ID, j.Run, j.Finished, last.N, last.Process, last.Time)
			case last.Time > j.Finished+slack:
				c.violate(Stale, "job %d was finished at %d, run %x by %s started at %d", j.ID, j.Finished, last.N, last.Process, last.Time)
			case j.Run == last.N && last.note != "" && last.note != ok:
				c.violate(Outcome, "job %d is completed by run %x, which ended with %q", j.ID, j.Run, last.note)
			}
		case "f":
			if failures < attempts && losses[j.ID] < 3 && (last == nil || last.note != permanent) {
				c.violate(Outcome, "job %d failed after %d failures and %d losses: %s", j.ID, failures, losses[j.ID], j.Error)
			}
		case "":
		default:
			c.violate(Outcome, "job %d has the outcome %q", j.ID, j.State)
		}
	}
}

// effects: what CompleteTx committed is there once, where the job is completed
// by it, and not at all otherwise.
func (c *checker) effects() {
	by := map[int64][]Effect{}
	for _, e := range c.Facts.Effects {
		by[e.Seq] = append(by[e.Seq], e)
	}
	for i := range c.Jobs {
		j := &c.Jobs[i]
		want := 0
		if j.State == "c" && j.Run == 0 { // a job completed in a transaction has no result
			want = 1
		}
		if n := len(by[j.Seq]); n != want {
			c.violate(Effects, "job %d has %d effects instead of %d", j.ID, n, want)
		}
	}
}

// exclusion: the valid parts of the runs of a group do not meet, and each holder
// has a higher token than the one before.
func (c *checker) exclusion(runs []*run) {
	var last *run   // that is valid for the longest
	var zombie *run // that goes on for the longest
	var token *run
	for _, r := range runs {
		if r.zombie() {
			continue
		}
		if last != nil && r.Time < last.valid() {
			c.violate(Overlap, "group %s: job %d by %s (token %d) from %d to %d, job %d by %s (token %d) from %d", r.Group, last.Job, last.Process,
				last.Token, last.Time, last.valid(), r.Job, r.Process, r.Token, r.Time)
		} else if zombie != nil && r.Time < zombie.end {
			c.Zombies++
		}
		if token != nil && (r.Token < token.Token || r.Token == token.Token && r.Process != token.Process) {
			c.violate(Token, "group %s: job %d by %s has token %d, job %d by %s before it had %d", r.Group, r.Job, r.Process, r.Token, token.Job, token.Process, token.Token)
		}
		token = r
		if last == nil || r.valid() > last.valid() {
			last = r
		}
		if zombie == nil || r.end > zombie.end {
			zombie = r
		}
	}
}

// strictness: after a run of a Strict job that did not finish it, the next in
// its group is that job again. The database knows that a job has started by the
// end of the one before it in its mailbox: where a process died before it had
// written that, both were handed back, and either may come first.
func (c *checker) strictness(runs []*run) {
	var last *run
	var mailbox []*run // the runs under one token, up to last
	for _, r := range runs {
		if r.zombie() {
			continue
		}
		if last != nil && last.Job != r.Job && last.note != ok && last.note != permanent && c.job[last.Job] != nil &&
			c.job[last.Job].Definition == strict.Name() && c.ranAfter(last.Job, r.Time) &&
			!slices.ContainsFunc(mailbox[:len(mailbox)-1], func(before *run) bool { return c.ranAfter(before.Job, last.Time) }) {
			c.violate(Held, "group %s: run %x of job %d by %s ended with %q (killed %v) and the job ran again, in between %s ran job %d",
				r.Group, last.N, last.Job, last.Process, last.note, last.killed, r.Process, r.Job)
		}
		if last == nil || last.Token != r.Token {
			mailbox = nil
		}
		mailbox = append(mailbox, r)
		last = r
	}
}

// ranAfter tells whether a job was started after a time by a live session.
func (c *checker) ranAfter(job, time int64) bool {
	return slices.ContainsFunc(c.byJob[job], func(r *run) bool { return r.Time > time && !r.zombie() })
}

// order: in a lane and group, A starts before B where A's commit was
// acknowledged before B's transaction first wrote anything, or A was enqueued
// before B in one transaction. Jobs that were delayed have no place in it. What
// counts is a job's first start: what was retried has had its turn.
func (c *checker) order() {
	type lane struct{ channel, group string }
	lanes := map[lane][]*intent{}
	for _, in := range c.intents {
		if in.Group != "" && in.first != nil && !in.undone && !in.delayed() {
			l := lane{in.Channel, in.Group}
			lanes[l] = append(lanes[l], in)
		}
	}
	for l, jobs := range lanes {
		// By the begin of B's transaction; behind it come the commits that it must not precede.
		slices.SortFunc(jobs, func(a, b *intent) int {
			return cmp.Or(cmp.Compare(c.txs[a.N].began, c.txs[b.N].began), cmp.Compare(a.N, b.N), cmp.Compare(a.Seq, b.Seq))
		})
		acked := slices.DeleteFunc(slices.Clone(jobs), func(in *intent) bool { return c.txs[in.N].result != Commit })
		slices.SortFunc(acked, func(a, b *intent) int { return cmp.Compare(c.txs[a.N].end, c.txs[b.N].end) })
		var latest *intent // of those that were acknowledged
		for i, at := 0, 0; i < len(jobs); i++ {
			b := jobs[i]
			for ; at < len(acked) && c.txs[acked[at].N].end < c.txs[b.N].began; at++ {
				if latest == nil || acked[at].first.Time > latest.first.Time {
					latest = acked[at]
				}
			}
			c.Pairs += at
			if latest != nil && latest.first.Time > b.first.Time {
				c.violate(Order, "channel %s, group %s: job %d was acknowledged at %d and first started at %d; job %d was enqueued from %d on and first started at %d",
					l.channel, l.group, latest.first.Job, c.txs[latest.N].end, latest.first.Time, b.first.Job, c.txs[b.N].began, b.first.Time)
			}
			if i > 0 && jobs[i-1].N == b.N {
				c.Pairs++
				if a := jobs[i-1]; a.first.Time > b.first.Time {
					c.violate(Order, "channel %s, group %s: job %d and job %d of one transaction started at %d and at %d", l.channel, l.group, a.first.Job, b.first.Job, a.first.Time, b.first.Time)
				}
			}
		}
	}
}
