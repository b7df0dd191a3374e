//go:build fault && unix

package fault

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A step is what a record is about.
type step string

const (
	crashed   step = "crashed"   // the server, which forgets what was committed asynchronously; of the test
	spawned   step = "spawned"   // a process; of the test
	killed    step = "killed"    // it is dead; of the test
	frozen    step = "frozen"    // it does not run until it is thawed; of the test
	thawed    step = "thawed"    // of the test
	started   step = "started"   // a handler was called
	ended     step = "ended"     // it is about to return; Note: what
	cancelled step = "cancelled" // its context has ended; Note: the cause
	noted     step = "noted"     // a handler says something
	event     step = "event"     // of the library; Kind says which
	stopped   step = "stopped"   // a process's Run has returned; Note: its error
	left      step = "left"      // a goroutine that a process left; Note: its stack
)

// A record is one line of a history. Times are of this machine's clock, which
// its processes and, but for the rows about clocks, its server share.
type record struct {
	At      time.Time
	Process string
	PID     int
	Step    step
	Run     int64 `json:",omitempty"` // of a handler: its number in the process
	Job     int64 `json:",omitempty"`
	N       int   `json:",omitempty"` // of the payload
	Group   string
	Token   int64
	Attempt int
	Kind    string // of an event
	Wait    time.Duration
	Note    string
}

// A journal is the file that a process appends its history to. What is written
// stays, however the process dies.
type journal struct {
	process string
	mu      sync.Mutex
	file    *os.File
}

func openJournal(dir, process string) (*journal, error) {
	file, err := os.OpenFile(filepath.Join(dir, process+".history"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return &journal{process: process, file: file}, nil
}

func (j *journal) add(r record) {
	r.At, r.Process, r.PID = time.Now(), cmp.Or(r.Process, j.process), cmp.Or(r.PID, os.Getpid())
	line, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := j.file.Write(append(line, '\n')); err != nil {
		panic(err)
	}
}

// history is what all processes have written, in the order of time.
func (s *scenario) history() []record {
	s.Helper()
	files, err := filepath.Glob(filepath.Join(s.dir, "*.history"))
	require.NoError(s, err)
	var all []record
	for _, name := range files {
		all = append(all, readHistory(s.T, name)...)
	}
	slices.SortStableFunc(all, func(a, b record) int { return a.At.Compare(b.At) })
	return all
}

func readHistory(t *testing.T, name string) (all []record) {
	t.Helper()
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r record
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue // the last line of a process that was killed while it wrote
		}
		all = append(all, r)
	}
	require.NoError(t, lines.Err())
	return all
}

// A where picks records.
type where func(record) bool

func is(st step) where         { return func(r record) bool { return r.Step == st } }
func by(process string) where  { return func(r record) bool { return r.Process == process } }
func of(n int) where           { return func(r record) bool { return r.N == n } }
func told(kind string) where   { return func(r record) bool { return r.Step == event && r.Kind == kind } }
func after(at time.Time) where { return func(r record) bool { return r.At.After(at) } }
func note(text string) where   { return func(r record) bool { return r.Note == text } }
func saying(text string) where { return func(r record) bool { return strings.Contains(r.Note, text) } }

// find are the records that all of these pick.
func (s *scenario) find(which ...where) []record {
	s.Helper()
	return slices.DeleteFunc(s.history(), func(r record) bool {
		return slices.ContainsFunc(which, func(w where) bool { return !w(r) })
	})
}

// await waits for a record and returns the first.
func (s *scenario) await(d time.Duration, what string, which ...where) record {
	s.Helper()
	var found []record
	s.within(d, what, func() bool {
		found = s.find(which...)
		return len(found) > 0
	})
	return found[0]
}
