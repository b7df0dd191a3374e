package bearmq

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

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

// A wire brings what is notified on one channel, by a connection of its own.
type wire struct {
	*daemon
	channel string
	hears   func(bool)           // told when it begins to hear, and when it ends
	told    func(payload string) // of each notification
}

// listen runs until ctx ends.
func (w *wire) listen(ctx context.Context) {
	told := false
	for p := newPause(); ctx.Err() == nil; {
		conn, err := w.open(ctx)
		if err == nil {
			p.reset()
			w.hears(true)
			err = w.hear(ctx, conn)
			if ctx.Err() == nil { // else another listener may hear by now
				w.hears(false)
			}
			hangUp(ctx, conn)
		}
		switch {
		case !errors.Is(err, errUnheard):
			w.failing(ctx, "listen", err, p.next())
		case told: // it will be so for ever: once is enough
			sleep(ctx, listenAgain)
		default:
			told = true
			w.failing(ctx, "listen", err, listenAgain)
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
func (w *wire) open(ctx context.Context) (*pgx.Conn, error) {
	call, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	conn, err := w.mq.store.Connect(call)
	if err != nil {
		return nil, err
	}
	_, err = conn.Exec(call, "LISTEN "+pgx.Identifier{w.channel}.Sanitize())
	word := uuid.NewString()
	if err == nil {
		err = w.mq.store.Probe(call, w.channel, word)
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

// hear waits for notifications until the connection fails.
func (w *wire) hear(ctx context.Context, conn *pgx.Conn) error {
	for {
		wait, cancel := context.WithTimeout(ctx, listenCheck-rand.N(listenCheck/4))
		n, err := conn.WaitForNotification(wait)
		idle := wait.Err() != nil && ctx.Err() == nil
		cancel()
		switch {
		case err == nil:
			w.told(n.Payload)
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
