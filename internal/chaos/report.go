//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/bearmq/bearmq/internal/history"
)

// A result is what a run has shown.
type result struct {
	Seed       uint64
	Took       time.Duration
	Command    string // that repeats it
	Bound      time.Duration
	Summary    history.Summary
	Violations []history.Violation
	History    string // the directory, where it was left
	Soak       *soaked
}

func (r *result) code() int {
	if len(r.Violations) > 0 || r.Soak != nil && !r.Soak.flat() {
		return broken
	}
	return kept
}

// print writes it as a table, or as JSON.
func (r *result) print(w io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r.document())
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	s := r.Summary
	row := func(name string, value any, note string) { fmt.Fprintf(t, "%s\t%v\t%s\n", name, value, note) }
	row("faults", r.faults(), "")
	for _, kind := range slices.Sorted(maps.Keys(s.Faults)) {
		row("  "+kind, s.Faults[kind], "")
	}
	row("jobs", s.Acknowledged, fmt.Sprintf("acknowledged; %d rolled back, %d of which the answer was lost", s.RolledBack, s.Unknown))
	row("jobs of a schedule", s.Slots, "")
	row("groups", s.Groups, "")
	row("pairs in order", s.Pairs, "")
	row("runs", s.Runs, fmt.Sprintf("%d again, %d failed", s.Reruns, s.Failures))
	row("losses", s.Losses, "")
	row("takeovers", s.Takeovers, fmt.Sprintf("%d while the old run went on in vain", s.Zombies))
	if q := r.restarts(); q.Kills > 0 {
		row("time to recover", fmt.Sprintf("%.1f s", q.P50), fmt.Sprintf("the median of %d kills; min %.1f s, p90 %.1f s, max %.1f s, %d jobs; the bound is %v without other faults",
			q.Kills, q.Min, q.P90, q.Max, q.Jobs, r.Bound))
		if q.Alone+q.Slow > 0 {
			row("", "", fmt.Sprintf("not among them: %d jobs that were lost again and wait to run alone, %d kills while the machine was slow", q.Alone, q.Slow))
		}
	}
	row("violations", len(r.Violations), "")
	if err := t.Flush(); err != nil {
		return err
	}
	for _, v := range r.Violations {
		fmt.Fprintln(w, "  "+v.String())
	}
	if r.Soak != nil {
		if err := r.Soak.print(w); err != nil {
			return err
		}
	}
	if len(r.Violations) > 0 {
		fmt.Fprintf(w, "the history is in %s\nto repeat it: %s\n", r.History, r.Command)
	}
	return nil
}

func (r *result) faults() (n int) {
	for _, some := range r.Summary.Faults {
		n += some
	}
	return n
}

// A recovery is the distribution over the kills: the time from a SIGKILL until the
// last of the jobs that it hit had started elsewhere, in seconds.
type recovery struct {
	Kills int     `json:"kills"` // of workers that were running something
	Jobs  int     `json:"jobs"`
	Alone int     `json:"alone"` // jobs that do not count, because they were lost more than once
	Slow  int     `json:"slow"`  // kills that do not count, because the machine was slow
	Min   float64 `json:"min"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	Max   float64 `json:"max"`
}

func (r *result) restarts() recovery {
	var all []float64
	var q recovery
	for _, restarted := range r.Summary.Restarts {
		q.Alone += restarted.Alone
		switch {
		case restarted.Slow:
			q.Slow++
		case restarted.Jobs > 0:
			q.Kills++
			q.Jobs += restarted.Jobs
			all = append(all, restarted.After.Seconds())
		}
	}
	if len(all) == 0 {
		return q
	}
	slices.Sort(all)
	q.Min, q.P50, q.P90, q.Max = at(all, 0), at(all, 0.5), at(all, 0.9), at(all, 1)
	return q
}

// document is the JSON.
func (r *result) document() any {
	type violation struct {
		Class string `json:"class"`
		Text  string `json:"text"`
	}
	violations := []violation{}
	for _, v := range r.Violations {
		violations = append(violations, violation{string(v.Class), v.Text})
	}
	s := r.Summary
	return struct {
		Seed         uint64         `json:"seed"`
		Seconds      float64        `json:"seconds"`
		Command      string         `json:"command"`
		Faults       map[string]int `json:"faults"`
		Acknowledged int            `json:"acknowledged"`
		RolledBack   int            `json:"rolled_back"`
		Unknown      int            `json:"unknown"`
		Slots        int            `json:"slots"`
		Groups       int            `json:"groups"`
		Pairs        int            `json:"pairs"`
		Runs         int            `json:"runs"`
		Reruns       int            `json:"reruns"`
		Failures     int            `json:"failures"`
		Losses       int            `json:"losses"`
		Takeovers    int            `json:"takeovers"`
		Zombies      int            `json:"zombies"`
		Recovery     recovery       `json:"recovery"`
		Bound        float64        `json:"bound"`
		Violations   []violation    `json:"violations"`
		History      string         `json:"history,omitempty"`
		Soak         *soaked        `json:"soak,omitempty"`
	}{r.Seed, r.Took.Seconds(), r.Command, s.Faults, s.Acknowledged, s.RolledBack, s.Unknown, s.Slots, s.Groups, s.Pairs,
		s.Runs, s.Reruns, s.Failures, s.Losses, s.Takeovers, s.Zombies, r.restarts(), r.Bound.Seconds(), violations, r.History, r.Soak}
}
