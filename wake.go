package bearmq

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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
		s.all = true
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
func (s *sleeper) take() (lanes []int32, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.lanes {
		lanes = append(lanes, l)
	}
	clear(s.lanes)
	all, s.all = s.all, false
	return lanes, all
}

const (
	// listenCheck is how long the listener trusts a silent connection. A
	// half-open one would be silent for ever.
	listenCheck = 9 * time.Second
	// listenTimeout is how long an answer may take.
	listenTimeout = 4 * time.Second
	// listenAgain is when to try again where notifications do not arrive.
	listenAgain = time.Minute
)

// errUnheard is what a pooler in transaction mode does: it takes a LISTEN and
// gives the connection that listens to somebody else.
var errUnheard = errors.New("no notification arrives, as through a pooler in transaction mode: workers poll instead (WorkerOptions.PollInterval)")

// listen keeps a connection of its own that listens, until ctx ends.
func (h *wakeHub) listen(ctx context.Context, d *daemon, done chan<- struct{}) {
	defer close(done)
	told := false
	for p := newPause(); ctx.Err() == nil; {
		conn, err := h.open(ctx, d)
		if err == nil {
			h.setDeaf(false)
			p.reset()
			h.lookAll() // what was sent before this moment was not heard
			err = h.hear(ctx, conn)
			if ctx.Err() == nil { // else another listener may hear by now
				h.setDeaf(true)
			}
			hangUp(ctx, conn)
		}
		switch {
		case !errors.Is(err, errUnheard):
			d.failing(ctx, "listen", err, p.next())
		case told: // it will be so for ever: once is enough
			sleep(ctx, listenAgain)
		default:
			told = true
			d.failing(ctx, "listen", err, listenAgain)
		}
	}
}

func hangUp(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// open gives a connection that listens, and has heard a notification that was
// sent on another one.
func (h *wakeHub) open(ctx context.Context, d *daemon) (*pgx.Conn, error) {
	call, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	conn, err := d.mq.store.Connect(call)
	if err != nil {
		return nil, err
	}
	_, err = conn.Exec(call, "LISTEN "+pgx.Identifier{d.mq.store.NotifyChannel()}.Sanitize())
	word := uuid.NewString()
	if err == nil {
		err = d.mq.store.Probe(call, word)
	}
	for heard := false; err == nil && !heard; {
		var n *pgconn.Notification
		if n, err = conn.WaitForNotification(call); err == nil {
			heard = n.Payload == word
		} else if call.Err() != nil && ctx.Err() == nil {
			// The pooler keeps the connection that listens. Without an answer it
			// is this connection that has failed.
			undo, cancel := context.WithTimeout(ctx, listenTimeout)
			if _, err = conn.Exec(undo, "UNLISTEN *"); err == nil {
				err = errUnheard
			}
			cancel()
		}
	}
	if err != nil {
		hangUp(ctx, conn)
		return nil, err
	}
	return conn, nil
}

// hear waits for notifications until the connection fails. Their payload is
// the lane.
func (h *wakeHub) hear(ctx context.Context, conn *pgx.Conn) error {
	for {
		wait, cancel := context.WithTimeout(ctx, listenCheck-rand.N(listenCheck/4))
		n, err := conn.WaitForNotification(wait)
		idle := wait.Err() != nil && ctx.Err() == nil
		cancel()
		switch {
		case err == nil:
			if lane, err := strconv.ParseInt(n.Payload, 10, 32); err == nil {
				h.wake(int32(lane))
			}
		case !idle:
			return err
		default:
			check, cancel := context.WithTimeout(ctx, listenTimeout)
			err := conn.Ping(check)
			cancel()
			if err != nil {
				return err
			}
		}
	}
}
