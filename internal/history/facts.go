package history

import "time"

// Facts are everything that is known afterwards: what the processes wrote, and
// what the database holds. Times are of the monotonic clock.
type Facts struct {
	History  []Record
	Jobs     []Job
	Sessions []Session
	Given    []Given
	Effects  []Effect
	Rules    Rules
}

// Rules are the settings that the promises depend on.
type Rules struct {
	Attempts  int           // of each job
	MaxLosses int           // of each job
	Restart   time.Duration // by when the jobs of a killed process have started elsewhere; 0: not judged
}

// A Job is a job as the database holds it. One that a schedule made has for a
// Seq the time of its slot, negative.
type Job struct {
	ID, Seq  int64
	Strict   bool   // its group order
	State    string // of its outcome: c, f, x; "" while it has none
	Finished int64
	Attempt  int
	Run      int64 // its result: whose end was accepted; 0: none
	Error    string
}

// A Session is the life of a worker.
type Session struct {
	PID             int64
	Started, Expire int64
}

// Given says that a job was given a ticket, or back by a lease that had it: the
// record that its next run needs.
type Given struct {
	Job    int64
	At     int64
	Losses int
}

// An Effect is what a job's CompleteTx committed with it.
type Effect struct{ Seq, Run int64 }
