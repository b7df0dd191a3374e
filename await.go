package bearmq

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/bearmq/bearmq/internal/store"
)

// Await waits until a job is over, whatever process runs it. The error is nil
// where it is completed, a [*JobFailedError] where it has failed or was
// cancelled, and [ErrJobNotFound] where there is no such job: its transaction is
// not committed, or its retention has ended. When ctx ends first, the error is
// its cause. All who wait in one process share a connection beside the pool.
func (mq *Context) Await(ctx context.Context, id JobID) error {
	_, err := mq.await(ctx, id)
	return err
}

// Await is [Context.Await], and returns the result of the job.
func (d *ResultDefinition[In, Out]) Await(ctx context.Context, mq *Context, id JobID) (Out, error) {
	raw, err := mq.await(ctx, id)
	return decodeResult[Out](id, raw, err)
}

func (mq *Context) await(ctx context.Context, id JobID) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("bearmq: await job %v: %w", id, context.Cause(ctx))
	}
	end := make(chan awaited, 1)
	mq.awaits.add(mq, id, end)
	select {
	case a := <-end:
		if a.err != nil {
			return nil, fmt.Errorf("bearmq: await job %v: %w", id, a.err)
		}
		return a.result(id)
	case <-ctx.Done():
		mq.awaits.remove(id, end)
		return nil, fmt.Errorf("bearmq: await job %v: %w", id, context.Cause(ctx))
	}
}

// awaited is what one who waits is told.
type awaited struct {
	store.End
	err error // nobody can find out
}

func (a *awaited) result(id JobID) ([]byte, error) {
	switch {
	case !a.Known:
		return nil, fmt.Errorf("bearmq: await job %v: %w", id, ErrJobNotFound)
	case a.State == "c":
		return a.Result, nil
	case a.State == "x":
		return nil, &JobFailedError{ID: id, State: StateCancelled, Message: a.Error}
	default:
		return nil, &JobFailedError{ID: id, State: StateFailed, Message: a.Error}
	}
}

// decodeResult makes an Out of a job's result, where there is one.
func decodeResult[Out any](id JobID, raw []byte, err error) (Out, error) {
	var out Out
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		return out, fmt.Errorf("bearmq: the result of job %v does not decode into %T: %w", id, out, err)
	}
	return out, nil
}

// An awaitHub waits for the ends of jobs, for all of this process who do. While
// somebody waits, one goroutine listens on a connection of its own, and another
// looks at what was notified; and at everything now and then, for nobody relies
// on notifications. The zero value is ready.
type awaitHub struct {
	mu      sync.Mutex
	waiting map[JobID][]chan<- awaited
	ask     []int64 // to look at now: new ones, and those that were notified
	hears   bool
	anew    bool          // it has begun to hear
	kick    chan struct{} // has a word when there is something to do; nil while nothing runs
}

const (
	// awaitTTL is how long a process is believed to wait without a sign of it.
	awaitTTL = 30 * time.Second
	// awaitLinger is how long it stays ready when nobody waits any more.
	awaitLinger = 5 * time.Second
	// awaitLook is how often it looks at all jobs that are waited for, and
	// awaitDeaf how often where notifications do not arrive.
	awaitLook = 2 * time.Second
	awaitDeaf = 250 * time.Millisecond
	// awaitChunk is how many jobs it looks at in one statement.
	awaitChunk = 2000
)

func (h *awaitHub) add(mq *Context, id JobID, end chan<- awaited) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waiting == nil {
		h.waiting = map[JobID][]chan<- awaited{}
	}
	h.waiting[id] = append(h.waiting[id], end)
	h.ask = append(h.ask, int64(id))
	if h.kick == nil {
		h.kick = make(chan struct{}, 1)
		go h.run(&daemon{mq: mq, name: "await"}, h.kick)
	}
	h.ring()
}

func (h *awaitHub) remove(id JobID, end chan<- awaited) {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := h.waiting[id][:0]
	for _, other := range h.waiting[id] {
		if other != end {
			left = append(left, other)
		}
	}
	if h.waiting[id] = left; len(left) == 0 {
		delete(h.waiting, id)
	}
}

// ring is called with the lock.
func (h *awaitHub) ring() {
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// told takes up a notification: ids with commas between them.
func (h *awaitHub) told(payload string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.ask)
	for text := range strings.SplitSeq(payload, ",") {
		id, err := strconv.ParseInt(text, 10, 64)
		if err == nil && h.waiting[JobID(id)] != nil {
			h.ask = append(h.ask, id)
		}
	}
	if len(h.ask) > n {
		h.ring()
	}
}

func (h *awaitHub) setHears(hears bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hears, h.anew = hears, hears
	h.ring()
}

// take returns what to look at, each once.
func (h *awaitHub) take(all bool) (ids []int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if all {
		h.ask = nil
		for id := range h.waiting {
			ids = append(ids, int64(id))
		}
		return ids
	}
	ids, h.ask = h.ask, nil
	return ids
}

// tell tells those who wait for a job how it ended.
func (h *awaitHub) tell(id JobID, a awaited) {
	h.mu.Lock()
	ends := h.waiting[id]
	delete(h.waiting, id)
	h.mu.Unlock()
	for _, end := range ends {
		end <- a // has room: each is told once
	}
}

// run looks until nobody has waited for a while.
func (h *awaitHub) run(d *daemon, kick <-chan struct{}) {
	ctx, stop := context.WithCancel(context.Background())
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		w := wire{daemon: d, channel: d.mq.store.EndsChannel(), hears: h.setHears, told: h.told}
		w.listen(ctx)
	}()
	w := awaitLoop{awaitHub: h, daemon: d, id: uuid.New()}
	for p := newPause(); w.needed(); {
		if err := w.step(ctx, kick); err != nil {
			if !store.Transient(err) {
				h.fail(err)
			}
			w.everything = true
			d.failing(ctx, "await", err, p.next())
			continue
		}
		p.reset()
	}
	stop()
	<-heard
	if !w.listed.IsZero() {
		call, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = d.mq.store.AwaitOver(call, w.id) // else it expires
	}
}

// fail tells all that nobody can find out.
func (h *awaitHub) fail(err error) {
	for _, id := range h.take(true) {
		h.tell(JobID(id), awaited{err: err})
	}
}

// An awaitLoop is one run of a hub.
type awaitLoop struct {
	*awaitHub
	*daemon
	id         uuid.UUID // of this process, as one that waits
	listed     time.Time // when the database was last told so
	everything bool      // look at all
	next       time.Time // when to look at all
	settling   int       // such looks that come soon
	quiet      time.Time // since when nobody waits
}

// needed is false once nobody has waited for a while; another may start then.
func (w *awaitLoop) needed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiting) > 0 {
		w.quiet = time.Time{}
		return true
	}
	if w.quiet.IsZero() {
		w.quiet = time.Now()
	}
	if time.Since(w.quiet) < awaitLinger {
		return true
	}
	w.kick, w.hears, w.anew = nil, false, false
	return false
}

// step looks at what there is to look at, then waits.
func (w *awaitLoop) step(ctx context.Context, kick <-chan struct{}) error {
	w.mu.Lock()
	hears, anew := w.hears, w.anew
	w.anew = false
	w.mu.Unlock()
	if hears && (anew || time.Since(w.listed) > awaitTTL/3) {
		if err := w.mq.store.Await(ctx, w.id, awaitTTL); err != nil {
			w.mu.Lock()
			w.anew = w.anew || anew
			w.mu.Unlock()
			return err
		}
		if w.listed = time.Now(); anew {
			// An end that was being written did not see that somebody waits: look at
			// all now, and a few times more.
			w.everything, w.settling = true, 3
		}
	}
	ids := w.take(w.everything)
	for len(ids) > 0 {
		n := min(len(ids), awaitChunk)
		ends, err := w.mq.store.Ends(ctx, ids[:n])
		if err != nil {
			return err
		}
		for _, e := range ends {
			if e.State != "" || !e.Known {
				w.tell(JobID(e.ID), awaited{End: e})
			}
		}
		ids = ids[n:]
	}
	if w.everything {
		w.everything = false
		wait := awaitLook
		switch {
		case !hears:
			wait = awaitDeaf
		case w.settling > 0:
			wait = 100 * time.Millisecond << (2 * (3 - w.settling))
			w.settling--
		}
		w.next = time.Now().Add(wait)
	}
	t := time.NewTimer(time.Until(w.next))
	defer t.Stop()
	select {
	case <-kick:
	case <-t.C:
		w.everything = true
	}
	return nil
}
