package history

import (
	"fmt"
	"strconv"
	"strings"
)

// A Step is what a record is about.
type Step string

// The steps.
const (
	// Of producers. N is the number of the transaction.
	Intent   Step = "intent"   // a job is about to be written
	Undone   Step = "undone"   // the savepoint of this job was rolled back
	Commit   Step = "commit"   // the commit was acknowledged
	Rollback Step = "rollback" // nothing of the transaction may exist
	Unknown  Step = "unknown"  // the commit's answer was lost

	// Of handlers. N is the number of the run.
	Start Step = "start" // Note is Deaf for one that takes no notice of its context
	End   Step = "end"   // Note says how

	// Of a worker's events.
	Succeeded Step = "succeeded"
	Expired   Step = "expired"

	// Of whoever harms the processes. N is the process id, Process that of the
	// victim.
	Spawn  Step = "spawn"
	Kill   Step = "kill"   // it is dead; Note is Exit where it ended by itself
	Stop   Step = "stop"   // it does not run any more
	Resume Step = "resume" // it runs again
	Crash  Step = "crash"  // the database lost what it had not yet written to disk
	Slow   Step = "slow"   // the machine was: a write to the database that was not harmed has taken N ns
	Harm   Step = "harm"   // any fault, beside the step that it may have: Note is its kind, N how much of it
)

// The notes of End.
const (
	OK        = "ok"
	Failed    = "failed"
	Permanent = "permanent"
	Snoozed   = "snoozed"
	LeaseLost = "lost"
	Shutdown  = "shutdown"
	Unsure    = "unsure" // a CompleteTx whose commit's answer was lost
)

// Notes of other steps.
const (
	Deaf    = "deaf"
	Exit    = "exit"
	Delayed = " delayed" // at the end of the note of an Intent: no order is promised
)

// A Record is one line of the history. Fields that do not apply are zero.
type Record struct {
	Time    int64 // of the monotonic clock
	Process string
	Step    Step
	Seq     int64 // of the job: its payload carries it
	Job     int64 // its id
	N       int64
	Token   int64
	Attempt int
	Channel string
	Group   string
	Note    string
}

func (r Record) append(line []byte) []byte {
	return fmt.Appendf(line, "%d\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\n",
		r.Time, r.Process, r.Step, r.Seq, r.Job, r.N, r.Token, r.Attempt, r.Channel, r.Group, r.Note)
}

func parse(line string) (Record, error) {
	f := strings.Split(line, "\t")
	if len(f) != 11 {
		return Record{}, fmt.Errorf("a record of %d fields: %q", len(f), line)
	}
	var n [6]int64
	for i, field := range []int{0, 3, 4, 5, 6, 7} {
		var err error
		if n[i], err = strconv.ParseInt(f[field], 10, 64); err != nil {
			return Record{}, fmt.Errorf("%w in %q", err, line)
		}
	}
	return Record{Time: n[0], Process: f[1], Step: Step(f[2]), Seq: n[1], Job: n[2], N: n[3], Token: n[4], Attempt: int(n[5]),
		Channel: f[8], Group: f[9], Note: f[10]}, nil
}

// Text makes an error fit into the note of a record.
func Text(err error) string { return strings.NewReplacer("\t", " ", "\n", " ").Replace(err.Error()) }
