package bearmq

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/bearmq/bearmq/internal/store"
)

// A report is what a slot has to say at once: how attempts ended, and whether
// their group is given up. It is written in one transaction.
type report struct {
	ends    []ending
	release string // the group, "" for none
	lease   *lease // that holds it
	holder  JobID  // the job that is to hold it now, 0 for none
}

// A finisher writes how attempts ended, in group commits: one call carries
// everything that came while the last was under way. So a lone job waits for
// nobody, and a thousand share one commit.
type finisher struct {
	r *workerRun

	mu      sync.Mutex
	pending []report
	jobs    int // in pending
	kick    chan struct{}
	closing chan struct{}
	ctx     context.Context
	cancel  context.CancelFunc
	done    chan struct{}
	writing bool
}

// maxBatch bounds a call, in jobs.
const maxBatch = 4000

func newFinisher(r *workerRun) *finisher {
	f := &finisher{r: r, kick: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancel(context.WithoutCancel(r.values))
	go f.run()
	return f
}

func (f *finisher) add(rep report) {
	f.mu.Lock()
	f.pending = append(f.pending, rep)
	f.jobs += len(rep.ends)
	f.mu.Unlock()
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

// behind tells whether so much is unwritten that nothing more should be claimed.
func (f *finisher) behind() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.jobs > 2*maxBatch
}

// none tells whether everything is written.
func (f *finisher) none() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.jobs == 0 && !f.writing
}

// close waits until everything is written, for d at most.
func (f *finisher) close(d time.Duration) (written bool) {
	close(f.closing)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-f.done:
	case <-t.C:
	}
	f.cancel()
	<-f.done
	return f.none()
}

func (f *finisher) run() {
	defer close(f.done)
	for {
		batch := f.take()
		if len(batch) == 0 {
			select {
			case <-f.kick:
				continue
			case <-f.closing:
				if batch = f.take(); len(batch) == 0 {
					return
				}
			}
		}
		f.write(batch, false)
		if f.ctx.Err() != nil {
			return
		}
	}
}

// take takes out what one call writes. Two attempts at one job, of which the
// first lost its group, go apart: the database names what it refuses by the job.
func (f *finisher) take() []report {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, jobs := 0, 0
	grouped := map[JobID]bool{}
	for n < len(f.pending) && jobs < maxBatch {
		ends := f.pending[n].ends
		if slices.ContainsFunc(ends, func(e ending) bool { return grouped[e.job.ID] }) {
			break
		}
		for _, e := range ends {
			if e.job.Group != "" {
				grouped[e.job.ID] = true
			}
		}
		jobs += len(ends)
		n++
	}
	batch := f.pending[:n:n]
	f.pending = f.pending[n:]
	if len(f.pending) == 0 {
		f.pending = nil
	}
	f.writing = n > 0
	f.jobs -= jobs
	return batch
}

// write makes the call until it has an answer. replay: it was made before.
func (f *finisher) write(batch []report, replay bool) {
	defer func() {
		f.mu.Lock()
		f.writing = false
		f.mu.Unlock()
		f.r.freed()
	}()
	call := f.build(batch)
	call.Replay = replay
	for p := newPause(); ; {
		done, err := f.r.mq.store.Finish(f.ctx, call)
		if err == nil {
			f.tell(batch, done)
			return
		}
		if f.ctx.Err() != nil {
			return
		}
		if !store.Transient(err) {
			f.split(batch, call.Replay, err)
			return
		}
		// Whether it was written, nobody knows.
		call.Replay = true
		f.r.failing(f.ctx, "finish", err, p.next())
		if half := len(batch) / 2; half > 0 && store.TooSlow(err) {
			f.restore(batch)
			f.write(batch[:half], true)
			f.write(batch[half:], true)
			return
		}
	}
}

// split is for a batch that the database refuses: each report by itself, so
// that one cannot hold up the others; and the one that is refused fails its
// jobs.
func (f *finisher) split(batch []report, replay bool, err error) {
	f.restore(batch)
	if len(batch) > 1 {
		for i := range batch {
			f.write(batch[i:i+1], replay)
		}
		return
	}
	rep := &batch[0]
	f.r.mq.log.Error("bearmq: the database refuses how a job ended", "daemon", f.r.name, "job", rep.ends[0].job.ID, "error", err)
	failed := false
	for i := range rep.ends {
		e := &rep.ends[i]
		if ended := e.op == "" || e.op == store.OpFail || e.op == store.OpRetry; ended && !errors.Is(e.err, errRefused) {
			e.err = fmt.Errorf("%w: %w", errRefused, err)
			e.op, e.last, e.text, e.job.result = store.OpFail, true, errorText(e.err), nil
			failed = true
		}
	}
	if !failed {
		// Nothing can be written. Its lease is never closed now, so recovery finds
		// the jobs when this session has ended.
		return
	}
	rep.holder = 0
	f.write(batch, replay)
}

var errRefused = errors.New("bearmq: the database refuses how the attempt ended")

// restore takes back what build has counted.
func (f *finisher) restore(batch []report) {
	for _, rep := range batch {
		for _, e := range rep.ends {
			e.lease.left++
		}
	}
}

// build makes the call of a batch.
func (f *finisher) build(batch []report) *store.Finish {
	call := &store.Finish{}
	leases := make([]*lease, 0, 4)
	index := map[*lease]int{}
	for _, rep := range batch {
		for _, e := range rep.ends {
			if _, ok := index[e.lease]; !ok {
				index[e.lease] = 0
				leases = append(leases, e.lease)
			}
			e.lease.left--
		}
	}
	slices.SortFunc(leases, func(a, b *lease) int { return cmp.Compare(a.id, b.id) })
	for i, l := range leases {
		index[l] = i
		call.Session = l.session.id
		call.Leases = append(call.Leases, store.FinishLease{ID: l.id, Nonce: l.nonce, Closed: l.left == 0})
	}
	for _, rep := range batch {
		for _, e := range rep.ends {
			i := index[e.lease]
			if e.op == "" {
				call.Done = append(call.Done, store.FinishDone{ID: int64(e.job.ID), Lease: i, Attempt: int16(e.job.Attempt),
					Took: e.took, Result: e.job.result, Ticket: e.ticket})
				continue
			}
			call.Rest = append(call.Rest, store.FinishRest{ID: int64(e.job.ID), Lease: i, Op: e.op, Attempt: int16(e.job.Attempt),
				Took: e.took, Error: e.text, Delay: e.delay})
		}
		if rep.release != "" {
			call.Groups = append(call.Groups, store.FinishGroup{Key: rep.release, Lease: index[rep.lease], Holder: int64(rep.holder)})
		}
	}
	return call
}

// tell passes on what has been written.
func (f *finisher) tell(batch []report, done *store.Finished) {
	r := f.r
	if len(done.Turns) > 0 {
		r.ear.wake(done.Turns...)
	}
	var lost []JobID
	for _, rep := range batch {
		for _, e := range rep.ends {
			if e.op == store.OpPark || e.op == store.OpAgain || e.op == store.OpRetry {
				r.ear.ring() // it may be due before the next poll
			}
			id := int64(e.job.ID)
			if (done.Lost[e.lease.id] || done.Refused[id]) && !done.Settled[id] {
				if e.op != store.OpBack && e.op != store.OpPark {
					lost = append(lost, e.job.ID)
				}
				if done.Refused[id] {
					r.slots.revokeGroup(e.attempt) // nobody has told us yet, or the word was lost
				}
				continue
			}
			if r.mq.observed() {
				f.emit(e, done.Settled[id])
			}
		}
	}
	if len(lost) > 0 {
		r.mq.log.Warn("bearmq: jobs ended after their lease was lost, nothing of them was written", "daemon", r.name, "jobs", lost)
		r.mq.emit(LeaseLost{About{Time: time.Now(), Worker: r.name}, lost})
	}
}

func (f *finisher) emit(e ending, settled bool) {
	mq, about := f.r.mq, e.job.about(f.r.name)
	switch {
	case e.op == "" || e.op == store.OpSettled:
		mq.emit(JobSucceeded{about, e.took})
	case settled && (e.op != store.OpFail && e.op != store.OpCancel || errors.Is(e.err, errRefused)): // it had ended before
	case e.op == store.OpCancel:
		mq.emit(JobCancelled{About: about, Duration: e.took})
	case e.op == store.OpRetry:
		mq.emit(JobErrored{About: about, Err: e.err, Duration: e.took, RetryIn: e.delay, Retry: true})
	case e.op == store.OpFail:
		mq.emit(JobErrored{About: about, Err: e.err, Duration: e.took})
		mq.emit(JobExpired{About: about, Err: e.err})
	}
}
