package bench

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bearmq/bearmq"
)

// reportEvery is how often a worker process tells how far it is.
const reportEvery = 5 * time.Millisecond

// ChildMain is a worker process of a bench. It returns the exit code.
func ChildMain(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) int {
	// A Ctrl-C reaches the whole process group. The bench ends its workers.
	signal.Ignore(os.Interrupt)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	c := &child{in: gob.NewDecoder(stdin), out: gob.NewEncoder(stdout), quiet: &slog.LevelVar{}}
	c.quiet.Set(slog.LevelWarn)
	c.log = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: c.quiet}))
	if err := c.serve(ctx); err != nil && !errors.Is(err, io.EOF) {
		c.send(message{Kind: hasFailed, Err: err.Error()})
		return 1
	}
	return 0
}

// A child is the worker process's side.
type child struct {
	assignment
	in    *gob.Decoder
	log   *slog.Logger
	quiet *slog.LevelVar

	mu  sync.Mutex
	out *gob.Encoder

	mq      *bearmq.Context
	ledger  ledger
	calls   calls
	ran     atomic.Int64
	first   atomic.Int64
	started []int64
	release chan struct{} // closed at the end: the backlog's first job waits for it

	acked struct {
		sync.Mutex
		ids []int64
	}
}

func (c *child) send(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.out.Encode(m) // where nobody reads any more, standard input ends as well
}

func (c *child) serve(ctx context.Context) error {
	if err := c.in.Decode(&c.assignment); err != nil {
		return err
	}
	pool, err := openPool(ctx, c.URL, c.Database, 0, &c.calls)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := c.register(pool); err != nil {
		return err
	}
	c.send(message{Kind: isReady})

	stop := func() {}
	defer func() { stop() }()
	for {
		var next order
		if err := c.in.Decode(&next); err != nil {
			return err
		}
		switch next {
		case orderRun:
			stop = c.run(ctx, c.tellRan, func(err error) { c.report(err) })
		case orderStop:
			close(c.release)
			stop()
		case orderProbe:
			c.quiet.Set(slog.LevelError + 1) // the server is about to be crashed
			c.mq.AddEventHandler(c.note)
			c.Orchestrate = false
			stop = c.run(ctx, c.tellAcked, func(error) {})
		}
	}
}

func (c *child) register(pool *pgxpool.Pool) (err error) {
	opts := bearmq.Options{Logger: c.log}
	if c.Retention != keepDefault {
		opts.Retention = libraryRetention(c.Retention)
	}
	if c.mq, err = bearmq.New(pool, opts); err != nil {
		return err
	}
	c.ledger = newLedger(c.Jobs)
	if c.SampleEvery > 0 {
		c.started = make([]int64, c.Jobs/c.SampleEvery+1)
	}
	c.release = make(chan struct{})
	for n, def := range c.Shape.definitions() {
		if c.Shape.Names > 1 && n != c.Process {
			continue
		}
		if err := c.mq.Register(def.Handle(c.handle)); err != nil {
			return err
		}
	}
	if err := c.mq.Register(backlog.Handle(c.block)); err != nil {
		return err
	}
	return c.mq.Register(probe.Handle(func(context.Context, *bearmq.Job[int]) error { return nil }))
}

// libraryRetention is a retention of the command line as the library wants it.
func libraryRetention(d time.Duration) time.Duration {
	if d == 0 {
		return bearmq.NoRetention
	}
	return d
}

// handle is the handler of the measured jobs.
func (c *child) handle(ctx context.Context, job *bearmq.Job[payload]) error {
	i := job.Payload.I
	if c.ran.Load() == 0 {
		c.first.CompareAndSwap(0, time.Now().UnixNano())
	}
	if c.SampleEvery > 0 && i%c.SampleEvery == 0 {
		atomic.StoreInt64(&c.started[i/c.SampleEvery], time.Now().UnixNano())
	}
	c.ledger.add(i)
	if c.Handler > 0 {
		t := time.NewTimer(c.Handler)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	c.ran.Add(1)
	return nil
}

// block is the handler of the backlog: its first job keeps the others waiting.
func (c *child) block(ctx context.Context, _ *bearmq.Job[int]) error {
	select {
	case <-c.release:
	case <-ctx.Done():
	}
	return nil
}

// run starts a worker and returns what stops it and then reports. Meanwhile
// tell is called again and again.
func (c *child) run(ctx context.Context, tell func(), report func(error)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	daemons := []bearmq.Daemon{bearmq.NewWorker(c.mq, bearmq.WorkerOptions{Concurrency: c.Slots})}
	if c.Orchestrate {
		daemons = append(daemons, bearmq.NewOrchestrator(c.mq, bearmq.OrchestratorOptions{}))
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		err := bearmq.Run(ctx, daemons...)
		if ctx.Err() == nil {
			c.send(message{Kind: hasFailed, Err: fmt.Sprintf("the worker has ended by itself: %v", err)})
			return
		}
		report(err)
	})
	wg.Go(func() {
		tick := time.NewTicker(reportEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				tell()
			case <-ctx.Done():
				return
			}
		}
	})
	return sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
}

// tellRan tells how many jobs have run.
func (c *child) tellRan() {
	if n := c.ran.Swap(0); n > 0 {
		c.send(message{Kind: hasRun, At: time.Now().UnixNano(), Ran: int(n)})
	}
}

func (c *child) report(err error) {
	now := time.Now().UnixNano()
	m := message{Kind: isReport, At: now, Ran: int(c.ran.Swap(0)), Ledger: c.ledger, First: c.first.Load(), Started: c.started,
		Calls: c.calls.all()}
	if err != nil {
		m.Err = err.Error()
	}
	c.send(m)
}

// note collects the jobs of the probe that have succeeded, which the engine
// says once that is durable.
func (c *child) note(e bearmq.Event) {
	if s, ok := e.(bearmq.JobSucceeded); ok && s.Definition == probe.Name() {
		c.acked.Lock()
		c.acked.ids = append(c.acked.ids, int64(s.JobID))
		c.acked.Unlock()
	}
}

// tellAcked tells which of them have.
func (c *child) tellAcked() {
	c.acked.Lock()
	ids := c.acked.ids
	c.acked.ids = nil
	c.acked.Unlock()
	if len(ids) > 0 {
		c.send(message{Kind: hasSucceeded, IDs: ids})
	}
}
