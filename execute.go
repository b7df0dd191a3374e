package bearmq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/bearmq/bearmq/internal/store"
)

// A lease is what one claim brought.
type lease struct {
	id, nonce int64
	session   *session
	left      int // jobs whose end has not been written; only the finisher counts it down
}

// An attempt is one attempt at a job by this worker.
type attempt struct {
	worker  *workerRun
	job     *RawJob
	lease   *lease
	token   int64
	ticket  bool // the job has one
	alone   bool
	backoff Backoff
	timeout time.Duration
	strict  bool

	began     time.Time
	cancel    context.CancelCauseFunc
	revoked   atomic.Bool // taken away while its session lives
	cancelled atomic.Bool // to be cancelled
	completed atomic.Bool // CompleteTx has succeeded
}

// An ending is how an attempt ended.
type ending struct {
	*attempt
	op    store.Op // "" for success
	took  time.Duration
	err   error
	text  string // of the error, as it is stored
	delay time.Duration
	last  bool // no attempt is left
}

// errExited is how an attempt fails whose handler ended its goroutine.
var errExited = errors.New("bearmq: the handler exited its goroutine (runtime.Goexit or t.FailNow)")

// errNotCommitted is how an attempt fails that was to be completed by a
// transaction which was not committed.
var errNotCommitted = errors.New("bearmq: the handler returned nil, but the transaction of its CompleteTx was not committed")

// slot runs mailboxes until there is none. exited: the slot's goroutine was
// ended by a handler, in the middle of m, and this one goes on.
func (r *workerRun) slot(m *mailbox, exited bool) {
	ended := false
	defer func() {
		if !ended { // by runtime.Goexit in a handler
			go r.slot(m, true)
		}
	}()
	if !exited || r.conclude(m, m.current, errExited) {
		r.work(m)
	}
	for {
		next := r.slots.next()
		r.freed()
		if next == nil {
			break
		}
		m = next
		r.work(m)
	}
	ended = true
}

// work runs the jobs of a mailbox one after another.
func (r *workerRun) work(m *mailbox) {
	for {
		a := m.jobs[0]
		// The place that the limit of its definition has for the first job was
		// taken before the mailbox got its slot.
		if m.current != nil && !r.slots.enter(a.job.Name) {
			r.giveBack(m)
			return
		}
		h := r.mq.registry.handler(a.job.Name)
		a.began = time.Now()
		lost := a.lease.session.over(a.began)
		if stopping := r.slots.stopping(); lost || stopping || h == nil && !a.cancelled.Load() {
			r.slots.leave(a.job.Name)
			switch {
			case lost:
				r.slots.forget(m)
			case stopping:
				r.giveBack(m)
			default:
				r.orphan(m)
			}
			return
		}
		m.jobs, m.current = m.jobs[1:], a
		if !r.conclude(m, a, r.call(a, h)) {
			return
		}
	}
}

// call makes one attempt: it returns what the handler returned, or how it
// panicked. A job that was cancelled before is not begun.
func (r *workerRun) call(a *attempt, h *handler) (err error) {
	if a.cancelled.Load() {
		return ErrCancelled
	}
	ctx, cancel := context.WithCancelCause(a.lease.session.ctx)
	a.cancel = cancel
	r.slots.begin(a)
	if r.mq.observed() {
		r.mq.emit(JobStarted{a.job.about(r.name)})
	}
	if a.timeout > 0 {
		// A handler that takes no notice of its context is reported, once. It has
		// at least a second to notice.
		stuck := time.AfterFunc(a.timeout+min(max(a.timeout, time.Second), 5*time.Second), func() {
			r.mq.log.Warn("bearmq: a job is still running past its timeout", "daemon", r.name, "job", a.job.ID, "definition", a.job.Name)
			r.mq.emit(JobStuck{a.job.about(r.name), time.Since(a.began)})
		})
		timeout := time.AfterFunc(a.timeout, func() { cancel(ErrTimeout) })
		defer stuck.Stop()
		defer timeout.Stop()
	}
	defer cancel(nil)
	returned := false
	defer func() {
		if returned {
			return
		}
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	err = h.run(ctx, a.job)
	if err != nil {
		err = examined(ctx, err)
	}
	returned = true
	return err
}

// examined is a handler's error, with why its context ended: what a handler
// returns is often just "context canceled". It asks of the error all that is
// asked of it later, where a panic in its methods would end the process.
func examined(ctx context.Context, err error) error {
	_ = errors.Is(err, ErrShutdown)
	_ = classify(err)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return &causedError{err, cause}
	}
	return err
}

// A causedError is a handler's error after the end of its context, with the
// cause of that.
type causedError struct{ err, cause error }

func (e *causedError) Error() string   { return fmt.Sprintf("%v (%v)", e.err, e.cause) }
func (e *causedError) Unwrap() []error { return []error{e.err, e.cause} }

// conclude reports how an attempt ended, and tells whether the rest of its
// mailbox is to run.
func (r *workerRun) conclude(m *mailbox, a *attempt, err error) bool {
	took := time.Since(a.began)
	if a.completed.Load() {
		err = r.completion(a, err)
	}
	r.slots.end(a, took)
	r.slots.leave(a.job.Name)
	if a.lease.session.lost() {
		// Somebody else may have the job by now. What it did is refused, unless
		// nobody has taken it yet: then success is not thrown away.
		if err != nil {
			r.slots.forget(m)
			return false
		}
	}
	e := a.end(err, took)
	if a.strict && e.op == store.OpBack {
		e.op = store.OpAgain // it has started: nobody of its group may come before it now
	}
	rep := report{ends: []ending{e}}
	holds := a.strict && (e.op == store.OpRetry || e.op == store.OpAgain)
	stop := holds || r.slots.stopping() || e.op == store.OpBack || a.revoked.Load()
	if stop {
		for _, b := range m.jobs {
			rep.ends = append(rep.ends, ending{attempt: b, op: store.OpBack})
		}
		r.slots.forget(m)
	}
	if m.group != "" && len(m.jobs) == 0 {
		rep.release, rep.lease = m.group, m.lease
		if holds {
			rep.holder = a.job.ID
		}
	}
	r.finisher.add(rep)
	return len(m.jobs) > 0
}

// completion finds out whether the transaction in which the handler completed
// its job was committed: the outcome decides, not what the handler returned.
func (r *workerRun) completion(a *attempt, err error) error {
	for p := newPause(); ; {
		done, e := r.mq.store.Completing(context.WithoutCancel(r.values), int64(a.job.ID), a.lease.nonce)
		switch {
		case e != nil && !a.lease.session.lost():
			r.failing(context.WithoutCancel(r.values), "complete", e, p.next())
			continue
		case e == nil && done:
			return nil
		}
		a.completed.Store(false)
		if err == nil {
			err = errNotCommitted
		}
		return err
	}
}

// end decides what becomes of the job.
func (a *attempt) end(err error, took time.Duration) ending {
	e := ending{attempt: a, took: took, err: err}
	if err == nil {
		if a.completed.Load() {
			e.op = store.OpSettled
		}
		return e
	}
	if a.cancelled.Load() && !a.revoked.Load() {
		if e.op = store.OpCancel; err != ErrCancelled { // it had begun
			e.text = errorText(err)
		}
		return e
	}
	if errors.Is(err, ErrShutdown) || a.revoked.Load() {
		// Not the job's fault: the attempt is not counted. (Of a job that was
		// taken away the database refuses it.)
		e.op = store.OpBack
		return e
	}
	v := classify(err)
	e.text = errorText(err)
	switch {
	case v.kind == verdictSnooze:
		e.op, e.delay = store.OpAgain, v.delay
	case v.kind == verdictPermanent || a.job.Attempt >= a.job.MaxAttempts:
		e.op, e.last = store.OpFail, true
	default:
		e.op, e.delay = store.OpRetry, v.delay
		if !v.hasDelay {
			e.delay = a.backoff.Delay(a.job.Attempt)
		}
	}
	return e
}

// errorText is what is stored of an error: of a panic the stack too.
func errorText(err error) (text string) {
	defer func() {
		if v := recover(); v != nil { // in somebody's Error method
			text = sanitize(fmt.Sprintf("an error of type %T whose text panics", err), maxErrorText)
		}
	}()
	text = err.Error()
	var p *PanicError
	if errors.As(err, &p) {
		text += "\n\n" + string(p.Stack)
	}
	if text = sanitize(text, maxErrorText); text == "" {
		text = sanitize(fmt.Sprintf("an error of type %T without text", err), maxErrorText)
	}
	return text
}

// giveBack returns jobs that have not started to their place.
func (r *workerRun) giveBack(m *mailbox) {
	rep := report{}
	for _, a := range m.jobs {
		rep.ends = append(rep.ends, ending{attempt: a, op: store.OpBack})
	}
	if m.group != "" {
		rep.release, rep.lease = m.group, m.lease
		if head := m.head(); head.strict && head.ticket { // it may have started once, and holds its group
			rep.ends[0].op, rep.holder = store.OpAgain, head.job.ID
		}
	}
	r.slots.forget(m)
	r.finisher.add(rep)
}

// park leaves the first job of a mailbox to a worker that asks for its name;
// the group stays with it, so that nobody overtakes it.
func (r *workerRun) park(m *mailbox) {
	rep := report{}
	for i, a := range m.jobs {
		e := ending{attempt: a, op: store.OpBack}
		if i == 0 {
			e.op = store.OpPark
		}
		rep.ends = append(rep.ends, e)
	}
	if m.group != "" {
		rep.release, rep.lease, rep.holder = m.group, m.lease, m.jobs[0].job.ID
	}
	r.slots.forget(m)
	r.finisher.add(rep)
}

// orphan parks a mailbox whose first job has no handler here.
func (r *workerRun) orphan(m *mailbox) {
	if r.mq.observed() {
		r.mq.emit(JobOrphaned{m.jobs[0].job.about(r.name)})
	}
	r.park(m)
}

// FenceToken is a number that only rises from one holder of the job's group to
// the next. Pass it to other systems, which can then refuse what a worker
// sends that has lost its group without knowing. It is 0 for a job without a
// group. After a failover to a replica that had not received everything, it
// rises only as far as the clocks of the two servers agree.
func (j *RawJob) FenceToken() int64 {
	if j.run == nil {
		return 0
	}
	return j.run.token
}

// Logger is the Context's logger with the job's id, definition and attempt.
func (j *RawJob) Logger() *slog.Logger {
	log := slog.Default()
	if j.run != nil {
		log = j.run.worker.mq.log
	}
	return log.With("job", j.ID, "definition", j.Name, "attempt", j.Attempt)
}

// CompleteTx finishes the job in the caller's transaction: its effects and the
// job's end are committed together or not at all, exactly once. Commit before
// the handler returns. Then the job is done, whatever the handler returns; if
// the transaction is not committed, the attempt has failed.
//
// The error is [ErrLeaseLost] where the job was given to another worker: roll
// back. Until the transaction ends it holds up the recovery of this worker's
// jobs, so PostgreSQL ends it where it idles for longer than the session has
// left, at least a third of SessionTTL (idle_in_transaction_session_timeout). A
// job finished so has no result.
func (j *RawJob) CompleteTx(ctx context.Context, tx DB) error {
	if j.run == nil {
		return errors.New("bearmq: CompleteTx needs a job that a worker runs")
	}
	a := j.run
	if a.lease.session.lost() || a.revoked.Load() {
		return fmt.Errorf("bearmq: complete job %v: %w", j.ID, ErrLeaseLost)
	}
	// Even a statement that fails here may have reached the database.
	a.completed.Store(true)
	err := j.run.worker.mq.store.CompleteTx(ctx, tx, a.lease.session.id, a.lease.id, a.lease.nonce, int64(j.ID), j.Group,
		int16(j.Attempt), time.Since(a.began), nil)
	if err != nil {
		return fmt.Errorf("bearmq: complete job %v: %w", j.ID, err)
	}
	return nil
}
