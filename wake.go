package bearmq

import (
	"context"
	"strconv"
	"sync"
)

// A wakeHub tells the workers of this process that a lane may have work: what
// this process enqueued, and what PostgreSQL's NOTIFY says. Nobody relies on
// it: a worker that is never told finds its work by polling. The zero value is
// ready.
type wakeHub struct {
	mu       sync.Mutex
	sleepers map[*sleeper]struct{}
	stop     context.CancelFunc // of the listener, which runs while there are sleepers
	done     chan struct{}
	deaf     bool // nothing is listening
}

// A sleeper is one worker's ear.
type sleeper struct {
	rung  chan struct{} // has a word when woken
	mu    sync.Mutex
	lanes map[int32]bool
	all   bool // something may have been missed: look at every lane
	asked bool // jobs are to be cancelled, perhaps of this worker
}

// subscribe begins to listen for a worker.
func (h *wakeHub) subscribe(d *daemon) *sleeper {
	s := &sleeper{rung: make(chan struct{}, 1), lanes: map[int32]bool{}}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sleepers == nil {
		h.sleepers = map[*sleeper]struct{}{}
	}
	h.sleepers[s] = struct{}{}
	if h.stop == nil {
		ctx, stop := context.WithCancel(context.Background())
		h.stop, h.done, h.deaf = stop, make(chan struct{}), true
		go h.listen(ctx, d, h.done)
	}
	return s
}

// unsubscribe ends it. The last worker to leave waits for the listener.
func (h *wakeHub) unsubscribe(s *sleeper) {
	h.mu.Lock()
	delete(h.sleepers, s)
	var done chan struct{}
	if len(h.sleepers) == 0 && h.stop != nil {
		h.stop()
		done, h.stop = h.done, nil
	}
	h.mu.Unlock()
	if done != nil {
		<-done
	}
}

// wake tells the workers of this process that these lanes have got work.
func (h *wakeHub) wake(lanes ...int32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.sleepers {
		s.wake(lanes...)
	}
}

// lookAll makes every worker look at all its lanes.
func (h *wakeHub) lookAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.sleepers {
		s.mu.Lock()
		s.all, s.asked = true, true
		s.mu.Unlock()
		s.ring()
	}
}

// cancel makes every worker ask which of its jobs are to be cancelled.
func (h *wakeHub) cancel() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.sleepers {
		s.mu.Lock()
		s.asked = true
		s.mu.Unlock()
		s.ring()
	}
}

// hears tells whether NOTIFY arrives.
func (h *wakeHub) hears() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.deaf
}

func (h *wakeHub) setDeaf(deaf bool) {
	h.mu.Lock()
	h.deaf = deaf
	h.mu.Unlock()
}

func (s *sleeper) wake(lanes ...int32) {
	s.mu.Lock()
	for _, l := range lanes {
		s.lanes[l] = true
	}
	s.mu.Unlock()
	s.ring()
}

func (s *sleeper) ring() {
	select {
	case s.rung <- struct{}{}:
	default:
	}
}

// take returns what has been heard since the last time.
func (s *sleeper) take() (lanes []int32, all, asked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.lanes {
		lanes = append(lanes, l)
	}
	clear(s.lanes)
	all, s.all = s.all, false
	asked, s.asked = s.asked, false
	return lanes, all, asked
}

// listen hears NOTIFY for the workers, until ctx ends.
func (h *wakeHub) listen(ctx context.Context, d *daemon, done chan<- struct{}) {
	defer close(done)
	w := wire{daemon: d, channel: d.mq.store.WakeChannel(), hears: func(hears bool) {
		h.setDeaf(!hears)
		if hears {
			h.lookAll() // what was sent before this moment was not heard
		}
	}, told: func(payload string) {
		lane, err := strconv.ParseInt(payload, 10, 32)
		switch {
		case err == nil:
			h.wake(int32(lane))
		case payload == "cancel":
			h.cancel()
		}
	}}
	w.listen(ctx)
}
