package history

import (
	"fmt"
	"slices"
	"time"
)

// notice is how long a process that runs may take to tell its handlers that
// their session is over, and they to return, on a machine that is busy.
const notice = int64(2 * time.Second)

// trust: a worker does not believe in a session for longer than the database.
// Its handlers are told by then, or as soon as their process runs again.
func (c *checker) trust() {
	for _, r := range c.runs {
		if r.Note == Deaf || r.end <= r.expires+notice {
			continue
		}
		told := max(r.expires, r.Time)
		for _, s := range c.stops[r.Process] {
			if s.from < told+notice && s.to > told {
				told = s.to
			}
		}
		if r.end-notice > told {
			c.violate(Trust, "job %d: run %x by %s from %d to %d ended with %q, its session had ended at %d", r.Job, r.N, r.Process, r.Time, r.end, r.note, r.expires)
		}
	}
}

// restarts: what a killed process was running starts elsewhere in time, unless
// the machine itself was so slow that live processes seemed dead. Nothing is
// left to start of a job that had committed its end.
func (c *checker) restarts() {
	for _, k := range c.kills {
		if k.Note == Exit {
			continue
		}
		restarted := Restarted{Process: k.Process}
		var late []Violation
		for _, ended := range k.runs {
			runs := c.byJob[ended.Job]
			next := slices.IndexFunc(runs, func(r *run) bool { return r.Time > k.Time && !r.zombie() })
			if next < 0 {
				continue
			}
			if c.losses(ended.Job, runs[next].Time) > 1 {
				restarted.Alone++
				continue
			}
			after := time.Duration(runs[next].Time - k.Time)
			restarted.Jobs++
			restarted.After = max(restarted.After, after)
			restarted.Slow = restarted.Slow || c.wasSlow(k.Time, runs[next].Time)
			if c.Rules.Restart > 0 && after > c.Rules.Restart {
				late = append(late, Violation{Restart, fmt.Sprintf("job %d of %s, which was killed at %d, started again after %v, by %s",
					ended.Job, k.Process, k.Time, after, runs[next].Process)})
			}
		}
		if restarted.Jobs+restarted.Alone > 0 {
			c.Restarts = append(c.Restarts, restarted)
		}
		if !restarted.Slow {
			for _, v := range late {
				c.violate(v.Class, "%s", v.Text)
			}
		}
	}
}

// wasSlow tells whether the machine was slow between two times.
func (c *checker) wasSlow(from, to int64) bool {
	return slices.ContainsFunc(c.slow, func(s span) bool { return s.from < to && s.to > from })
}

// losses counts those of a job until a time.
func (c *checker) losses(job, until int64) (n int) {
	for _, g := range c.given[job] {
		if g.At < until+slack {
			n += g.Losses
		}
	}
	return n
}
