//go:build unix

package stress

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
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
	Start Step = "start"
	End   Step = "end" // Note says how

	// Of a worker's events.
	Succeeded Step = "succeeded"

	// Of the coordinator. N is the process id, Process that of the victim.
	Spawn  Step = "spawn"
	Kill   Step = "kill"   // it is dead
	Stop   Step = "stop"   // it does not run any more
	Resume Step = "resume" // it runs again
	Cut    Step = "cut"    // N database connections were ended
)

// The notes of End.
const (
	ok        = "ok"
	failed    = "failed"
	permanent = "permanent"
	snoozed   = "snoozed"
	leaseLost = "lost"
	shutdown  = "shutdown"
	unsure    = "unsure" // a CompleteTx whose commit's answer was lost
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

	order int // within its file
}

// A journal is one process's file. Each record is one write to a file opened
// for appending: what was written survives the process.
type journal struct {
	process string
	mu      sync.Mutex
	file    *os.File
	line    []byte
}

const suffix = ".history"

func openJournal(dir, process string) (*journal, error) {
	f, err := os.OpenFile(filepath.Join(dir, process+suffix), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return &journal{process: process, file: f}, nil
}

// add stamps a record and appends it. A history with holes would prove
// nothing, so an error ends the process.
func (j *journal) add(r Record) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if r.Process == "" {
		r.Process = j.process
	}
	j.line = fmt.Appendf(j.line[:0], "%d\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\n",
		now(), r.Process, r.Step, r.Seq, r.Job, r.N, r.Token, r.Attempt, r.Channel, r.Group, r.Note)
	if _, err := j.file.Write(j.line); err != nil {
		panic(fmt.Sprintf("stress: the history cannot be written: %v", err))
	}
}

// readHistory reads the files of all processes, in the order of time. A last
// line without an end was cut short by a kill, and never happened.
func readHistory(dir string) ([]Record, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		return nil, err
	}
	var all []Record
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		text = text[:bytes.LastIndexByte(text, '\n')+1]
		lines := bufio.NewScanner(bytes.NewReader(text))
		for order := 0; lines.Scan(); order++ {
			r, err := parse(lines.Text())
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			r.order = order
			all = append(all, r)
		}
		if err := lines.Err(); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	slices.SortStableFunc(all, func(a, b Record) int { return int(min(max(a.Time-b.Time, -1), 1)) })
	return all, nil
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
