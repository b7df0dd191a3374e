package bench

import "time"

// A bench process and its worker processes talk in gob over the workers'
// standard input and output. A worker whose standard input ends, ends itself:
// nothing outlives the bench, however that ends.

// ChildCommand is the hidden command of a worker process, to be passed on to
// [ChildMain].
const ChildCommand = "bench-worker"

// An assignment is the first thing that a worker process reads.
type assignment struct {
	URL, Database string
	Shape         shape
	Jobs          int
	Process       int
	Slots         int
	Handler       time.Duration
	Retention     time.Duration // keepDefault: that of the library
	Orchestrate   bool          // with an orchestrator beside the worker
	// SampleEvery is of how many jobs one notes when it started, 0 none.
	SampleEvery int
}

// An order is what it reads after that.
type order int

const (
	orderRun   order = iota + 1 // run until told to stop
	orderStop                   // and report
	orderProbe                  // run until the end, and tell which jobs have succeeded
)

// A message is what it writes. Times are nanoseconds of the machine's clock.
type message struct {
	Kind messageKind
	At   int64
	Ran  int     // since the last message
	IDs  []int64 // that have succeeded, since the last message
	Err  string
	// of a report
	Ledger  ledger
	First   int64   // the start of the first job
	Started []int64 // of each sample, 0: not started
	Calls   map[string][]time.Duration
}

type messageKind int

const (
	isReady messageKind = iota + 1
	hasRun
	hasSucceeded
	isReport // At is when the worker had stopped
	hasFailed
)
