package bearmq

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/bearmq/bearmq/internal/store"
)

// A Daemon runs until its context ends: a [Worker], an [Orchestrator].
type Daemon interface {
	// Run runs the daemon until ctx ends, and then until what it has begun is
	// over. It fails at once where it cannot ever run: an option is invalid,
	// the schema is not migrated. Whatever happens later, it reports as a
	// [DaemonFailing] event and a log line, waits, and goes on.
	Run(ctx context.Context) error
}

// Run runs daemons side by side until ctx ends, then waits for all of them.
// Where one fails to start, the others are stopped. The error joins theirs.
func Run(ctx context.Context, daemons ...Daemon) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, len(daemons))
	for i, d := range daemons {
		wg.Go(func() {
			if errs[i] = d.Run(ctx); errs[i] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// A daemon is what workers and orchestrators share: they report failures and
// go on.
type daemon struct {
	mq   *Context
	name string
}

// start waits until the database answers and its schema fits, and stores the
// definitions. A schema that does not fit is the one thing a daemon dies of.
// It has not started, without an error, where ctx ends first.
func (d *daemon) start(ctx context.Context) (started bool, err error) {
	for b := newPause(); ; {
		err := d.mq.store.Check(ctx)
		if err == nil {
			err = d.mq.Deploy(ctx)
		}
		var version *store.SchemaVersionError
		switch {
		case err == nil:
			d.mq.log.Info("bearmq: started", "daemon", d.name, "schema", d.mq.opts.Schema)
			d.mq.emit(DaemonStarted{About{Time: time.Now(), Worker: d.name}, d.name})
			return true, nil
		case errors.As(err, &version), errors.Is(err, ErrRestored), errors.Is(err, ErrNotMigrated), errors.Is(err, ErrPooler):
			return false, fmt.Errorf("bearmq: %s cannot start: %w", d.name, err)
		}
		if !d.failing(ctx, "start", err, b.next()) {
			return false, nil
		}
	}
}

func (d *daemon) stopped(err error) {
	d.mq.log.Info("bearmq: stopped", "daemon", d.name, "error", err)
	d.mq.emit(DaemonStopped{About{Time: time.Now(), Worker: d.name}, d.name, err})
}

// failing reports that something failed and waits before it is tried again.
// It returns false where ctx has ended.
func (d *daemon) failing(ctx context.Context, what string, err error, wait time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	switch pool := d.mq.pool.Stat(); {
	case store.ReadOnly(err):
		// Its connections would be refused for ever; its name may lead to the new
		// primary by now.
		d.mq.pool.Reset()
	case errors.Is(err, context.DeadlineExceeded) && pool.AcquiredConns() >= pool.MaxConns():
		err = fmt.Errorf("all %d connections of the pool are in use, by handlers that keep them or because it is too small: %w", pool.MaxConns(), err)
	}
	d.mq.log.Warn("bearmq: failed, will try again", "daemon", d.name, "loop", what, "error", err, "in", wait)
	d.mq.emit(DaemonFailing{About{Time: time.Now(), Worker: d.name}, d.name, what, err, wait})
	return sleep(ctx, wait)
}

// sleep returns false where ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// A pause grows from one failure to the next, with jitter, so that many
// processes do not come back at the same moment.
type pause struct{ d time.Duration }

func newPause() *pause { return &pause{} }

func (p *pause) next() time.Duration {
	p.d = min(max(2*p.d, 50*time.Millisecond), 5*time.Second)
	return p.d/2 + rand.N(p.d/2)
}

func (p *pause) reset() { p.d = 0 }
