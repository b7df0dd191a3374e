package history

import (
	"cmp"
	"slices"
)

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
		if last != nil && last.Job != r.Job && last.note != OK && last.note != Permanent && c.job[last.Job] != nil &&
			c.job[last.Job].Strict && c.ranAfter(last.Job, r.Time) &&
			!slices.ContainsFunc(mailbox[:len(mailbox)-1], func(before *run) bool { return c.ranAfter(before.Job, last.Time) }) {
			c.violate(Strict, "group %s: run %x of job %d by %s ended with %q (killed %v) and the job ran again, in between %s ran job %d",
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
