package bearmq

import (
	"context"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// A session is the liveness of a running worker. It is renewed on a connection
// of its own, so that neither slow claims nor handlers that use up the pool can
// stop it.
//
// Its context, from which the contexts of all its jobs come, ends with
// ErrLeaseLost as soon as the database may think the session dead: the trust
// is measured from the start of the last good renewal, on the monotonic clock
// of this machine, so no clock has to agree with another.
type session struct {
	d        *daemon
	id       uuid.UUID
	ttl      time.Duration
	channels []string
	revoked  func([]int64) // the jobs that were taken away

	ctx    context.Context
	cancel context.CancelCauseFunc
	quit   chan bool // whether to end the session in the database
	ended  []JobID   // whose handlers ended after the loss; of the slots
	once   sync.Once
	done   chan struct{}
	gone   atomic.Bool // it was lost or closed, whatever else its context ended with

	born    time.Time
	trusted atomic.Int64 // until when, in nanoseconds since born
}

// beginSession starts a session and its renewal. values is what its jobs'
// contexts carry.
func beginSession(ctx, values context.Context, d *daemon, channels []string, revoked func([]int64)) (*session, error) {
	s := &session{d: d, id: uuid.New(), ttl: d.mq.opts.SessionTTL, channels: channels, revoked: revoked,
		quit: make(chan bool, 1), done: make(chan struct{})}
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	s.born = time.Now()
	s.trusted.Store(int64(s.trust()))
	host, _ := os.Hostname()
	call, cancel := context.WithTimeout(ctx, s.ttl/3)
	defer cancel()
	if err := d.mq.store.BeginSession(call, conn, s.id, s.ttl, host, os.Getpid(), channels); err != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(values))
	go s.renew(conn)
	return s, nil
}

func (s *session) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.ttl/3)
	defer cancel()
	return s.d.mq.store.Connect(ctx)
}

// trust is how long after the start of a renewal the session may be trusted:
// the margin is for the time a handler needs to notice.
func (s *session) trust() time.Duration { return s.ttl - min(s.ttl/10, 2*time.Second) }

// renew runs until the session is lost or closed.
func (s *session) renew(conn *pgx.Conn) {
	defer close(s.done)
	defer func() {
		if conn != nil {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_ = conn.Close(ctx)
			cancel()
		}
	}()
	deadline := time.AfterFunc(time.Until(s.born.Add(s.trust())), s.lose)
	defer deadline.Stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()

	told := []int64{} // what was taken away, by the last answer
	p := newPause()
	next := time.NewTimer(s.ttl / 3)
	defer next.Stop()
	for {
		select {
		case end := <-s.quit:
			if end {
				s.end(conn)
			}
			return
		case <-s.ctx.Done():
			if s.lost() {
				return
			}
			// The worker is shutting down, and its handlers still run: the
			// session lives on for them.
			select {
			case end := <-s.quit:
				if end {
					s.end(conn)
				}
				return
			case <-next.C:
			}
			ctx = context.Background()
		case <-next.C:
		}
		began := time.Now()
		var (
			revoked []int64
			alive   bool
			err     error
		)
		if conn == nil {
			conn, err = s.connect(ctx)
		}
		if err == nil {
			call, cancel := context.WithTimeout(ctx, s.ttl/6)
			revoked, alive, err = s.d.mq.store.RenewSession(call, conn, s.id, told)
			cancel()
		}
		switch {
		case err != nil:
			if conn != nil {
				drop, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
				_ = conn.Close(drop)
				cancel()
				conn = nil
			}
			most := s.ttl / 6
			wait := min(p.next(), most/2+rand.N(most/2))
			if ctx.Err() == nil {
				s.d.mq.log.Warn("bearmq: the session's renewal failed", "daemon", s.d.name, "error", err, "again in", wait)
				s.d.mq.emit(DaemonFailing{About{Time: time.Now(), Worker: s.d.name}, s.d.name, "renew", err, wait})
			}
			next.Reset(wait)
		case !alive:
			s.lose()
			return
		default:
			p.reset()
			// A renewal that began before trust ended and came back after it is
			// too late: the timer has gone off.
			until := began.Add(s.trust())
			s.trusted.Store(int64(until.Sub(s.born)))
			if deadline.Reset(time.Until(until)); s.lost() {
				return
			}
			if told = revoked; len(revoked) > 0 {
				s.revoked(revoked)
			}
			next.Reset(time.Until(began.Add(s.ttl / 3)))
		}
	}
}

// lose ends the contexts of the session's jobs. A dead session never revives.
func (s *session) lose() {
	s.gone.Store(true)
	s.cancel(ErrLeaseLost)
}

// lost tells whether the session must not be used any more.
func (s *session) lost() bool { return s.gone.Load() }

// over is lost at a time that was just read. It does not wait for the timer: where a process was stopped and runs again, its
// handlers may go on before its timers.
func (s *session) over(now time.Time) bool {
	if int64(now.Sub(s.born)) > s.trusted.Load() {
		s.lose()
	}
	return s.lost()
}

// end tells the database that nothing is held any more.
func (s *session) end(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), min(s.ttl/3, 5*time.Second))
	defer cancel()
	if conn == nil {
		return // it will expire by itself
	}
	if err := s.d.mq.store.EndSession(ctx, conn, s.id); err != nil {
		s.d.mq.log.Warn("bearmq: the session's end was not stored, it will expire", "daemon", s.d.name, "error", err)
	}
}

// close ends the session's renewal and, with end, the session itself; without,
// it is left to expire, for jobs that still run.
func (s *session) close(end bool) {
	s.once.Do(func() { s.quit <- end })
	<-s.done
	s.lose()
}
