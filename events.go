package bearmq

import (
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// An Event tells what has happened to a job, a schedule or a daemon in this
// process. The types of this package whose Kind is one of the constants below
// are all there are; later versions may add some.
type Event interface {
	// Kind names the event.
	Kind() Kind
	// Common is the part that all events have.
	Common() About

	event() // only this package makes events
}

// A Kind is the name of an event, for logs and metrics.
type Kind string

// The kinds of events, each with the type of its events.
const (
	KindJobDefinitionDeployed Kind = "JOB_DEFINITION_DEPLOY"            // JobDefinitionDeployed
	KindJobEnqueued           Kind = "JOB_DEFINITION_JOB_ENQUEUE"       // JobEnqueued
	KindJobDequeued           Kind = "WORKER_JOB_DEQUEUE"               // JobDequeued
	KindJobOrphaned           Kind = "WORKER_JOB_ORPHAN"                // JobOrphaned
	KindJobExpired            Kind = "WORKER_JOB_EXPIRE"                // JobExpired
	KindJobStarted            Kind = "WORKER_JOB_RUN"                   // JobStarted
	KindJobErrored            Kind = "WORKER_JOB_RUN_ERROR"             // JobErrored
	KindJobSucceeded          Kind = "WORKER_JOB_RUN_SUCCESS"           // JobSucceeded
	KindJobCancelled          Kind = "WORKER_JOB_CANCEL"                // JobCancelled
	KindJobStuck              Kind = "WORKER_JOB_STUCK"                 // JobStuck
	KindLeaseLost             Kind = "WORKER_LEASE_LOST"                // LeaseLost
	KindJobScheduled          Kind = "ORCHESTRATOR_JOB_SCHEDULE"        // JobScheduled
	KindScheduleSkipped       Kind = "ORCHESTRATOR_JOB_SCHEDULE_SKIP"   // ScheduleSkipped
	KindScheduleOrphaned      Kind = "ORCHESTRATOR_JOB_SCHEDULE_ORPHAN" // ScheduleOrphaned
	KindJobRecovered          Kind = "ORCHESTRATOR_JOB_RECOVER"         // JobRecovered
	KindGroupUnlocked         Kind = "ORCHESTRATOR_JOB_GROUP_UNLOCK"    // GroupUnlocked
	KindJobsDeleted           Kind = "ORCHESTRATOR_JOB_DELETE"          // JobsDeleted
	KindJobGroupsDeleted      Kind = "ORCHESTRATOR_JOB_GROUP_DELETE"    // JobGroupsDeleted
	KindDatabaseWarned        Kind = "ORCHESTRATOR_DATABASE_WARN"       // DatabaseWarned
	KindDaemonStarted         Kind = "DAEMON_START"                     // DaemonStarted
	KindDaemonStopped         Kind = "DAEMON_STOP"                      // DaemonStopped
	KindDaemonFailing         Kind = "DAEMON_FAIL"                      // DaemonFailing
)

// About is what an event is about. Fields that do not apply are zero.
type About struct {
	// Time is when the event happened by this machine's clock.
	Time       time.Time
	JobID      JobID
	Definition string
	Channel    string
	Group      string
	// Worker is the name of the worker or orchestrator that tells it.
	Worker string
	// Attempt counts from 1.
	Attempt int
}

// Common is the About itself; it makes a struct that embeds About an [Event],
// once it has a Kind.
func (a About) Common() About { return a }

func (About) event() {}

// about starts an event of a job.
func (j *RawJob) about(worker string) About {
	return About{
		Time:       time.Now(),
		JobID:      j.ID,
		Definition: j.Name,
		Channel:    j.Channel,
		Group:      j.Group,
		Worker:     worker,
		Attempt:    j.Attempt,
	}
}

// The events.
type (
	// JobDefinitionDeployed says that the defaults of a definition were new, or
	// had changed, and are stored.
	JobDefinitionDeployed struct{ About }

	// JobEnqueued says that a job was written.
	JobEnqueued struct {
		About
		// InTx means that it was written in a transaction that is still
		// open: the statement has succeeded, which is no proof of the commit.
		InTx bool
	}

	// JobDequeued says that a worker has claimed a job, which is about to start
	// unless it is left to another worker.
	JobDequeued struct{ About }

	// JobOrphaned says that a worker has claimed a job whose definition has no
	// handler here, and has left it to one that has.
	JobOrphaned struct{ About }

	// JobExpired says that a job has failed for good, for want of attempts or
	// because processes died of it too often.
	JobExpired struct {
		About
		Err error
		// Losses is how often the process that ran it was lost, where that is why
		// it failed; else 0.
		Losses int
	}

	// JobStarted says that a handler is called.
	JobStarted struct{ About }

	// JobErrored says that an attempt has failed.
	JobErrored struct {
		About
		Err error
		// Duration is that of the attempt.
		Duration time.Duration
		// Retry says that another attempt follows, in RetryIn.
		Retry   bool
		RetryIn time.Duration
	}

	// JobSucceeded says that a job is finished, and that is durable.
	JobSucceeded struct {
		About
		// Duration is that of the last attempt.
		Duration time.Duration
	}

	// JobCancelled says that a job is over because it was cancelled: by the
	// worker that had it, or, where Worker is empty, at the call of Cancel.
	JobCancelled struct {
		About
		// Duration is that of the attempt that was ended; 0 where none had begun.
		Duration time.Duration
		// InTx means that it was cancelled in a transaction that is still open.
		InTx bool
	}

	// JobStuck says that a handler is past its timeout and has not returned.
	JobStuck struct {
		About
		// Running is since the attempt began.
		Running time.Duration
	}

	// LeaseLost says that these jobs may run elsewhere now; what their handlers
	// here return is refused, unless it comes before that has happened.
	LeaseLost struct {
		About
		Jobs []JobID
	}

	// JobScheduled says that a slot of a schedule has made a job.
	JobScheduled struct {
		About
		// Tick is the slot.
		Tick time.Time
	}

	// ScheduleSkipped says that a slot of a schedule makes no job, because that
	// of the slot before, JobID, is not over ([OverlapSkip]).
	ScheduleSkipped struct {
		About
		// Tick is the time of the slot.
		Tick time.Time
	}

	// ScheduleOrphaned says that a slot is due of a schedule that is not
	// registered here, and is left to a process where it is.
	ScheduleOrphaned struct {
		About
		// Tick is the slot.
		Tick time.Time
	}

	// JobRecovered says that the process that ran a job was lost. The job runs
	// again, unless a JobExpired follows.
	JobRecovered struct {
		About
		// Losses is how often that has happened to it.
		Losses int
	}

	// GroupUnlocked says that one job held a group for longer than GroupUnlock,
	// and has lost it.
	GroupUnlocked struct {
		About
		HeldFor time.Duration
	}

	// JobsDeleted says that finished jobs were deleted at the end of their
	// retention.
	JobsDeleted struct {
		About
		Count int64
	}

	// JobGroupsDeleted says that the rows of idle groups were deleted.
	JobGroupsDeleted struct {
		About
		Count int64
	}

	// DatabaseWarned says that something outside BearMQ holds the database back,
	// which an orchestrator repeats while it lasts.
	DatabaseWarned struct {
		About
		// Problem says what it is, and what ends it.
		Problem string
		// Transaction is the one that has been open for too long; nil where the
		// problem is another.
		Transaction *Transaction
		Health      *Health
	}

	// DaemonStarted says that a worker or an orchestrator runs.
	DaemonStarted struct {
		About
		Daemon string
	}

	// DaemonStopped says that a worker or an orchestrator has ended. Err is nil
	// if it ended in good order.
	DaemonStopped struct {
		About
		Daemon string
		Err    error
	}

	// DaemonFailing says that a loop of a worker or an orchestrator has failed,
	// and tries again in RetryIn.
	DaemonFailing struct {
		About
		Daemon, Loop string
		Err          error
		RetryIn      time.Duration
	}
)

func (JobDefinitionDeployed) Kind() Kind { return KindJobDefinitionDeployed }
func (JobEnqueued) Kind() Kind           { return KindJobEnqueued }
func (JobDequeued) Kind() Kind           { return KindJobDequeued }
func (JobOrphaned) Kind() Kind           { return KindJobOrphaned }
func (JobExpired) Kind() Kind            { return KindJobExpired }
func (JobStarted) Kind() Kind            { return KindJobStarted }
func (JobErrored) Kind() Kind            { return KindJobErrored }
func (JobSucceeded) Kind() Kind          { return KindJobSucceeded }
func (JobCancelled) Kind() Kind          { return KindJobCancelled }
func (JobStuck) Kind() Kind              { return KindJobStuck }
func (LeaseLost) Kind() Kind             { return KindLeaseLost }
func (JobScheduled) Kind() Kind          { return KindJobScheduled }
func (ScheduleSkipped) Kind() Kind       { return KindScheduleSkipped }
func (ScheduleOrphaned) Kind() Kind      { return KindScheduleOrphaned }
func (JobRecovered) Kind() Kind          { return KindJobRecovered }
func (GroupUnlocked) Kind() Kind         { return KindGroupUnlocked }
func (JobsDeleted) Kind() Kind           { return KindJobsDeleted }
func (JobGroupsDeleted) Kind() Kind      { return KindJobGroupsDeleted }
func (DatabaseWarned) Kind() Kind        { return KindDatabaseWarned }
func (DaemonStarted) Kind() Kind         { return KindDaemonStarted }
func (DaemonStopped) Kind() Kind         { return KindDaemonStopped }
func (DaemonFailing) Kind() Kind         { return KindDaemonFailing }

// AddEventHandler calls handle, which is not nil, for each event, in line: what caused the event
// waits, so handle should be quick; it is called on several goroutines at
// once. A panic is logged and harms nobody. remove ends the calls, except for
// those under way; it may be called more than once.
func (mq *Context) AddEventHandler(handle func(Event)) (remove func()) {
	return mq.events.add(&listener{handle: handle})
}

// Subscribe gives the events on a channel that holds n of them, at least one.
// An event that finds it full is dropped and counted: a slow reader delays
// nobody. Close the subscription when done.
func (mq *Context) Subscribe(n int) *Subscription {
	events := make(chan Event, max(n, 1))
	sub := &Subscription{C: events, events: events}
	sub.remove = mq.events.add(&listener{handle: sub.deliver})
	return sub
}

// A Subscription is a channel of events, made by [Context.Subscribe].
type Subscription struct {
	// C is closed by Close.
	C <-chan Event

	remove  func()
	dropped atomic.Int64

	mu     sync.Mutex // of sending and closing
	events chan Event
	closed bool
}

func (s *Subscription) deliver(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	select {
	case s.events <- e:
	default:
		s.dropped.Add(1)
	}
}

// Dropped is how many events found the channel full.
func (s *Subscription) Dropped() int64 { return s.dropped.Load() }

// Close ends the subscription and closes C; what C holds can still be read.
// It may be called more than once.
func (s *Subscription) Close() {
	s.remove()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.events)
	}
}

// observed says whether anybody listens. Whoever makes events asks first, so
// that nobody pays for events that nobody wants.
func (mq *Context) observed() bool { return len(mq.events.listeners()) > 0 }

// emit delivers an event to everybody, in the order in which they came.
func (mq *Context) emit(e Event) {
	for _, l := range mq.events.listeners() {
		mq.deliver(l, e)
	}
}

func (mq *Context) deliver(l *listener, e Event) {
	defer func() {
		if v := recover(); v != nil {
			mq.log.Error("bearmq: an event handler panicked",
				"kind", e.Kind(), "panic", sanitize(fmt.Sprint(v), maxErrorText), "stack", string(debug.Stack()))
		}
	}()
	l.handle(e)
}

type listener struct{ handle func(Event) }

// An eventHub holds the listeners. They are read for every event and changed
// hardly ever, so a change makes a new slice. The zero value has none.
type eventHub struct {
	mu  sync.Mutex // of changes
	set atomic.Pointer[[]*listener]
}

func (h *eventHub) listeners() []*listener {
	if set := h.set.Load(); set != nil {
		return *set
	}
	return nil
}

func (h *eventHub) add(l *listener) (remove func()) {
	h.change(func(set []*listener) []*listener { return append(set, l) })
	return func() {
		h.change(func(set []*listener) []*listener {
			return slices.DeleteFunc(set, func(other *listener) bool { return other == l })
		})
	}
}

func (h *eventHub) change(edit func([]*listener) []*listener) {
	h.mu.Lock()
	defer h.mu.Unlock()
	set := edit(slices.Clone(h.listeners()))
	h.set.Store(&set)
}
