package history

import (
	"math"
	"slices"
)

// existence: what was acknowledged is there and has ended, what was rolled
// back never was, and a slot of a schedule has one job.
func (c *checker) existence() {
	stored := map[int64]*Job{}
	for i := range c.Jobs {
		j := &c.Jobs[i]
		other := stored[j.Seq]
		switch {
		case other != nil && j.Seq < 0:
			c.violate(Slot, "job %d and job %d are both of the slot %d", other.ID, j.ID, -j.Seq)
		case other != nil:
			c.violate(Phantom, "job %d is a double of job %d", j.ID, other.ID)
		case j.Seq < 0:
			c.Slots++
		}
		stored[j.Seq] = j
		if j.State == "" {
			c.violate(Lost, "job %d (%x) has no end; %d runs", j.ID, j.Seq, len(c.byJob[j.ID]))
		}
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
	}
	for _, r := range c.runs {
		if r.Seq > 0 && c.intents[r.Seq] == nil || r.Seq <= 0 && c.job[r.Job] == nil {
			c.violate(Phantom, "job %d ran, nobody enqueued it", r.Job)
		}
	}
}

// reruns: between two runs of a job lies a reason, and the database wrote it
// down.
func (c *checker) reruns() {
	for id, runs := range c.byJob {
		var last *run
		for _, r := range runs {
			if r.zombie() {
				continue
			}
			if last != nil {
				c.Reruns++
				c.rerun(c.given[id], last, r)
			}
			last = r
		}
	}
}

func (c *checker) rerun(given []Given, last, r *run) {
	if c.forgotten(last, r) {
		return
	}
	if !slices.ContainsFunc(given, func(g Given) bool { return g.At > last.Time-slack && g.At < r.Time+slack }) {
		c.violate(Rerun, "job %d: run %x by %s and run %x by %s, and nothing on record between them", r.Job, last.N, last.Process, r.N, r.Process)
	}
	over := last.killed || last.expires-slack <= r.Time
	if over {
		c.Takeovers++
	}
	switch last.note {
	case Failed, Snoozed, LeaseLost, Shutdown, Unsure:
	default:
		// It succeeded, or nobody knows: then its process or its session must have died before that was written.
		if !over {
			c.violate(Rerun, "job %d: run %x by %s ended with %q and had its session, run %x by %s came after it", r.Job, last.N, last.Process, last.note, r.N, r.Process)
		}
	}
}

// forgotten: the claim that led to a run was lost when the database crashed.
// Claims without groups do not wait for the disk: a crash within three rounds
// of the WAL writer (200 ms) takes one back as if it had never been, and its
// jobs are handed out again. A run starts soon after its claim.
func (c *checker) forgotten(last, r *run) bool {
	return last.Group == "" && slices.ContainsFunc(c.crashes, func(crash int64) bool {
		return crash < r.Time && last.Time > crash-forgets && last.Time < crash+forgets
	})
}

const forgets = 300 * slack // 1.5 s

// outcomes: a job has one end, it is that of its last run, and it is what that
// run said.
func (c *checker) outcomes() {
	succeeded, expired := map[int64]int{}, map[int64]int{}
	for _, r := range c.History {
		switch r.Step {
		case Succeeded:
			succeeded[r.Job]++
		case Expired:
			expired[r.Job]++
		}
	}
	for i := range c.Jobs {
		j := &c.Jobs[i]
		if n := succeeded[j.ID]; n > 1 || n == 1 && j.State != "c" {
			c.violate(Outcome, "job %d was reported as done %d times, it is %q", j.ID, n, j.State)
		}
		if n := expired[j.ID]; n > 1 || n == 1 && j.State != "f" {
			c.violate(Outcome, "job %d was reported as failed for good %d times, it is %q", j.ID, n, j.State)
		}
		var last *run
		failures := 0
		for _, r := range c.byJob[j.ID] {
			if r.zombie() && c.taken(r) {
				continue
			}
			last = r
			if r.note == Failed || r.note == Permanent || r.note == Unsure {
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
			case j.Run == last.N && last.note != "" && last.note != OK:
				c.violate(Outcome, "job %d is completed by run %x, which ended with %q", j.ID, j.Run, last.note)
			}
		case "f":
			losses := c.losses(j.ID, math.MaxInt64-slack)
			if failures < c.Rules.Attempts && losses < c.Rules.MaxLosses && (last == nil || last.note != Permanent) {
				c.violate(Outcome, "job %d failed after %d failures and %d losses: %s", j.ID, failures, losses, j.Error)
			}
		case "":
		default:
			c.violate(Outcome, "job %d has the outcome %q", j.ID, j.State)
		}
	}
}

// taken tells whether the job of a run was given away between the end of the
// run's session and its own: until then it is the run's, and its end counts.
func (c *checker) taken(r *run) bool {
	return slices.ContainsFunc(c.given[r.Job], func(g Given) bool { return g.At > r.expires-slack && g.At < r.end })
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
